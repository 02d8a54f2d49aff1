//! Does a wrapper made by a forwarding macro reach every method of the wrapped store or queue, with
//! every argument?

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kvstore_core::model::commit::{Commit, Committed};
use kvstore_core::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use kvstore_core::model::job::{Job, JobState, NewJob};
use kvstore_core::queue::{Accepted, AppliedListener, Claim, Depth, Found, WorkQueue, WorkerId};
use kvstore_core::store::{DeadPage, DeadRequest, ListRequest, Page, Watch, WatchRequest};
use kvstore_core::{Entry, Error, JobQueue, Key, Result, Store};

const WAIT: Duration = Duration::from_millis(11);

/// Records each call with its arguments, and fails it.
#[derive(Debug)]
struct Noting {
    calls: Mutex<Vec<String>>,
    id: QueueId,
}

impl Noting {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            id: QueueId::random(),
        })
    }

    fn note(&self, call: &impl Debug) -> Error {
        self.calls.lock().unwrap().push(format!("{call:?}"));
        Error::NotFound {
            what: String::new(),
        }
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

#[async_trait]
impl Store for Noting {
    fn partitions(&self) -> Option<PartitionCount> {
        PartitionCount::new(5).ok()
    }
    fn lag(&self) -> Option<Duration> {
        Some(WAIT)
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        Err(self.note(&("get", (key,))))
    }
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        Err(self.note(&("get_many", (keys,))))
    }
    async fn list(&self, request: &ListRequest) -> Result<Page> {
        Err(self.note(&("list", (request,))))
    }
    async fn commit(&self, commit: Commit) -> Result<Committed> {
        Err(self.note(&("commit", (commit,))))
    }
    async fn applied(&self, queue: QueueId, partition: Partition) -> Result<Position> {
        Err(self.note(&("applied", (queue, partition))))
    }
    async fn active_queue(&self) -> Result<Option<QueueId>> {
        Err(self.note(&("active_queue", ())))
    }
    async fn adopt_queue(&self, queue: QueueId) -> Result<()> {
        Err(self.note(&("adopt_queue", (queue,))))
    }
    async fn outcome(&self, job: &JobId, wait: Duration) -> Result<JobState> {
        Err(self.note(&("outcome", (job, wait))))
    }
    async fn expire(&self, partition: Partition) -> Result<usize> {
        Err(self.note(&("expire", (partition,))))
    }
    async fn dead(&self, request: &DeadRequest) -> Result<DeadPage> {
        Err(self.note(&("dead", (request,))))
    }
    async fn forget(&self, job: &JobId) -> Result<bool> {
        Err(self.note(&("forget", (job,))))
    }
    async fn watch(&self, request: &WatchRequest) -> Result<Watch> {
        Err(self.note(&("watch", (request,))))
    }
    async fn ping(&self) -> Result<()> {
        Err(self.note(&("ping", ())))
    }
    async fn close(&self) -> Result<()> {
        Err(self.note(&("close", ())))
    }
}

#[async_trait]
impl JobQueue for Noting {
    fn id(&self) -> QueueId {
        self.id
    }

    fn partitions(&self) -> PartitionCount {
        PartitionCount::new(5).unwrap()
    }

    async fn enqueue(&self, jobs: Vec<NewJob>) -> Vec<Result<Accepted>> {
        vec![Err(self.note(&("enqueue", jobs)))]
    }

    async fn start_after(&self, partition: Partition, position: Position) -> Result<()> {
        Err(self.note(&("start_after", (partition, position))))
    }

    async fn find(&self, job: &JobId) -> Result<Found> {
        Err(self.note(&("find", (job,))))
    }

    async fn peek(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Job>> {
        Err(self.note(&("peek", (partition, after, max))))
    }
    async fn depth(&self) -> Result<Depth> {
        Err(self.note(&("depth", ())))
    }

    async fn ping(&self) -> Result<()> {
        Err(self.note(&("ping", ())))
    }

    async fn close(&self) -> Result<()> {
        Err(self.note(&("close", ())))
    }
}

#[async_trait]
impl WorkQueue for Noting {
    fn is_shared(&self) -> bool {
        true
    }

    async fn claims_changed(&self) {
        self.note(&("claims_changed", ()));
    }

    async fn claim(&self, worker: &WorkerId) -> Result<Vec<Claim>> {
        Err(self.note(&("claim", (worker,))))
    }

    async fn release(&self, claim: Claim) -> Result<()> {
        Err(self.note(&("release", (claim,))))
    }

    async fn read(
        &self,
        claim: &Claim,
        after: Position,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Job>> {
        Err(self.note(&("read", (claim, after, max, wait))))
    }

    async fn begin_attempt(&self, claim: &Claim, head: Position) -> Result<u32> {
        Err(self.note(&("begin_attempt", (claim, head))))
    }

    async fn withdraw_attempt(&self, claim: &Claim, head: Position) -> Result<()> {
        Err(self.note(&("withdraw_attempt", (claim, head))))
    }

    async fn complete(&self, claim: &Claim, up_to: Position) -> Result<()> {
        Err(self.note(&("complete", (claim, up_to))))
    }

    fn apply_on_acceptance(&self, listener: AppliedListener) {
        self.note(&("apply_on_acceptance", (listener,)));
    }
}

/// Forwards everything.
#[derive(Debug)]
struct Wrapper<T>(T);

impl<S: Store> Store for Wrapper<S> {
    kvstore_core::forward_store!(|self| &self.0);
}

impl<Q: JobQueue> JobQueue for Wrapper<Q> {
    kvstore_core::forward_queue!(|self| &self.0);
}

impl<Q: WorkQueue> WorkQueue for Wrapper<Q> {
    kvstore_core::forward_work_queue!(|self| &self.0);
}

/// Implements two methods itself, in another order than the trait's.
#[derive(Debug)]
struct Partial<S>(S);

#[async_trait]
impl<S: Store> Store for Partial<S> {
    async fn close(&self) -> Result<()> {
        Ok(())
    }
    async fn get(&self, _: &Key) -> Result<Option<Entry>> {
        Ok(None)
    }
    kvstore_core::forward_store!(|self| &self.0; except close get);
}

fn refused<T>(answer: Result<T>) {
    assert!(matches!(answer, Err(Error::NotFound { .. })));
}

fn job() -> JobId {
    JobId {
        queue: QueueId::random(),
        partition: Partition(3),
        position: Position::counted(4),
    }
}

#[tokio::test]
async fn a_wrapped_store_gets_every_call() {
    // Twice: the inner store is an `Arc`, which forwards as well.
    let inner = Noting::new();
    let wrapper = Wrapper(Arc::clone(&inner));
    let (key, job) = (Key::new("k").unwrap(), job());
    let letters = DeadRequest {
        after: Some(job),
        limit: 3,
    };
    let mut expected = Vec::new();
    assert_eq!(Store::partitions(&wrapper), PartitionCount::new(5).ok());
    assert_eq!(wrapper.lag(), Some(WAIT));
    refused(wrapper.get(&key).await);
    expected.push(format!("{:?}", ("get", (&key,))));
    refused(wrapper.get_many(std::slice::from_ref(&key)).await);
    expected.push(format!("{:?}", ("get_many", (std::slice::from_ref(&key),))));
    refused(wrapper.list(&ListRequest::default()).await);
    expected.push(format!("{:?}", ("list", (&ListRequest::default(),))));
    refused(wrapper.commit(Commit::default()).await);
    expected.push(format!("{:?}", ("commit", (Commit::default(),))));
    refused(wrapper.applied(job.queue, job.partition).await);
    expected.push(format!("{:?}", ("applied", (job.queue, job.partition,))));
    refused(wrapper.active_queue().await);
    expected.push(format!("{:?}", ("active_queue", ())));
    refused(wrapper.adopt_queue(job.queue).await);
    expected.push(format!("{:?}", ("adopt_queue", (job.queue,))));
    refused(wrapper.outcome(&job, WAIT).await);
    expected.push(format!("{:?}", ("outcome", (&job, WAIT,))));
    refused(wrapper.expire(job.partition).await);
    expected.push(format!("{:?}", ("expire", (job.partition,))));
    refused(wrapper.dead(&letters).await);
    expected.push(format!("{:?}", ("dead", (&letters,))));
    refused(wrapper.forget(&job).await);
    expected.push(format!("{:?}", ("forget", (&job,))));
    refused(wrapper.watch(&WatchRequest::default()).await);
    expected.push(format!("{:?}", ("watch", (WatchRequest::default(),))));
    refused(Store::ping(&wrapper).await);
    expected.push(format!("{:?}", ("ping", ())));
    refused(Store::close(&wrapper).await);
    expected.push(format!("{:?}", ("close", ())));
    assert_eq!(inner.calls(), expected);
}

#[tokio::test]
async fn a_wrapped_queue_gets_every_call() {
    let inner = Noting::new();
    let wrapper = Wrapper(Arc::clone(&inner));
    let job = job();
    let claim = Claim {
        worker: WorkerId::new("w"),
        partition: job.partition,
    };
    let mut expected = Vec::new();
    assert_eq!(wrapper.id(), inner.id);
    assert_eq!(JobQueue::partitions(&wrapper).get(), 5);
    assert!(wrapper.is_shared());
    assert_eq!(wrapper.enqueue(Vec::new()).await.len(), 1);
    expected.push("(\"enqueue\", [])".to_owned());
    wrapper.claims_changed().await;
    expected.push("(\"claims_changed\", ())".to_owned());
    refused(wrapper.start_after(job.partition, job.position).await);
    expected.push(format!(
        "{:?}",
        ("start_after", (job.partition, job.position,))
    ));
    refused(wrapper.claim(&claim.worker).await);
    expected.push(format!("{:?}", ("claim", (&claim.worker,))));
    refused(wrapper.release(claim.clone()).await);
    expected.push(format!("{:?}", ("release", (claim.clone(),))));
    refused(wrapper.read(&claim, job.position, 7, WAIT).await);
    expected.push(format!("{:?}", ("read", (&claim, job.position, 7, WAIT,))));
    refused(wrapper.begin_attempt(&claim, job.position).await);
    expected.push(format!("{:?}", ("begin_attempt", (&claim, job.position,))));
    refused(wrapper.withdraw_attempt(&claim, job.position).await);
    expected.push(format!(
        "{:?}",
        ("withdraw_attempt", (&claim, job.position,))
    ));
    refused(wrapper.complete(&claim, job.position).await);
    expected.push(format!("{:?}", ("complete", (&claim, job.position,))));
    wrapper.apply_on_acceptance(AppliedListener::new(|_, _| {}));
    expected.push("(\"apply_on_acceptance\", (AppliedListener,))".to_owned());
    refused(wrapper.find(&job).await);
    expected.push(format!("{:?}", ("find", (&job,))));
    refused(wrapper.peek(job.partition, job.position, 7).await);
    expected.push(format!("{:?}", ("peek", (job.partition, job.position, 7))));
    refused(wrapper.depth().await);
    expected.push(format!("{:?}", ("depth", ())));
    refused(JobQueue::ping(&wrapper).await);
    expected.push(format!("{:?}", ("ping", ())));
    refused(JobQueue::close(&wrapper).await);
    expected.push(format!("{:?}", ("close", ())));
    assert_eq!(inner.calls(), expected);
}

#[tokio::test]
async fn methods_that_a_wrapper_implements_itself_are_not_forwarded() {
    let inner = Noting::new();
    let wrapper = Partial(Arc::clone(&inner));
    assert_eq!(wrapper.get(&Key::new("k").unwrap()).await.unwrap(), None);
    wrapper.close().await.unwrap();
    assert!(inner.calls().is_empty());
    refused(wrapper.ping().await);
    assert_eq!(wrapper.lag(), Some(WAIT));
}
