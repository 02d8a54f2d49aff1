//! Writes to the queue, as verbs: `service.set("user:1", &value).await?`.

use std::future::IntoFuture;
use std::time::Duration;

use futures_core::future::BoxFuture;
use serde::Serialize;

use crate::error::{Error, Result, Subject, Unit};
use crate::model::command::{Command, Operation};
use crate::model::entry::Version;
use crate::model::job::{Applied, Failed, Failure, JobState, Outcome};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::Condition;
use crate::service::{Request, Service, Submitted};

/// How long an awaited [`Submission`] waits for its outcome by default.
const WAIT_DEFAULT: Duration = Duration::from_secs(5);

/// Accepts writes: a [`Service`], or a client of one elsewhere.
pub trait Submit: Sync {
    /// Accepts a write into the queue, durably, and waits for its outcome if requested.
    ///
    /// # Errors
    /// Those of [`Service::submit`].
    fn submit(&self, request: Request) -> impl Future<Output = Result<Submitted>> + Send;
}

impl Submit for Service {
    fn submit(&self, request: Request) -> impl Future<Output = Result<Submitted>> + Send {
        self.submit(request)
    }
}

/// A write that is submitted to the queue when it is awaited; created by the verbs of [`Service`].
///
/// Each verb adds an operation, and the methods after it refine that one. Several operations are a
/// batch: they take effect together or not at all, and each needs a key of its own.
///
/// Awaiting it waits for the outcome, 5 seconds unless [`Submission::wait`] says otherwise. `Ok`
/// means that the write is applied, or is still queued and will be (see [`Submitted::state`]).
///
/// # Errors
/// Nothing took effect: [`Error::Conflict`] if a condition failed, [`Error::NotFound`] for a touch
/// of an absent key, [`Error::Invalid`] for an addition to a value that is no integer or beyond 64
/// bits, and for a key or value that breaks a rule; [`Error::DeadLettered`] if the store rejected
/// the job; those of [`Submit::submit`].
#[must_use = "nothing happens before it is awaited"]
#[derive(Clone, Debug)]
pub struct Submission<'s, S = Service> {
    service: &'s S,
    /// The first error ends the submission; awaiting it reports that error.
    operations: Result<Vec<Operation>>,
    idempotency_key: Option<String>,
    traceparent: Option<String>,
    wait: Duration,
}

impl Service {
    /// Gives `key` the `value`.
    ///
    /// ```
    /// # use kvstore_core::Embedded;
    /// # use std::time::Duration;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let embedded = Embedded::open("memory:").await?;
    /// # let service = embedded.service();
    /// let submitted = service
    ///     .set("session:7", "Ada")
    ///     .if_absent()
    ///     .expires_after(Duration::from_secs(3600))
    ///     .idempotency_key("login-7")
    ///     .await?;
    /// assert!(submitted.version().is_some());
    /// # embedded.close().await
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Submission<'_> {
        self.batch().set(key, value)
    }

    /// Makes `key` absent.
    pub fn delete(&self, key: &str) -> Submission<'_> {
        self.batch().delete(key)
    }

    /// Adds `by` to the 64-bit integer under `key`, 0 if it is absent; [`Submitted::number`] is the
    /// sum.
    pub fn add(&self, key: &str, by: i64) -> Submission<'_> {
        self.batch().add(key, by)
    }

    /// Merges `patch` into the value under `key` as RFC 7396 says. A deadline of the entry stays.
    pub fn merge<T: Serialize + ?Sized>(&self, key: &str, patch: &T) -> Submission<'_> {
        self.batch().merge(key, patch)
    }

    /// Lets the entry under `key` live for `ttl` from when this is accepted.
    pub fn touch(&self, key: &str, ttl: Duration) -> Submission<'_> {
        self.batch().touch(key, ttl)
    }

    /// Begins a batch.
    ///
    /// ```
    /// # use kvstore_core::Embedded;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let embedded = Embedded::open("memory:").await?;
    /// # let service = embedded.service();
    /// service.set("account:1", &100).await?;
    /// service
    ///     .batch()
    ///     .check("account:2")
    ///     .if_absent()
    ///     .add("account:1", -30)
    ///     .set("account:3", &30)
    ///     .await?;
    /// # embedded.close().await
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn batch(&self) -> Submission<'_> {
        Submission::new(self)
    }
}

impl<'s, S> Submission<'s, S> {
    /// Begins a batch that is submitted to `service`.
    pub fn new(service: &'s S) -> Self {
        Self {
            service,
            operations: Ok(Vec::new()),
            idempotency_key: None,
            traceparent: None,
            wait: WAIT_DEFAULT,
        }
    }

    /// Adds an operation that was created elsewhere.
    pub fn operation(self, operation: Operation) -> Self {
        self.add_operation(Ok(operation))
    }

    /// Adds an operation that gives `key` the `value`.
    pub fn set<T: Serialize + ?Sized>(self, key: &str, value: &T) -> Self {
        self.keyed(key, |key| {
            Ok(Operation::set(key, Value::from_serialize(value)?))
        })
    }

    /// Adds an operation that makes `key` absent.
    pub fn delete(self, key: &str) -> Self {
        self.keyed(key, |key| Ok(Operation::delete(key)))
    }

    /// Adds an operation that adds `by` to the 64-bit integer under `key`.
    pub fn add(self, key: &str, by: i64) -> Self {
        self.keyed(key, |key| Ok(Operation::add(key, by)))
    }

    /// Adds an operation that merges `patch` into the value under `key`.
    pub fn merge<T: Serialize + ?Sized>(self, key: &str, patch: &T) -> Self {
        self.keyed(key, |key| {
            Ok(Operation::merge(key, Value::from_serialize(patch)?))
        })
    }

    /// Adds an operation that gives the entry under `key` a new deadline.
    pub fn touch(self, key: &str, ttl: Duration) -> Self {
        self.keyed(key, |key| Ok(Operation::touch(key, ttl)))
    }

    /// Adds a check of `key`, which the batch does not write; a condition must follow.
    pub fn check(self, key: &str) -> Self {
        self.keyed(key, |key| Ok(Operation::check(key)))
    }

    /// Lets the value of the last operation live for `ttl` from when the write is accepted.
    pub fn expires_after(self, ttl: Duration) -> Self {
        self.refine(|operation| operation.expires_after(ttl))
    }

    /// Keeps the deadline of the entry that the last operation replaces.
    pub fn keep_ttl(self) -> Self {
        self.refine(Operation::keep_ttl)
    }

    /// Fails the write unless the last operation's key is absent.
    pub fn if_absent(self) -> Self {
        self.under(Condition::Absent)
    }

    /// Fails the write unless the last operation's key is present.
    pub fn if_present(self) -> Self {
        self.under(Condition::Present)
    }

    /// Fails the write unless the last operation's key has `version`.
    pub fn if_version(self, version: Version) -> Self {
        self.under(Condition::Version(version))
    }

    /// Puts the last operation under `condition`.
    pub fn under(self, condition: Condition) -> Self {
        self.refine(|operation| operation.under(condition))
    }

    /// Makes repeated writes with the same `key` one job, so that a retry has no second effect,
    /// even after a restart of this program. A client accepts 1 to 255 visible ASCII characters.
    ///
    /// The key is remembered for
    /// [`ServiceOptions::idempotency_window`](crate::service::ServiceOptions::idempotency_window).
    /// The same key with another write is [`Error::KeyReused`].
    pub fn idempotency_key(mut self, key: &str) -> Self {
        self.idempotency_key = Some(key.to_owned());
        self
    }

    /// Waits up to `wait` for the outcome; zero returns as soon as the write is durable in the
    /// queue.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sends the W3C `traceparent` of the caller along, for the worker's log.
    pub fn traceparent(mut self, traceparent: &str) -> Self {
        self.traceparent = Some(traceparent.to_owned());
        self
    }

    fn keyed(self, key: &str, make: impl FnOnce(Key) -> Result<Operation>) -> Self {
        self.add_operation(Key::new(key).and_then(make))
    }

    fn add_operation(mut self, operation: Result<Operation>) -> Self {
        if let Ok(operations) = &mut self.operations {
            match operation {
                Ok(operation) => operations.push(operation),
                Err(error) => self.operations = Err(error),
            }
        }
        self
    }

    fn refine(mut self, change: impl FnOnce(Operation) -> Operation) -> Self {
        if let Ok(operations) = &mut self.operations {
            match operations.pop() {
                Some(operation) => operations.push(change(operation)),
                None => {
                    let reason = "a condition or time to live needs an operation before it";
                    self.operations = Err(Error::invalid(Subject::Batch, reason));
                }
            }
        }
        self
    }
}

impl<S: Submit> Submission<'_, S> {
    async fn submit(self) -> Result<Submitted> {
        let mut operations = self.operations?;
        let command = match operations.len() {
            1 => Command::One(operations.remove(0)),
            _ => Command::Batch(operations),
        };
        let submitted = self.service.submit(Request {
            idempotency_key: self.idempotency_key,
            traceparent: self.traceparent,
            ..Request::new(command.clone(), self.wait)
        });
        let submitted = submitted.await?;
        match &submitted.state {
            JobState::Finished(Outcome::Failed(failed)) => Err(failure(&command, failed)),
            JobState::Finished(Outcome::Dead(dead)) => Err(Error::DeadLettered {
                job: submitted.id,
                reason: dead.reason.clone(),
            }),
            _ => Ok(submitted),
        }
    }
}

impl<'s, S: Submit> IntoFuture for Submission<'s, S> {
    type Output = Result<Submitted>;
    type IntoFuture = BoxFuture<'s, Result<Submitted>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.submit())
    }
}

impl Submitted {
    /// Returns the version of the first operation that writes, once it is applied.
    pub fn version(&self) -> Option<Version> {
        Some(self.applied().first()?.version)
    }

    /// Returns true if the first operation's key existed before it, once it is applied.
    pub fn existed(&self) -> Option<bool> {
        Some(self.applied().first()?.existed)
    }

    /// Returns the sum that the first operation came to, if it is an addition and applied.
    pub fn number(&self) -> Option<i64> {
        self.applied().first()?.computed.number
    }

    /// Returns what each operation that writes did, in order; nothing while the write is queued.
    pub fn applied(&self) -> &[Applied] {
        match &self.state {
            JobState::Finished(Outcome::Succeeded(Some(succeeded))) => &succeeded.writes,
            _ => &[],
        }
    }
}

/// Returns the error of an operation that could not be done.
fn failure(command: &Command, failed: &Failed) -> Error {
    let operation = &command.operations()[failed.operation];
    match failed.reason {
        Failure::NotFound => Error::NotFound {
            what: format!("key {:?}", operation.key),
        },
        Failure::TooLarge { limit_bytes } => Error::TooLarge {
            subject: Subject::Value,
            limit: limit_bytes,
            unit: Unit::Bytes,
        },
        Failure::NotInteger | Failure::Overflow => Error::invalid(
            Subject::Value,
            format!("{} of key {:?}", failed.reason, operation.key),
        ),
        Failure::Condition => Error::Conflict {
            key: operation.key.clone(),
            check: failed.operation,
            current: failed.current,
        },
    }
}
