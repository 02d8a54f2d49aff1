//! The worker as a process: settings, open, run, close.

use std::process::ExitCode;
use std::time::Duration;

use kvstore_core::Error;
use kvstore_core::open::Opened;
use kvstore_core::queue::WorkQueue;
use kvstore_core::worker::{self, Options};
use kvstore_process::{
    Failure, Fallback, Program, STORE, Setting, Settings, SharedSettings, Shutdown, Waiting, within,
};
use kvstore_worker::Metrics;
use kvstore_worker::admin::{self, Health};
use mimalloc::MiMalloc;
use tokio::time::sleep;

/// Links mimalloc, which replaces `malloc`: a job makes dozens of allocations, and it needs half as
/// many instructions for them as the system's. As `#[global_allocator]` it would take a slower
/// path, for memory that has to be aligned.
#[used]
static ALLOCATOR: fn(&MiMalloc) -> u32 = MiMalloc::version;

const ATTEMPTS_MAX: Setting = Setting {
    flag: "attempts-max",
    value: "N",
    default: Fallback::Value("12"),
    allowed: "2 to 1000",
    help: "How often a job is tried before it becomes a dead letter",
};

const ADOPT_QUEUE: Setting = Setting {
    flag: "adopt-queue",
    value: "",
    default: Fallback::Value("false"),
    allowed: "true or false",
    help: "Switch to this queue for good; jobs that wait in the previous one are skipped",
};

const ACCEPT_GAP: Setting = Setting {
    flag: "accept-gap",
    value: "",
    default: Fallback::Value("false"),
    allowed: "true or false",
    help: "Continue although jobs are gone that a store restored from an older copy has not applied: they are lost",
};

/// Settings of `kvstore-http`, which may be set for both programs of an image or a pod.
const SERVER_FLAGS: [&str; 30] = [
    "listen",
    "socket-mode",
    "tls-cert",
    "tls-key",
    "worker",
    "tokens-file",
    "allow-unauthenticated",
    "cors-origin",
    "allow-host",
    "value-bytes-max",
    "body-bytes-max",
    "head-bytes-max",
    "headers-max",
    "connections-max",
    "watchers-max",
    "in-flight-bytes-max",
    "resource-wait",
    "simple-wait",
    "wait-max",
    "visible-wait",
    "idempotency-window",
    "idempotency-minimum",
    "head-timeout",
    "body-timeout",
    "request-timeout",
    "write-timeout",
    "idle-timeout",
    "watch-heartbeat",
    "drain-delay",
    "drain-timeout",
];

const PROGRAM: Program = Program {
    name: "kvstore-worker",
    version: env!("CARGO_PKG_VERSION"),
    about: "Applies the queued writes to the store, until SIGTERM",
    settings: &[ATTEMPTS_MAX, ADOPT_QUEUE, ACCEPT_GAP],
    others: &SERVER_FLAGS,
    headings: &[],
    brief: &["store", "queue", "log"],
};

fn read(settings: &mut Settings, shared: Option<&SharedSettings>) -> Option<Options> {
    let attempts_max = settings.get(&ATTEMPTS_MAX, within(2..=1000, str::parse));
    let adopt_queue = settings.switch(&ADOPT_QUEUE);
    let accept_gap = settings.switch(&ACCEPT_GAP);
    if shared.is_some_and(|shared| shared.store.is_memory()) {
        settings.refuse(
            &STORE,
            "a store in memory belongs to one process, and no other one can write to it",
        );
    }
    Some(Options {
        attempts_max: attempts_max?,
        adopt_queue: adopt_queue?,
        accept_gap: accept_gap?,
        ..Options::default()
    })
}

/// Opens store and queue, once it is this worker's turn.
async fn open(shared: &SharedSettings, health: &Health) -> kvstore_core::Result<Opened> {
    let mut stands_by = false;
    let mut waiting = Waiting::default();
    let opened = shared.open(|error| {
        if !matches!(error, Error::Locked { .. }) {
            health.wait();
            waiting.report(error);
            return true;
        }
        health.stand_by();
        if !stands_by {
            tracing::info!(holder = %error, "standing by until the folder is free");
            // The standby is fully started, so a supervisor need not wait for more.
            kvstore_process::notify_ready("standing by until the folder is free");
        }
        stands_by = true;
        true
    });
    let opened = opened.await?;
    if stands_by {
        tracing::info!("took over the folder");
    }
    Ok(opened)
}

async fn run(shared: SharedSettings, options: Options, shutdown: Shutdown) -> Result<(), Failure> {
    let listener = match shared.admin_listen {
        Some(address) => Some(kvstore_process::bind(address).await?),
        None => None,
    };
    let health = Health::starting();
    // Answers until the runtime ends, including while the last batch is finished.
    if let Some(listener) = listener {
        tracing::info!(address = %listener.local_addr()?, "answering probes");
        tokio::spawn(admin::serve(listener, health.clone()));
    }
    let metrics = health.register(Metrics::new);
    health.follow(metrics.clone());
    let options = Options {
        on_event: Some(metrics.listener()),
        ..options
    };
    let opened = tokio::select! {
        () = shutdown.clone().requested() => {
            tracing::info!("stopped before there was anything to do");
            return Ok(());
        }
        opened = open(&shared, &health) => opened?,
    };
    health.opened(opened.store.clone(), opened.queue.clone());
    kvstore_process::notify_ready("applying what waits");
    // Nothing more can come into a folder's own queue while this process holds the folder, and no
    // server can have it.
    let is_alone = shared.store.folder().is_some() && shared.queue.is_none();
    let until = async {
        tokio::select! {
            () = shutdown.requested() => {}
            () = drained(&*opened.queue), if is_alone => {
                tracing::info!("all that waited in the folder is applied");
            }
        }
        health.drain();
    };
    let ended = worker::run(opened.store.clone(), opened.queue.clone(), options, until).await;
    let closed = opened.close().await;
    Ok(ended.and(closed)?)
}

/// Returns when nothing waits in `queue`.
async fn drained(queue: &dyn WorkQueue) {
    const LOOK_EVERY: Duration = Duration::from_millis(50);
    while queue.depth().await.map_or(true, |depth| depth.jobs > 0) {
        sleep(LOOK_EVERY).await;
    }
}

fn main() -> ExitCode {
    kvstore_process::main(&PROGRAM, read, run)
}
