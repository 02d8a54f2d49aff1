//! How many round trips to Redis does a single job take, and how many do a thousand?

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::{JobState, NewJob};
use kvstore_core::open::Opened;
use kvstore_core::{Key, Value};
use kvstore_testing::redis::RedisServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A proxy between a client and its server that counts the requests sent after an answer.
struct Counting {
    folder: tempfile::TempDir,
    count: Arc<AtomicUsize>,
}

impl Counting {
    fn before(redis: &RedisServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let count = Arc::<AtomicUsize>::default();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let (to, counted) = (redis.socket(), Arc::clone(&count));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, to.clone(), Arc::clone(&counted)));
            }
        });
        Self { folder, count }
    }

    async fn open(&self) -> Opened {
        let socket = self.folder.path().join("socket");
        let url = format!("redis+unix://{}?partitions=1", socket.display());
        kvstore_core::open(&url.parse().unwrap(), None)
            .await
            .unwrap()
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

impl Counting {
    /// Returns the count after a pause without requests.
    async fn count_when_quiet(&self) -> usize {
        let mut last = self.count();
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let count = self.count();
            if std::mem::replace(&mut last, count) == count {
                return count;
            }
        }
    }
}

async fn carry(mut client: UnixStream, to: PathBuf, round_trips: Arc<AtomicUsize>) {
    let mut server = UnixStream::connect(to).await.unwrap();
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut is_answered = true;
    loop {
        tokio::select! {
            count = client.read(&mut asked) => {
                let Ok(count @ 1..) = count else { return };
                if std::mem::take(&mut is_answered) {
                    round_trips.fetch_add(1, Ordering::SeqCst);
                }
                server.write_all(&asked[..count]).await.unwrap();
            }
            count = server.read(&mut answered) => {
                let Ok(count @ 1..) = count else { return };
                is_answered = true;
                if client.write_all(&answered[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn set(number: usize) -> NewJob {
    let key = Key::new(&format!("key:{number}")).unwrap();
    NewJob::new(Command::One(Operation::set(
        key,
        Value::parse("1").unwrap(),
    )))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_alone_is_accepted_in_one_round_trip() {
    let redis = RedisServer::start();
    let counting = Counting::before(&redis);
    let opened = counting.open().await;
    // Listeners for messages open their own connections in the meantime.
    counting.count_when_quiet().await;
    let mut took = Vec::new();
    for number in 0..3 {
        let before = counting.count();
        opened
            .queue
            .enqueue(vec![set(number)])
            .await
            .remove(0)
            .unwrap();
        took.push(counting.count() - before);
    }
    // The first job finds that the partition is not yet open to this run of the server, opens it,
    // checks that the store exists, and enqueues again.
    assert_eq!(took, [4, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_jobs_are_applied_in_five_round_trips() {
    let redis = RedisServer::start();
    let counting = Counting::before(&redis);
    let counted = counting.open().await;
    let direct = kvstore_core::open(&redis.url().parse().unwrap(), None)
        .await
        .unwrap();
    let finished = async |id: &JobId| {
        let state = direct.store.outcome(id, Duration::from_secs(30)).await;
        assert!(matches!(state, Ok(JobState::Finished(_))), "{state:?}");
    };
    // By now the server has all scripts.
    let worker = Worker::start(&counted);
    let first = direct.queue.enqueue(vec![set(0)]).await.remove(0).unwrap();
    finished(&first.id).await;
    worker.stop().await;

    let worker = Worker::start(&counted);
    let before = counting.count_when_quiet().await;
    let jobs = (0..1000).map(set).collect();
    let accepted = direct.queue.enqueue(jobs).await;
    let last = accepted.into_iter().next_back().unwrap().unwrap();
    finished(&last.id).await;
    let took = counting.count() - before;
    worker.stop().await;
    assert!(took > 0, "they were applied through here");
    assert!(took <= 5, "{took} round trips");
}

/// A worker that applies jobs until stopped.
struct Worker {
    stop: oneshot::Sender<()>,
    running: JoinHandle<kvstore_core::Result<()>>,
}

impl Worker {
    fn start(opened: &Opened) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let until = async { drop(stopped.await) };
        let options = kvstore_core::worker::Options::default();
        let (store, queue) = (opened.store.clone(), opened.queue.clone());
        let running = tokio::spawn(kvstore_core::worker::run(store, queue, options, until));
        Self { stop, running }
    }

    async fn stop(self) {
        drop(self.stop);
        self.running.await.unwrap().unwrap();
    }
}
