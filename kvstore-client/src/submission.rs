//! Queued writes by verbs, as `kvstore_core::service::Submission` has them, over HTTP.

use std::future::IntoFuture;
use std::time::Duration;

use futures_core::future::BoxFuture;
use kvstore_core::error::Subject;
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::write::Condition;
use kvstore_core::service::{Request, Submitted};
use kvstore_core::{Error, Key, Result, Value, Version};
use serde::Serialize;

use crate::service::RemoteService;

/// How long an awaited [`Submission`] waits for its outcome unless [`Submission::wait`] says otherwise.
const WAIT_DEFAULT: Duration = Duration::from_secs(5);

/// A write that is sent when it is awaited; made by the verbs of [`RemoteService`].
///
/// Each verb adds an operation, and the methods after it refine that one. Several operations are a
/// batch: they take effect together or not at all, and each needs a key of its own.
///
/// Awaiting it waits for the outcome, 5 seconds unless [`Submission::wait`] says otherwise. `Ok` means
/// that the write is applied, or is still queued and will be (see [`Submitted::state`]).
///
/// # Errors
/// Nothing took effect: [`Error::Conflict`] if a condition failed, [`Error::NotFound`] for a touch of an
/// absent key, [`Error::Invalid`] for an addition to a value that is no integer or beyond 64 bits, and
/// for a key or value that breaks a rule; [`Error::DeadLettered`] if the store rejected the job; those
/// of [`RemoteService::submit`].
#[must_use = "nothing happens before it is awaited"]
#[derive(Clone, Debug)]
pub struct Submission<'s> {
    service: &'s RemoteService,
    /// The first error ends it; it is reported when it is awaited.
    operations: Result<Vec<Operation>>,
    idempotency_key: Option<String>,
    traceparent: Option<String>,
    wait: Duration,
}

impl<'s> Submission<'s> {
    pub(crate) fn new(service: &'s RemoteService) -> Self {
        Self {
            service,
            operations: Ok(Vec::new()),
            idempotency_key: None,
            traceparent: None,
            wait: WAIT_DEFAULT,
        }
    }
}

impl Submission<'_> {
    /// Adds an operation that gives `key` the `value`.
    pub fn set<T: Serialize + ?Sized>(self, key: &str, value: &T) -> Self {
        self.operation(key, |key| {
            Ok(Operation::set(key, Value::from_serialize(value)?))
        })
    }

    /// Adds an operation that makes `key` absent.
    pub fn delete(self, key: &str) -> Self {
        self.operation(key, |key| Ok(Operation::delete(key)))
    }

    /// Adds an operation that adds `by` to the 64-bit integer under `key`.
    pub fn add(self, key: &str, by: i64) -> Self {
        self.operation(key, |key| Ok(Operation::add(key, by)))
    }

    /// Adds an operation that merges `patch` into the value under `key`.
    pub fn merge<T: Serialize + ?Sized>(self, key: &str, patch: &T) -> Self {
        self.operation(key, |key| {
            Ok(Operation::merge(key, Value::from_serialize(patch)?))
        })
    }

    /// Adds an operation that gives the entry under `key` a new deadline.
    pub fn touch(self, key: &str, ttl: Duration) -> Self {
        self.operation(key, |key| Ok(Operation::touch(key, ttl)))
    }

    /// Adds a check of `key`, which the batch does not write; a condition has to follow.
    pub fn check(self, key: &str) -> Self {
        self.operation(key, |key| Ok(Operation::check(key)))
    }

    /// Lets the value of the last operation live for `ttl`, whole seconds, from when the write is
    /// accepted.
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

    /// Makes a repeated write with the same `key`, 1 to 255 visible ASCII characters, the same job, so
    /// that a retry has no second effect, also after this program was started again.
    ///
    /// The same key with another write is [`Error::KeyReused`].
    pub fn idempotency_key(mut self, key: &str) -> Self {
        self.idempotency_key = Some(key.to_owned());
        self
    }

    /// Waits up to `wait` for the outcome; zero returns as soon as the write is durable in the queue.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sends the W3C `traceparent` of the caller along, for the worker's log.
    pub fn traceparent(mut self, traceparent: &str) -> Self {
        self.traceparent = Some(traceparent.to_owned());
        self
    }

    pub(crate) fn operation(
        mut self,
        key: &str,
        make: impl FnOnce(Key) -> Result<Operation>,
    ) -> Self {
        if let Ok(operations) = &mut self.operations {
            match Key::new(key).and_then(make) {
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
                    self.operations = Err(Error::Invalid {
                        subject: Subject::Batch,
                        reason: "a condition or time to live needs an operation before it"
                            .to_owned(),
                    });
                }
            }
        }
        self
    }

    async fn submit(self) -> Result<Submitted> {
        let mut operations = self.operations?;
        let command = match operations.len() {
            1 => Command::One(operations.remove(0)),
            _ => Command::Batch(operations),
        };
        let request = Request {
            idempotency_key: self.idempotency_key,
            traceparent: self.traceparent,
            ..Request::new(command, self.wait)
        };
        self.service.submit(request).await
    }
}

impl<'s> IntoFuture for Submission<'s> {
    type Output = Result<Submitted>;
    type IntoFuture = BoxFuture<'s, Result<Submitted>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.submit())
    }
}
