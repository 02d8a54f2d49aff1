//! A store and its queue as one thing: accepts a write, waits for it, reads. HTTP is a thin layer
//! over this, and a program that embeds the store can use it without HTTP.
//!
//! What is not here: applying writes, which a worker does, in this process or another.

mod submission;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::{Error, Result, Subject, Unit, in_one_line};
use crate::limits::{
    BATCH_OPERATIONS_MAX, IDEMPOTENCY_MINIMUM_DEFAULT, IDEMPOTENCY_WINDOW_DEFAULT, KEY_CHARS_MAX,
    PAGE_VALUE_BYTES_MAX, VALUE_BYTES_DEFAULT,
};
use crate::model::command::{Action, Command};
use crate::model::entry::Entry;
use crate::model::id::JobId;
use crate::model::job::{Dead, Idempotency, JobState, NewJob, Outcome, Summary};
use crate::model::key::Key;
use crate::open::Followed;
use crate::queue::{Accepted, Found, JobQueue};
use crate::store::{DeadPage, DeadRequest, ListRequest, Page, Store};

pub use submission::{Submission, Submit};

/// Limits that an operator may want to change.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Longest key that a write may name, in characters; at most [`KEY_CHARS_MAX`].
    pub key_chars_max: usize,
    /// Largest value accepted, in bytes without white space.
    pub value_bytes_max: usize,
    /// Most operations in one batch; at most [`BATCH_OPERATIONS_MAX`].
    pub batch_operations_max: usize,
    /// How long an idempotency key is remembered.
    pub idempotency_window: Duration,
    /// How long it is remembered at least, even at the bound on the number of keys.
    pub idempotency_minimum: Duration,
    /// How long a read waits for the write that its sync token names.
    pub visible_wait: Duration,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            key_chars_max: KEY_CHARS_MAX,
            value_bytes_max: VALUE_BYTES_DEFAULT,
            batch_operations_max: BATCH_OPERATIONS_MAX,
            idempotency_window: IDEMPOTENCY_WINDOW_DEFAULT,
            idempotency_minimum: IDEMPOTENCY_MINIMUM_DEFAULT,
            visible_wait: Duration::from_secs(5),
        }
    }
}

/// A store and its queue. Cheap to clone.
///
/// ```
/// use kvstore_core::service::ServiceOptions;
/// use kvstore_core::{Key, Service};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let opened = kvstore_core::open(&"memory:".parse()?, None).await?;
/// # let worker = kvstore_core::worker::run(
/// #     opened.store.clone(), opened.queue.clone(), Default::default(), std::future::pending());
/// # tokio::spawn(worker);
/// // A worker runs alongside, here or in another process.
/// let service = Service::open(opened.store, opened.queue, ServiceOptions::default()).await?;
/// let job = service.set("user:1", "Ada").await?.id;
/// service.wait_visible(&job).await?;
/// let entry = service.get(&Key::new("user:1")?).await?.expect("it is visible");
/// assert_eq!(entry.value.as_str(), "\"Ada\"");
/// # Ok::<(), kvstore_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Service {
    // Each request calls what is in the `Arc`: the implementation for `Arc` puts the future into a
    // second box.
    store: Arc<dyn Store>,
    queue: Arc<dyn JobQueue>,
    options: Arc<ServiceOptions>,
    only_reads: bool,
    /// True once all waits have ended.
    waits_ended: Arc<watch::Sender<bool>>,
}

/// A write that a caller requests.
#[derive(Clone, Debug)]
pub struct Request {
    /// The requested write.
    pub command: Command,
    /// The caller's idempotency key, including its scope, if there is one.
    pub idempotency_key: Option<String>,
    /// How long the key has to be remembered, if that is shorter than
    /// [`ServiceOptions::idempotency_window`]: the number of remembered keys is limited.
    pub idempotency_window: Option<Duration>,
    /// True to keep details of the outcome for later requests; waiting implies it.
    pub keep_outcome: bool,
    /// How long to wait for the outcome; zero does not wait.
    pub wait: Duration,
    /// The W3C `traceparent` of the request.
    pub traceparent: Option<String>,
}

impl Request {
    /// Requests `command` and waits up to `wait` for its outcome.
    pub fn new(command: Command, wait: Duration) -> Self {
        Self {
            command,
            idempotency_key: None,
            idempotency_window: None,
            keep_outcome: false,
            wait,
            traceparent: None,
        }
    }
}

/// A write that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Its job, which is also the sync token for later reads.
    pub id: JobId,
    /// True if an earlier request under the same idempotency key had requested it.
    pub replayed: bool,
    /// Its state: [`JobState::Queued`] if the call did not wait for the outcome, or not long
    /// enough.
    pub state: JobState,
}

/// The known facts about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobReport {
    /// The job.
    pub id: JobId,
    /// The writes that it requests, while the queue or its outcome knows them.
    pub summary: Option<Summary>,
    /// How often it was tried, if that is known.
    pub attempts: Option<u32>,
    /// Its state: queued or finished.
    pub state: JobState,
}

/// Checks that `store` and `queue` belong together, and moves the queue's numbering past the
/// store's position. Servers and workers call it when they start.
///
/// # Errors
/// [`Error::Config`] if the store wants another number of partitions; [`Error::WrongQueue`] if it
/// applies another queue.
pub async fn join(store: &dyn Store, queue: &dyn JobQueue) -> Result<()> {
    if let Some(wanted) = store
        .partitions()
        .filter(|wanted| *wanted != queue.partitions())
    {
        return Err(Error::Config(format!(
            "the store has {wanted} partitions and the queue has {}: they must be the same",
            queue.partitions()
        )));
    }
    match store.active_queue().await? {
        Some(active) if active != queue.id() => Err(Error::WrongQueue {
            active,
            queue: queue.id(),
        }),
        _ => {
            for partition in queue.partitions().iter() {
                let applied = store.applied(queue.id(), partition).await?;
                queue.start_after(partition, applied).await?;
            }
            Ok(())
        }
    }
}

impl Service {
    /// Joins `store` and `queue` (see [`join`]).
    ///
    /// # Errors
    /// Those of [`join`].
    pub async fn open(
        store: Arc<dyn Store>,
        queue: Arc<dyn JobQueue>,
        options: ServiceOptions,
    ) -> Result<Self> {
        join(&store, &queue).await?;
        Ok(Self {
            store,
            queue,
            options: Arc::new(options),
            only_reads: false,
            waits_ended: Arc::default(),
        })
    }

    /// Returns a service on a store that another process writes (see
    /// [`follow`](crate::open::follow)). It is not joined to its queue, since that process did it.
    pub fn reading(followed: Followed, options: ServiceOptions) -> Self {
        Self {
            store: followed.store,
            queue: followed.queue,
            options: Arc::new(options),
            only_reads: true,
            waits_ended: Arc::default(),
        }
    }

    /// Returns true if this is a [`Service::reading`], which accepts no write.
    pub fn only_reads(&self) -> bool {
        self.only_reads
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Returns the queue.
    pub fn queue(&self) -> &Arc<dyn JobQueue> {
        &self.queue
    }

    /// Returns the limits in force.
    pub fn options(&self) -> &ServiceOptions {
        &self.options
    }

    /// Accepts a write into the queue, durably, and waits for its outcome if requested.
    ///
    /// When this returns `Ok`, the write has its place in its key's order and will be applied
    /// exactly once in effect, unless its own condition fails. A wait that runs out is not an
    /// error: the state is then [`JobState::Queued`].
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a value, a patch or a batch over the limit, [`Error::Invalid`] for a
    /// key over it, and those of [`JobQueue::enqueue`]. The same limit holds for the result of a
    /// merge, which is known only when it is applied: it fails then.
    pub async fn submit(&self, mut request: Request) -> Result<Submitted> {
        self.check_sizes(&request.command)?;
        request.command.bound_merges(self.options.value_bytes_max);
        let longest = self.options.idempotency_window;
        let window = request
            .idempotency_window
            .map_or(longest, |window| window.min(longest));
        let idempotency = request
            .idempotency_key
            .map(|key| self.idempotency(key, window));
        let job = NewJob {
            command: request.command,
            keep_outcome: request.keep_outcome || !request.wait.is_zero() || idempotency.is_some(),
            idempotency,
            traceparent: request.traceparent,
        };
        let answer = (*self.queue).enqueue(vec![job]).await.pop();
        let accepted = answer.unwrap_or_else(|| Err(Error::unavailable("the queue")))?;
        let state = match accepted.outcome {
            Some(outcome) if !request.wait.is_zero() => JobState::Finished(outcome),
            _ => self.wait(&accepted.id, request.wait).await,
        };
        Ok(Submitted {
            id: accepted.id,
            replayed: accepted.replayed,
            state,
        })
    }

    fn idempotency(&self, key: String, window: Duration) -> Idempotency {
        Idempotency {
            key,
            window,
            minimum: self.options.idempotency_minimum,
        }
    }

    fn check_sizes(&self, command: &Command) -> Result<()> {
        let (operations, options) = (command.operations(), &self.options);
        let too_large = |subject, limit, unit| {
            let limit = limit as u64;
            Err(Error::TooLarge {
                subject,
                limit,
                unit,
            })
        };
        if operations.len() > options.batch_operations_max {
            let limit = options.batch_operations_max;
            return too_large(Subject::Batch, limit, Unit::Operations);
        }
        for operation in operations {
            let (key, limit) = (operation.key.as_str(), options.key_chars_max);
            if key.len() > limit && key.chars().count() > limit {
                let reason = format!("it must have at most {limit} characters");
                return Err(Error::invalid(Subject::Key, reason));
            }
            let limit = options.value_bytes_max;
            if let Action::Set { value } | Action::Merge { patch: value, .. } = &operation.action
                && value.len() > limit
            {
                return too_large(Subject::Value, limit, Unit::Bytes);
            }
        }
        Ok(())
    }

    /// Returns the state of an accepted job once it is finished, after `wait`, or when waits are
    /// ended. If the store does not answer, the job counts as still queued.
    pub async fn wait(&self, id: &JobId, wait: Duration) -> JobState {
        if wait.is_zero() {
            return JobState::Queued;
        }
        self.outcome(id, wait).await.unwrap_or_else(|error| {
            tracing::warn!(job = %id, error = %in_one_line(&error), "cannot wait for the outcome of an accepted job");
            JobState::Queued
        })
    }

    /// Returns the state of a job once it is finished, after `wait`, or when waits are ended.
    async fn outcome(&self, id: &JobId, wait: Duration) -> Result<JobState> {
        if wait.is_zero() {
            return self.store.outcome(id, wait).await;
        }
        let mut ended = self.waits_ended.subscribe();
        let ended = async { drop(ended.wait_for(|ended| *ended).await) };
        tokio::select! {
            biased;
            state = (*self.store).outcome(id, wait) => state,
            () = ended => self.store.outcome(id, Duration::ZERO).await,
        }
    }

    /// Ends all waits, including those of later requests, as if they had run out: a process that is
    /// about to end answers what it still can.
    pub fn end_waits(&self) {
        self.waits_ended.send_replace(true);
    }

    /// Returns the entry under `key`. To see a write of your own, [`Service::wait_visible`] first.
    ///
    /// # Errors
    /// Those of [`Store::get`].
    pub async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        (*self.store).get(key).await
    }

    /// Returns the entries under `keys`, in their order.
    ///
    /// # Errors
    /// Those of [`Store::get_many`].
    pub async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        self.store.get_many(keys).await
    }

    /// Returns a page of keys. A page with values ends before the entry that would bring them above
    /// [`PAGE_VALUE_BYTES_MAX`], and before one that changes while they are read, but has at least
    /// one entry.
    ///
    /// # Errors
    /// Those of [`Store::list`].
    pub async fn list(&self, request: &ListRequest) -> Result<Page> {
        self.list_within(request, PAGE_VALUE_BYTES_MAX).await
    }

    /// Returns a page as [`Service::list`] does, with at most `bytes_max` of values.
    ///
    /// # Errors
    /// Those of [`Store::list`].
    pub async fn list_within(&self, request: &ListRequest, bytes_max: usize) -> Result<Page> {
        if !request.include_values {
            return self.store.list(request).await;
        }
        // The sizes come first, and then no more values than the page holds.
        let keys_alone = ListRequest {
            include_values: false,
            ..request.clone()
        };
        let mut page = self.store.list(&keys_alone).await?;
        let mut bytes = 0;
        let fits = page.entries.iter().take_while(|listed| {
            bytes += listed.size;
            bytes <= bytes_max
        });
        let count = fits.count().max(1);
        cut(&mut page, count);
        let keys: Vec<Key> = page.entries.iter().map(|it| it.key.clone()).collect();
        let found = self.store.get_many(&keys).await?;
        // With values of a later moment, the page could show half of a batch.
        let mut unchanged = 0;
        for (listed, entry) in page.entries.iter_mut().zip(found) {
            match entry.filter(|entry| entry.version == listed.version) {
                Some(entry) => listed.value = Some(entry.value),
                None => break,
            }
            unchanged += 1;
        }
        if unchanged == 0 && !page.entries.is_empty() {
            let first = ListRequest {
                limit: 1,
                ..request.clone()
            };
            return self.store.list(&first).await;
        }
        cut(&mut page, unchanged);
        Ok(page)
    }

    /// Waits until the write that `token` names has been applied (or has failed), so that a read
    /// shows it.
    ///
    /// # Errors
    /// [`Error::NotYetVisible`] after [`ServiceOptions::visible_wait`]; [`Error::Invalid`] if the
    /// token belongs to another queue, to a job that was never accepted, or to one that was lost.
    pub async fn wait_visible(&self, token: &JobId) -> Result<()> {
        let unknown = || {
            Error::invalid(
                Subject::SyncToken,
                format!("{token} names no write that this service has accepted"),
            )
        };
        if self.is_foreign(token).await? {
            return Err(unknown());
        }
        // By far the most frequent case is that it is applied: then the queue is not asked.
        let mut state = self.store.outcome(token, Duration::ZERO).await?;
        if state == JobState::Queued {
            if self.queue.find(token).await? == Found::Unknown {
                return Err(unknown());
            }
            state = self.outcome(token, self.options.visible_wait).await?;
        }
        match state {
            JobState::Finished(_) | JobState::Forgotten => Ok(()),
            JobState::Queued => Err(Error::NotYetVisible { job: *token }),
            JobState::Unknown => Err(unknown()),
        }
    }

    /// Returns true if a job belongs to another queue.
    async fn is_foreign(&self, job: &JobId) -> Result<bool> {
        if job.queue == self.queue.id() {
            return Ok(false);
        }
        // A queue that was never reached may not know its own id.
        self.queue.ping().await?;
        Ok(job.queue != self.queue.id())
    }

    /// Returns a page of the dead letters.
    ///
    /// # Errors
    /// Those of [`Store::dead`].
    pub async fn dead(&self, request: &DeadRequest) -> Result<DeadPage> {
        self.store.dead(request).await
    }

    /// Returns the dead letter of a job; `None` if there is none.
    ///
    /// # Errors
    /// Those of [`Store::outcome`].
    pub async fn dead_letter(&self, id: &JobId) -> Result<Option<Dead>> {
        if self.is_foreign(id).await? {
            return Ok(None);
        }
        match self.store.outcome(id, Duration::ZERO).await? {
            JobState::Finished(Outcome::Dead(dead)) => Ok(Some(dead)),
            _ => Ok(None),
        }
    }

    /// Requests again what the job `id` requested, which became the letter `dead`: as a new job, at
    /// the end of its key's order and with a new time to live. Drops the letter. Concurrent calls
    /// get the same job.
    ///
    /// # Errors
    /// Those of [`JobQueue::enqueue`]; the letter is then still there.
    pub async fn retry(&self, id: &JobId, dead: Dead) -> Result<Accepted> {
        let job = NewJob {
            command: dead.command,
            keep_outcome: true,
            // No request has such a key: its second line is a key of an entry, and those are never
            // empty.
            idempotency: Some(
                self.idempotency(format!("retry\n\n{id}"), self.options.idempotency_window),
            ),
            traceparent: None,
        };
        let answer = (*self.queue).enqueue(vec![job]).await.pop();
        let accepted = answer.unwrap_or_else(|| Err(Error::unavailable("the queue")))?;
        if let Err(error) = self.store.forget(id).await {
            tracing::warn!(job = %id, error = %in_one_line(&error), "the dead letter stays, though its command was accepted again: another retry is the same job");
        }
        Ok(accepted)
    }

    /// Returns the known facts about a job, once it is finished or after `wait`; `None` if it is
    /// unknown or forgotten.
    ///
    /// # Errors
    /// Those of [`Store::outcome`] and [`JobQueue::find`].
    pub async fn job(&self, id: &JobId, wait: Duration) -> Result<Option<JobReport>> {
        if self.is_foreign(id).await? {
            return Ok(None);
        }
        let found = self.queue.find(id).await?;
        if found == Found::Unknown {
            return Ok(None);
        }
        let state = self.outcome(id, wait).await?;
        let (summary, attempts) = match (&state, found) {
            (JobState::Unknown | JobState::Forgotten, _) => return Ok(None),
            (JobState::Finished(Outcome::Dead(dead)), _) => {
                (Some(Summary::of(&dead.command)), Some(dead.attempts))
            }
            (JobState::Finished(Outcome::Failed(failed)), _) => {
                (Some(failed.summary.clone()), None)
            }
            (JobState::Finished(Outcome::Succeeded(Some(succeeded))), _) => {
                (Some(succeeded.summary.clone()), None)
            }
            (_, Found::Held { job, attempts }) => (Some(Summary::of(&job.command)), Some(attempts)),
            (_, Found::Dropped | Found::Unknown) => (None, None),
        };
        Ok(Some(JobReport {
            id: *id,
            summary,
            attempts,
            state,
        }))
    }

    /// Checks that store and queue answer.
    ///
    /// # Errors
    /// The first failure.
    pub async fn ping(&self) -> Result<()> {
        self.store.ping().await?;
        self.queue.ping().await
    }
}

/// Truncates a page to its first `count` entries, at least one unless there are none.
fn cut(page: &mut Page, count: usize) {
    if count < page.entries.len() {
        page.entries.truncate(count);
        let last = page.entries[count - 1].key.as_str();
        page.prefixes.retain(|prefix| prefix.as_str() < last);
        page.next = Some(last.to_owned());
    }
}
