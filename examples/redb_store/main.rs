//! A complete store of your own: every promise of [`Store`] kept by redb, for data larger than
//! memory. `cargo test --example redb_store` runs the public conformance suite on it, unchanged;
//! `cargo run --release --example redb_store bench` compares it with `json_file`.
//!
//! The queue is a folder's: its log is durable, so accepted jobs are applied after a crash, and the
//! store records its position in the same transaction as the data. (A queue in memory would lose
//! accepted jobs.) The folder's own store stays empty.

mod bench;
mod store;
mod tables;

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvstore_core::clock::{Clock, ManualClock, SystemClock};
use kvstore_core::conformance::StoreHarness;
use kvstore_core::json_file::{JsonFile, Options};
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::queue::WorkQueue;
use kvstore_core::service::{Request, ServiceOptions};
use kvstore_core::{Key, Service, Store, StoreExt, Value, worker};
use store::RedbStore;
use tokio::sync::oneshot;

/// The maximum memory that data takes, in addition to the program's own.
const CACHE_BYTES: usize = 64 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().nth(1).is_some_and(|word| word == "bench") {
        return bench::run().await;
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data.redb");
    let store: Arc<dyn Store> =
        Arc::new(RedbStore::open(&path, CACHE_BYTES, Arc::new(SystemClock))?);
    let queue = JsonFile::open(folder.path().join("queue"), Options::default()).await?;
    let jobs: Arc<dyn WorkQueue> = queue.queue();

    let service = Service::open(store.clone(), jobs.clone(), ServiceOptions::default()).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async { drop(stopped.await) };
    let working = worker::run(store.clone(), jobs, worker::Options::default(), until);
    let working = tokio::spawn(working);

    // A queued write, as a server makes it: accepted first, then applied by the worker.
    let set = Operation::set(Key::new("user:1")?, Value::from_serialize("Ada")?);
    let request = Request::new(Command::One(set), Duration::from_secs(10));
    let submitted = service.submit(request).await?;
    println!("{} is {:?}", submitted.id, submitted.state);
    assert_eq!(
        store.get_as::<String>("user:1").await?.as_deref(),
        Some("Ada")
    );

    drop(stop);
    working.await??;
    store.close().await?;
    queue.close().await?;

    let store = RedbStore::open(&path, CACHE_BYTES, Arc::new(SystemClock))?;
    println!(
        "after a restart: {:?}",
        store.get_as::<String>("user:1").await?
    );
    Ok(())
}

/// How the suite reaches it: one file, and a clock of its own.
struct Harness {
    folder: tempfile::TempDir,
    clock: ManualClock,
    open: Mutex<Option<RedbStore>>,
}

impl Harness {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder can be made"),
            clock: ManualClock::new(Timestamp(1_763_000_000_000)),
            open: Mutex::new(None),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data.redb")
    }
}

#[async_trait::async_trait]
impl StoreHarness for Harness {
    async fn store(&self) -> Arc<dyn Store> {
        let mut open = self.open.lock().expect("no one panics with it");
        let clock = Arc::new(self.clock.clone());
        let store = open.get_or_insert_with(|| {
            RedbStore::open(&self.path(), CACHE_BYTES, clock).expect("it opens")
        });
        Arc::new(store.clone())
    }

    async fn restart(&self) {
        let open = self.open.lock().expect("no one panics with it").take();
        if let Some(store) = open {
            store.close().await.expect("it closes");
        }
    }

    async fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn set_clock(&self, to: Timestamp) {
        self.clock.set(to);
    }
}

mod suite {
    #[allow(unused_imports, reason = "the tests need it, and the program does not")]
    use super::Harness;

    kvstore_core::store_conformance!(Harness::new());
}
