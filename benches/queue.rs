//! What does it cost to accept a write durably, and to have it applied?

mod journal;
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvstore_core::clock::SystemClock;
use kvstore_core::json_file::{JsonFile, Options};
use kvstore_core::memory::{MemoryQueue, MemoryStore};
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::job::{JobState, NewJob};
use kvstore_core::open::Opened;
use kvstore_core::queue::QueueOptions;
use kvstore_core::service::{Request, ServiceOptions};
use kvstore_core::{JobQueue, Service};
use tokio::sync::oneshot;

use crate::journal::syncs;
use crate::support::{ROUNDS, Rates, Table, drive, is_wanted, key, scratch_folder, value};

/// How long each row is measured in each round.
const SPAN: Duration = Duration::from_secs(1);

/// The number of keys written: enough that two tasks rarely write the same one at once.
const KEYS: usize = 1000;

/// The numbers of concurrent tasks.
const TASKS: [usize; 3] = [1, 64, 256];

#[tokio::main]
async fn main() {
    if is_wanted("accepted") {
        accepted().await;
    }
    if is_wanted("applied") {
        applied().await;
    }
}

/// Backends, by name.
const BACKENDS: [&str; 2] = ["file", "memory"];

/// Opens a new store and queue of that name, with space for everything that is measured.
async fn open(backend: &str, folder: &Path) -> Opened {
    let queue = QueueOptions {
        jobs_max: usize::MAX,
        bytes_max: usize::MAX,
        ..QueueOptions::default()
    };
    if backend == "memory" {
        return Opened {
            store: Arc::new(MemoryStore::default()),
            queue: Arc::new(MemoryQueue::new(queue, Arc::new(SystemClock))),
        };
    }
    let options = Options {
        queue,
        // A snapshot would remove journals, and with them the marks that are counted.
        snapshot_bytes_min: u64::MAX,
        ..Options::default()
    };
    let file = JsonFile::open(folder, options)
        .await
        .expect("the folder can be opened");
    Opened {
        store: file.store(),
        queue: file.queue(),
    }
}

fn command() -> Command {
    let key = key(rand::random_range(0..KEYS));
    Command::One(Operation::set(key, value()))
}

/// Measures the time until a job is durably in the queue. None is applied.
async fn accepted() {
    let mut table = Table::new(&["accepted", "jobs/s", "p50 µs", "p99 µs", "jobs per sync"]);
    for _ in 0..ROUNDS {
        for backend in BACKENDS {
            for tasks in TASKS {
                let folder = scratch_folder();
                let opened = open(backend, folder.path()).await;
                let rates = drive(tasks, SPAN, |_, mut laps| {
                    let queue = Arc::clone(&opened.queue);
                    async move {
                        while laps.go_on() {
                            let answers = queue.enqueue(vec![NewJob::new(command())]).await;
                            assert!(answers.iter().all(Result::is_ok));
                        }
                        laps
                    }
                })
                .await;
                let per_sync = rates.calls / syncs(folder.path(), "journal-");
                add(&mut table, backend, tasks, &rates, &[per_sync]);
                opened.close().await.expect("it closes");
            }
        }
    }
    table.print("Jobs accepted (queue, `accepted`)");
}

/// Measures the time until a worker has applied the job and it is durable: the cost of a waited
/// write without HTTP.
async fn applied() {
    let mut table = Table::new(&["applied", "jobs/s", "p50 µs", "p99 µs", "jobs per sync"]);
    for _ in 0..ROUNDS {
        for backend in BACKENDS {
            for tasks in TASKS {
                let folder = scratch_folder();
                let opened = open(backend, folder.path()).await;
                let rates = with_worker(&opened, tasks).await;
                let per_sync = rates.calls / syncs(folder.path(), "journal-");
                add(&mut table, backend, tasks, &rates, &[per_sync]);
                opened.close().await.expect("it closes");
            }
        }
    }
    table.print("Jobs applied by a worker, each waited for (queue, `applied`)");
}

async fn with_worker(opened: &Opened, tasks: usize) -> Rates {
    let (stop, stopped) = oneshot::channel::<()>();
    let (store, queue) = (Arc::clone(&opened.store), Arc::clone(&opened.queue));
    let service = Service::open(Arc::clone(&store), queue.clone(), ServiceOptions::default())
        .await
        .expect("they belong together");
    let until = async { drop(stopped.await) };
    let options = kvstore_core::worker::Options::default();
    let worker = tokio::spawn(kvstore_core::worker::run(store, queue, options, until));
    let rates = drive(tasks, SPAN, |_, mut laps| {
        let service = service.clone();
        async move {
            while laps.go_on() {
                let request = Request::new(command(), Duration::from_secs(60));
                let submitted = service.submit(request).await.expect("it is accepted");
                assert!(matches!(submitted.state, JobState::Finished(_)));
            }
            laps
        }
    })
    .await;
    drop(stop);
    worker
        .await
        .expect("the worker ends well")
        .expect("and without an error");
    rates
}

fn add(table: &mut Table, backend: &str, tasks: usize, rates: &Rates, more: &[f64]) {
    let own = [rates.per_second, rates.p50_us, rates.p99_us];
    let name = format!("{backend}, {tasks} task(s)");
    table.add(&name, &[&own, more].concat());
}
