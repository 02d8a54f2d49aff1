//! A server over a store in memory, with a worker that each test starts when it needs it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kvstore_core::clock::{Clock, ManualClock, SystemClock};
use kvstore_core::memory::{MemoryQueue, MemoryStore};
use kvstore_core::model::commit::{Advance, Commit, Verdict};
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::Dead;
use kvstore_core::model::write::Write;
use kvstore_core::open::Opened;
use kvstore_core::queue::{QueueOptions, WorkQueue};
use kvstore_core::service::ServiceOptions;
use kvstore_core::{Key, Service, Store, Value};
use kvstore_http::{Options, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use kvstore_testing::client::{Connection, Reply, Request};
use kvstore_testing::faulty::{Faulty, Switch};

/// The configuration of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// The server's own options.
    pub(crate) options: Options,
    /// The service's options.
    pub(crate) service: ServiceOptions,
    /// The queue's options.
    pub(crate) queue: QueueOptions,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    /// The address that it listens on.
    pub(crate) address: SocketAddr,
    /// The service behind it.
    pub(crate) service: Service,
    /// The queue that its worker takes jobs from.
    queue: Arc<dyn WorkQueue>,
    /// The clock of store and queue.
    pub(crate) clock: ManualClock,
    /// Injects failures.
    pub(crate) faults: Switch,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
    worker: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server and a worker with default options.
    pub(crate) async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    /// Starts a server and a worker.
    pub(crate) async fn start_with(setup: Setup) -> Self {
        let mut server = Self::start_idle(setup).await;
        server.work();
        server
    }

    /// Starts a server without a worker: accepted writes wait in the queue.
    pub(crate) async fn start_idle(setup: Setup) -> Self {
        let clock = ManualClock::new(SystemClock.now());
        let faults = Switch::default();
        let store = MemoryStore::new(Arc::new(clock.clone()));
        let queue = MemoryQueue::new(setup.queue, Arc::new(clock.clone()));
        let store: Arc<dyn Store> = Arc::new(Faulty::new(store, faults.clone()));
        let queue: Arc<dyn WorkQueue> = Arc::new(Faulty::new(queue, faults.clone()));
        let service = Service::open(store, queue.clone(), setup.service)
            .await
            .expect("a fresh store and queue");
        Self::serve(service, queue, clock, faults, setup.options).await
    }

    /// Starts a server without a worker over a store that is already open and uses the real time.
    pub(crate) async fn start_on(opened: Opened, options: Options) -> Self {
        let service = ServiceOptions::default();
        let service = Service::open(opened.store, opened.queue.clone(), service).await;
        let service = service.expect("a store and its queue");
        let clock = ManualClock::new(SystemClock.now());
        Self::serve(service, opened.queue, clock, Switch::default(), options).await
    }

    async fn serve(
        service: Service,
        queue: Arc<dyn WorkQueue>,
        clock: ManualClock,
        faults: Switch,
        options: Options,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            // A dropped sender also stops the server.
            let _ = stopped.await;
        };
        let serving = tokio::spawn(serve(listener, service.clone(), options, shutdown));
        Self {
            address,
            service,
            queue,
            clock,
            faults,
            stop: Some(stop),
            serving,
            worker: None,
        }
    }

    /// Starts the worker: accepted writes are applied from now on.
    pub(crate) fn work(&mut self) {
        let (store, queue) = (Arc::clone(self.service.store()), Arc::clone(&self.queue));
        let options = kvstore_core::worker::Options::default();
        self.worker = Some(tokio::spawn(async move {
            kvstore_core::worker::run(store, queue, options, std::future::pending())
                .await
                .expect("the worker does not fail");
        }));
    }

    /// Stops the worker: accepted writes wait again.
    pub(crate) fn rest(&mut self) {
        self.worker.take().expect("a worker").abort();
    }

    /// Sends a request on a new connection.
    pub(crate) async fn ask(&self, request: &Request) -> Reply {
        self.connect().await.ask(request).await
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.address).await
    }

    /// Stores a value directly, bypassing the queue.
    pub(crate) async fn put(&self, key: &str, value: &str) {
        let write = Write {
            key: Key::new(key).expect("a key"),
            change: kvstore_core::model::write::Change::Set {
                value: Value::parse(value).expect("a value"),
                expires_at: None,
            },
        };
        let commit = Commit {
            writes: vec![write],
            ..Commit::default()
        };
        self.service.store().commit(commit).await.expect("a commit");
    }

    /// Turns a job into a dead letter, as a worker does that gives it up. The job must be the first
    /// of its queue.
    pub(crate) async fn bury(&self, job: &str) {
        self.bury_as(job, "buried").await;
    }

    /// Does the same with a dead letter about `key`.
    pub(crate) async fn bury_as(&self, job: &str, key: &str) {
        let id: JobId = job.parse().expect("a job id");
        let key = Key::new(key).expect("a key");
        let dead = Dead {
            reason: "it was refused".to_owned(),
            attempts: 3,
            command: kvstore_core::model::command::Operation::delete(key).into(),
        };
        let store = self.service.store();
        let from = store.applied(id.queue, id.partition).await;
        let advance = Advance {
            queue: id.queue,
            partition: id.partition,
            from: from.expect("a position"),
            to: id.position,
            outcomes: vec![(id.position, Verdict::Dead(dead))],
            lost: false,
        };
        let commit = Commit {
            advance: Some(advance),
            ..Commit::default()
        };
        store.commit(commit).await.expect("a commit");
    }

    /// Tells the server to stop.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Returns true if the server has stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.serving.is_finished()
    }

    /// Waits until the server has failed.
    pub(crate) async fn failed(&mut self) -> std::io::Error {
        let ended = (&mut self.serving)
            .await
            .expect("a server that does not panic");
        ended.expect_err("a server that does not start")
    }

    /// Waits until the server has stopped.
    pub(crate) async fn stopped(&mut self) {
        tokio::time::timeout(Duration::from_secs(20), &mut self.serving)
            .await
            .expect("a server that ends")
            .expect("a server that does not panic")
            .expect("a server that ends well");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
        if let Some(worker) = &self.worker {
            worker.abort();
        }
    }
}
