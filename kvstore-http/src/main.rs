//! The server as a process: reads settings, opens the store, serves with a worker, closes.

mod descriptors;
mod reload;
mod settings;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kvstore_core::open::{Followed, Opened};
use kvstore_core::service::ServiceOptions;
use kvstore_core::worker;
use kvstore_core::{Error, Service};
use kvstore_http::{Endpoint, Listeners, Tls, Tokens, serve_when_open};
use kvstore_process::{Failure, SharedSettings, Shutdown, Waiting};
use kvstore_worker::admin::{self, Health};
use mimalloc::MiMalloc;
use tokio::sync::{OnceCell, oneshot};
use tokio::time::sleep;

use crate::settings::{Own, PROGRAM, Role, read, read_tokens};

/// Links mimalloc, which replaces `malloc`: a request makes dozens of allocations, and it needs
/// half as many instructions for them as the system's. As `#[global_allocator]` it would take a
/// slower path, for memory that has to be aligned.
#[used]
static ALLOCATOR: fn(&MiMalloc) -> u32 = MiMalloc::version;

async fn run(shared: SharedSettings, own: Own, shutdown: Shutdown) -> Result<(), Failure> {
    descriptors::raise(own.options.connections_max);
    // First the steps that can fail without touching any data.
    let mut listeners = Vec::new();
    for endpoint in &own.listen {
        let listener = endpoint.bind(own.socket_mode).await?;
        listeners.push(match &own.tls {
            Some(tls) => listener.with_tls(Arc::clone(tls)),
            None => listener,
        });
    }
    let admin_listener = match shared.admin_listen {
        Some(address) => Some(kvstore_process::bind(address).await?),
        None => None,
    };
    // Probes are answered even while the data is read.
    let health = Health::starting();
    if let Some(listener) = admin_listener {
        tracing::info!(address = %listener.local_addr()?, "answering probes");
        tokio::spawn(admin::serve(listener, health.clone()));
    }
    let until = async {
        shutdown.requested().await;
        health.drain();
    };
    let opened = OnceCell::new();
    let serving = serve_and_work(
        Listeners::new(listeners),
        &opened,
        &shared,
        own,
        &health,
        until,
    );
    let ended = Box::pin(serving).await;
    match opened.get() {
        // In every case: closing brings the files up to date and releases the folder.
        Some(opened) => {
            let closed = Followed::close(opened).await;
            ended?;
            Ok(closed?)
        }
        None => {
            if ended.is_ok() {
                tracing::info!("stopped before the store was open");
            }
            ended
        }
    }
}

/// Opens store and queue once they can be reached, and stores them in `held`. Returns a service on
/// them, and their handles for a worker if this process runs one.
async fn open(
    shared: &SharedSettings,
    role: Role,
    limits: &ServiceOptions,
    health: &Health,
    held: &OnceCell<Followed>,
) -> Result<(Service, Option<Opened>), Failure> {
    let mut waiting = Waiting::default();
    let mut retry = |error: &Error| {
        let waits = !matches!(error, Error::Locked { .. });
        if waits {
            health.wait();
            waiting.report(error);
        }
        waits
    };
    let (opened, working) = match role {
        Role::Worker | Role::Acceptor => {
            let opened = shared.open(&mut retry).await.map_err(beside)?;
            let working = (role == Role::Worker).then(|| opened.clone());
            (Followed::from(opened), working)
        }
        Role::Reader => (shared.follow(&mut retry).await?, None),
    };
    // No other code sets it.
    let _ = held.set(opened.clone());
    let Followed { store, queue } = opened;
    let service = loop {
        if role == Role::Reader {
            break Service::reading(Followed { store, queue }, limits.clone());
        }
        match Service::open(Arc::clone(&store), Arc::clone(&queue), limits.clone()).await {
            // The store or the queue may have become unreachable again.
            Err(error @ Error::Unavailable { .. }) if retry(&error) => sleep(JOIN_PERIOD).await,
            service => break service?,
        }
    };
    Ok((service, working))
}

/// Interval of the attempts to open the service while the store or the queue cannot be reached.
const JOIN_PERIOD: Duration = Duration::from_millis(500);

/// Serves until `shutdown`, and only then stops the worker, so that requests in progress see their
/// writes applied.
async fn serve_and_work(
    listeners: Listeners,
    held: &OnceCell<Followed>,
    shared: &SharedSettings,
    own: Own,
    health: &Health,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let endpoints = listeners.endpoints()?;
    let scheme = if own.tls.is_some() { "https" } else { "http" };
    let url = endpoints
        .iter()
        .find_map(|endpoint| console_url(scheme, endpoint));
    let address = listeners.address()?;
    for endpoint in endpoints.iter().filter(|endpoint| !endpoint.is_local()) {
        if own.options.tokens.is_none() {
            tracing::warn!(address = %endpoint, "any client that reaches this address may read and write everything");
        }
    }

    // Both ends are signaled by dropping a sender: `stop` stops the worker, and the worker drops
    // `alive` when it has ended.
    let (stop, stopped) = oneshot::channel::<()>();
    let (alive, ended) = oneshot::channel::<()>();
    if let (Some(path), Some(tokens)) = (own.tokens_file, &own.options.tokens) {
        tracing::info!(path = %path.display(), tokens = tokens.count(), "only these tokens are let in");
        let tokens = Arc::clone(tokens);
        tokio::spawn(reload::watch(path, move |path| read_again(path, &tokens)));
    }
    if let Some(tls) = own.tls {
        for path in tls.files().map(Path::to_owned) {
            let tls = Arc::clone(&tls);
            tokio::spawn(reload::watch(path, move |path| {
                certificate_again(path, &tls)
            }));
        }
    }
    let worker = OnceCell::new();
    let opening = async {
        let (service, working) = open(shared, own.role, &own.service, health, held).await?;
        if let Some(Opened { store, queue }) = working {
            let metrics = health.register(kvstore_worker::Metrics::new);
            let options = worker::Options {
                on_event: Some(metrics.listener()),
                ..worker::Options::default()
            };
            let working = tokio::spawn(async move {
                let _alive = alive;
                let until = async { drop(stopped.await) };
                worker::run(store, queue, options, until).await
            });
            // No other code sets it.
            let _ = worker.set(working);
        }
        let on_serving = || {
            if let Some(Followed { store, queue }) = held.get().cloned() {
                health.opened(store, queue);
            }
            tracing::info!(%address, url, store = %shared.store, worker = own.role.worker(), "serving");
            kvstore_process::notify_ready(&format!("serving on {address}"));
        };
        Ok::<_, Failure>((service, on_serving))
    };
    let until = async {
        tokio::select! {
            () = shutdown => {}
            // A worker ends by itself only if it can never continue; then no write would be
            // applied.
            _ = ended, if own.role == Role::Worker => {}
        }
    };
    let served = serve_when_open(
        listeners,
        opening,
        &own.service,
        own.options,
        health.clone(),
        until,
    )
    .await;
    drop(stop);
    if let Some(worker) = worker.into_inner() {
        worker.await??;
    }
    served
}

/// Returns the URL of the console, if the endpoint is no Unix socket. For a listener on all
/// addresses, it names the loopback address.
fn console_url(scheme: &str, endpoint: &Endpoint) -> Option<String> {
    let Endpoint::Tcp(mut address) = *endpoint else {
        return None;
    };
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(format!("{scheme}://{address}/"))
}

/// Adds the alternative to the error if another process holds the folder.
fn beside(error: Error) -> Failure {
    match error {
        Error::Locked { .. } => {
            format!("{error}: to read what it writes, start this one with --worker none").into()
        }
        error => error.into(),
    }
}

/// Reads the tokens again. An unreadable file or a bad line changes nothing: the old tokens remain
/// in force.
fn read_again(path: &Path, tokens: &Tokens) {
    match read_tokens(path) {
        Ok(newer) => {
            tokens.replace_by(newer);
            tracing::info!(path = %path.display(), tokens = tokens.count(), "the tokens were read again");
        }
        Err(reason) => {
            tracing::error!(path = %path.display(), reason, "the tokens stay as they were");
        }
    }
}

/// Reads the certificate and the key again. While only one of the two files has been replaced, they
/// may not match; then the old certificate remains in use.
fn certificate_again(path: &Path, tls: &Tls) {
    match tls.read_again() {
        Ok(()) => tracing::info!(path = %path.display(), "the certificate was read again"),
        Err(reason) => tracing::error!(reason, "the certificate stays as it was"),
    }
}

fn main() -> ExitCode {
    kvstore_process::main(&PROGRAM, read, run)
}
