//! Is a change made once when its answer is lost, and when a copy of it comes late? And which tries
//! of a job count?

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::commit::Commit;
use kvstore_core::model::id::{PartitionCount, Position};
use kvstore_core::model::job::NewJob;
use kvstore_core::model::write::{Change, Condition, Write};
use kvstore_core::queue::{Claim, WorkerId};
use kvstore_core::redis::{Options, Redis};
use kvstore_core::{Error, Key, StoreExt, Value};
use kvstore_testing::redis::{RedisServer, free_port};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;

/// What happens to the next request that contains some text.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// It is served, and the connection is cut instead of answered.
    Answer,
    /// The connection is cut, and the request passes when [`Proxy::let_late_copies_pass`] is
    /// called.
    Request,
}

/// A proxy between a client and its server.
struct Proxy {
    folder: tempfile::TempDir,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    next: Mutex<Option<(Cut, &'static str)>>,
    cuts: AtomicUsize,
    late: Mutex<Vec<oneshot::Sender<oneshot::Sender<()>>>>,
    before_cut: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Proxy {
    fn before(server: &RedisServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shared = Arc::<Shared>::default();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let to = PathBuf::from(server.url().strip_prefix("redis+unix://").unwrap());
        tokio::spawn(accept(listener, to, Arc::clone(&shared)));
        Self { folder, shared }
    }

    async fn open(&self) -> Redis {
        let url = format!("redis+unix://{}", self.folder.path().join("s").display());
        Redis::open(&url, options(&Arc::default())).await.unwrap()
    }

    fn cut(&self, cut: Cut, marker: &'static str) {
        *self.shared.next.lock().unwrap() = Some((cut, marker));
    }

    fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// Waits until the server has answered them, and returns their number.
    async fn let_late_copies_pass(&self) -> usize {
        let late = std::mem::take(&mut *self.shared.late.lock().unwrap());
        let count = late.len();
        for pass in late {
            let (done, answered) = oneshot::channel();
            pass.send(done).unwrap();
            answered.await.unwrap();
        }
        count
    }
}

/// Returns options with one partition, and a clock that `skew` moves.
fn options(skew: &Arc<AtomicI64>) -> Options {
    Options {
        partitions: Some(PartitionCount::ONE),
        skew_ms: Arc::clone(skew),
        ..Options::default()
    }
}

async fn accept(listener: UnixListener, to: PathBuf, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let (to, shared) = (to.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            carry(client, UnixStream::connect(to).await.unwrap(), &shared).await
        });
    }
}

/// Carries bytes both ways until one side ends, or the connection is cut.
async fn carry<S: AsyncRead + AsyncWrite + Unpin>(mut client: S, mut server: S, shared: &Shared) {
    let (mut asked, mut answered) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        tokio::select! {
            count = client.read(&mut asked) => {
                let Ok(count @ 1..) = count else { return };
                let request = &asked[..count];
                match shared.take(request) {
                    None => server.write_all(request).await.unwrap(),
                    Some(Cut::Answer) => {
                        server.write_all(request).await.unwrap();
                        assert_ne!(server.read(&mut answered).await.unwrap(), 0);
                        if let Some(before) = shared.before_cut.lock().unwrap().take() {
                            before();
                        }
                        shared.cuts.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    Some(Cut::Request) => {
                        let (pass, passes) = oneshot::channel();
                        shared.late.lock().unwrap().push(pass);
                        drop(client);
                        shared.cuts.fetch_add(1, Ordering::SeqCst);
                        let done = passes.await.unwrap();
                        server.write_all(request).await.unwrap();
                        assert_ne!(server.read(&mut answered).await.unwrap(), 0);
                        done.send(()).unwrap();
                        return;
                    }
                }
            }
            count = server.read(&mut answered) => {
                let Ok(count @ 1..) = count else { return };
                if client.write_all(&answered[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Shared {
    fn take(&self, request: &[u8]) -> Option<Cut> {
        let mut next = self.next.lock().unwrap();
        let (cut, marker) = (*next)?;
        let marker = marker.as_bytes();
        let is_it = request.windows(marker.len()).any(|part| part == marker);
        is_it.then(|| next.take()).map(|_| cut)
    }
}

fn set(key: &str, value: &str) -> NewJob {
    let (key, value) = (Key::new(key).unwrap(), Value::parse(value).unwrap());
    NewJob::new(Command::One(Operation::set(key, value)))
}

/// Returns the values of all jobs in the queue, in order, with their positions.
async fn queued(redis: &Redis) -> Vec<(Position, String)> {
    let queue = redis.queue();
    let claim = queue.claim(&WorkerId::new("test")).await.unwrap().remove(0);
    let jobs = queue
        .read(&claim, Position::START, 100, Duration::ZERO)
        .await
        .unwrap();
    let value = |command: &Command| serde_json::to_string(command).unwrap();
    jobs.iter()
        .map(|job| (job.id.position, value(&job.command)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_whose_answer_is_lost_are_accepted_once_under_the_ids_of_the_first_time() {
    for cut in [Cut::Answer, Cut::Request] {
        let server = RedisServer::start();
        let proxy = Proxy::before(&server);
        let redis = proxy.open().await;
        let queue = redis.queue();
        // By now the server knows the script, so the next answer is that to the jobs.
        queue.enqueue(vec![set("a", "0")]).await.remove(0).unwrap();

        proxy.cut(cut, "marked");
        let jobs = vec![
            set("a", r#""marked""#),
            set("b", r#""second""#),
            set("c", r#""third""#),
        ];
        let answers = queue.enqueue(jobs).await;
        assert_eq!(proxy.cuts(), 1, "{cut:?}");
        queue.enqueue(vec![set("a", "1")]).await.remove(0).unwrap();
        let late = usize::from(matches!(cut, Cut::Request));
        assert_eq!(proxy.let_late_copies_pass().await, late);

        let queued = queued(&redis).await;
        let values: Vec<_> = queued.iter().map(|(_, command)| command).collect();
        assert_eq!(queued.len(), 5, "{cut:?}: {values:?}");
        for (answer, (position, _)) in answers.into_iter().zip(&queued[1..]) {
            let accepted = answer.unwrap();
            assert_eq!(accepted.id.position, *position, "{cut:?}");
            assert!(!accepted.replayed);
        }
        assert!(values[1].contains("marked") && values[3].contains("third"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_made_once_and_answered_as_the_first_time() {
    for cut in [Cut::Answer, Cut::Request] {
        let server = RedisServer::start();
        let proxy = Proxy::before(&server);
        let redis = proxy.open().await;
        let store = redis.store();
        let before = store.set("a", &0).await.unwrap();

        // Made twice it would be a conflict, since no other commit creates the key.
        proxy.cut(cut, "marked");
        let key = |text| Key::new(text).unwrap();
        let write = |text| Write {
            key: key(text),
            change: Change::Set {
                value: Value::parse(r#""marked""#).unwrap(),
                expires_at: None,
            },
        };
        let committed = store
            .commit(Commit {
                checks: vec![(key("b"), Condition::Absent)],
                writes: vec![write("a"), write("b")],
                advance: None,
            })
            .await
            .unwrap();
        assert_eq!(proxy.cuts(), 1, "{cut:?}");
        assert_eq!(committed.first_version.0, before.0 + 1, "{cut:?}");
        assert_eq!(committed.existed, [true, false]);

        // A refusal is an answer too: it remains one, although the commit would be possible by now.
        proxy.cut(cut, "refused");
        let refused = store.commit(Commit {
            checks: vec![(key("refused"), Condition::Present)],
            writes: vec![write("refused")],
            advance: None,
        });
        let refused = refused.await.unwrap_err();
        assert!(matches!(refused, Error::Conflict { .. }), "{refused}");
        assert_eq!(proxy.cuts(), 2, "{cut:?}");

        let last = store.set("refused", &2).await.unwrap();
        assert_eq!(last.0, before.0 + 3, "{cut:?}");
        let late = if matches!(cut, Cut::Request) { 2 } else { 0 };
        assert_eq!(proxy.let_late_copies_pass().await, late);
        let found = store.get(&key("refused")).await.unwrap().unwrap();
        assert_eq!(found.version, last, "{cut:?}");
        let next = store.set("c", &3).await.unwrap();
        assert_eq!(next.0, last.0 + 1, "nothing happened in between");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_at_the_same_time_are_each_made_once_when_their_answers_are_lost() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server);
    let redis = proxy.open().await;
    let store = redis.store();
    let before = store.set("0", &0).await.unwrap();
    proxy.cut(Cut::Answer, "marked");
    let commits = (0..50).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { store.set(&number.to_string(), &"marked").await.unwrap() })
    });
    let mut versions = Vec::new();
    for commit in commits.collect::<Vec<_>>() {
        versions.push(commit.await.unwrap().0);
    }
    assert_eq!(proxy.cuts(), 1);
    versions.sort_unstable();
    let expected: Vec<u64> = (before.0 + 1..=before.0 + 50).collect();
    assert_eq!(versions, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_refuses_a_change_the_second_time_has_not_refused_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap().port();
    let [port, bus] = [free_port(), free_port()];
    let settings = format!(
        "--appendonly yes --appendfsync always --port {port} --cluster-enabled yes --cluster-port {bus} \
         --cluster-announce-ip 127.0.0.1 --cluster-announce-port {front}"
    );
    let server = Arc::new(RedisServer::start_with(
        &settings.split(' ').collect::<Vec<_>>(),
    ));
    server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    while !server
        .ask(&["CLUSTER", "INFO"])
        .contains("cluster_state:ok")
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let shared = Arc::<Shared>::default();
    let proxy = tokio::spawn({
        let shared = Arc::clone(&shared);
        async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { carry(client, server, &shared).await });
            }
        }
    });
    let url = format!("redis+cluster://127.0.0.1:{front}");
    let redis = Redis::open(&url, Options::default()).await.unwrap();
    let send = async |job| redis.queue().enqueue(vec![job]).await.remove(0);
    send(set("a", "1")).await.unwrap();

    // The queue is full when the change comes again, so that attempt cannot report that it was made
    // before.
    let filled = Arc::clone(&server);
    let fill = move || drop(filled.ask(&["CONFIG", "SET", "maxmemory", "1"]));
    *shared.before_cut.lock().unwrap() = Some(Box::new(fill));
    *shared.next.lock().unwrap() = Some((Cut::Answer, "marked"));
    let answer = send(set("b", r#""marked""#)).await;
    assert_eq!(shared.cuts.load(Ordering::SeqCst), 1);
    assert!(matches!(answer, Err(Error::Unknown { .. })), "{answer:?}");
    // It counts as refused only if nothing else was ever reported of it.
    let answer = send(set("c", "1")).await;
    assert!(
        matches!(answer, Err(Error::Unavailable { .. })),
        "{answer:?}"
    );
    proxy.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_is_counted_once_however_often_its_answer_is_lost() {
    const LOST: usize = 12;
    let server = RedisServer::start();
    let proxy = Proxy::before(&server);
    let redis = proxy.open().await;
    let queue = redis.queue();
    let head = enqueue(&redis, "a").await;
    let claim = claimed(&redis, "tries").await;
    // The first call sends nothing to the server, so nothing of it can be lost, nor of its
    // withdrawal.
    proxy.cut(Cut::Answer, "tries");
    for _ in 0..LOST {
        assert_eq!(queue.begin_attempt(&claim, head).await.unwrap(), 1);
        queue.withdraw_attempt(&claim, head).await.unwrap();
    }
    assert_eq!(proxy.cuts(), 0);
    // A try that was not withdrawn counts, and is recorded before the next.
    assert_eq!(queue.begin_attempt(&claim, head).await.unwrap(), 1);
    for _ in 0..LOST {
        proxy.cut(Cut::Answer, "tries");
        let answer = queue.begin_attempt(&claim, head).await;
        assert!(matches!(answer, Err(Error::Unknown { .. })), "{answer:?}");
    }
    assert_eq!(proxy.cuts(), LOST);
    assert_eq!(queue.begin_attempt(&claim, head).await.unwrap(), 2);
    queue.withdraw_attempt(&claim, head).await.unwrap();
    assert_eq!(queue.begin_attempt(&claim, head).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_claim_that_was_not_given_up_counts_a_try() {
    let server = RedisServer::start();
    let skew = Arc::default();
    let open = async || Redis::open(&server.url(), options(&skew)).await.unwrap();
    let first = open().await;
    let heads = [enqueue(&first, "a").await, enqueue(&first, "b").await];
    let begin = async |redis: &Redis, claim: &Claim, head| {
        let tries = redis.queue().begin_attempt(claim, head).await.unwrap();
        redis.queue().withdraw_attempt(claim, head).await.unwrap();
        tries
    };

    // It ends cleanly, so the next worker's try is the first.
    let claim = claimed(&first, "first").await;
    assert_eq!(begin(&first, &claim, heads[0]).await, 1);
    first.queue().release(claim).await.unwrap();
    let second = open().await;
    let claim = claimed(&second, "second").await;
    assert_eq!(begin(&second, &claim, heads[0]).await, 1);

    // It disappears without a release, perhaps in the middle of a try.
    skew.fetch_add(3_600_000, Ordering::SeqCst);
    let third = open().await;
    let claim = claimed(&third, "third").await;
    assert_eq!(begin(&third, &claim, heads[0]).await, 2);
    // For the same worker it is the same claim.
    skew.fetch_add(3_600_000, Ordering::SeqCst);
    third.queue().claim(&claim.worker).await.unwrap();
    assert_eq!(begin(&third, &claim, heads[0]).await, 2);

    // It counts for the head alone, and later workers see it.
    third.queue().release(claim).await.unwrap();
    let fourth = open().await;
    let claim = claimed(&fourth, "fourth").await;
    assert_eq!(begin(&fourth, &claim, heads[0]).await, 2);
    fourth.queue().complete(&claim, heads[0]).await.unwrap();
    assert_eq!(begin(&fourth, &claim, heads[1]).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_replaced_takes_back_no_try_of_another() {
    let server = RedisServer::start();
    let skew = Arc::default();
    let open = async || Redis::open(&server.url(), options(&skew)).await.unwrap();
    let (slow, fast) = (open().await, open().await);
    let head = enqueue(&slow, "a").await;
    let slow_claim = claimed(&slow, "slow").await;
    let begin = async |redis: &Redis, claim: &Claim| redis.queue().begin_attempt(claim, head).await;
    assert_eq!(begin(&slow, &slow_claim).await.unwrap(), 1);

    skew.fetch_add(3_600_000, Ordering::SeqCst);
    let fast_claim = claimed(&fast, "fast").await;
    for number in 2..=4 {
        assert_eq!(begin(&fast, &fast_claim).await.unwrap(), number);
    }
    // The slow one neither takes back nor adds anything.
    let late = slow.queue().withdraw_attempt(&slow_claim, head).await;
    late.unwrap();
    for number in 1..=2 {
        assert_eq!(begin(&slow, &slow_claim).await.unwrap(), number);
    }
    fast.queue().release(fast_claim.clone()).await.unwrap();
    let next = open().await;
    let claim = claimed(&next, "next").await;
    assert_eq!(begin(&next, &claim).await.unwrap(), 5);
}

async fn enqueue(redis: &Redis, key: &str) -> Position {
    let accepted = redis.queue().enqueue(vec![job(key)]).await.remove(0);
    accepted.unwrap().id.position
}

/// Claims the one partition.
async fn claimed(redis: &Redis, worker: &str) -> Claim {
    let claims = redis.queue().claim(&WorkerId::new(worker)).await;
    claims.unwrap().remove(0)
}

fn job(key: &str) -> NewJob {
    let (key, value) = (Key::new(key).unwrap(), Value::parse("1").unwrap());
    NewJob::new(Command::One(Operation::set(key, value)))
}
