//! Several changes in one write.

use std::time::Duration;

use kvstore_core::error::Subject;
use kvstore_core::model::command::Operation;
use kvstore_core::model::commit::Committed;
use kvstore_core::model::write::Condition;
use kvstore_core::{Error, Key, Result, Value};
use serde::Serialize;

use crate::service::RemoteService;
use crate::store;

/// Changes that take effect together or not at all, made by
/// [`RemoteStore::batch`](crate::RemoteStore::batch).
///
/// A batch changes a key at most once; a check of a key that it also changes is the condition of
/// that change.
///
/// ```no_run
/// # async fn program(kv: kvstore_client::Client) -> kvstore_core::Result<()> {
/// use kvstore_core::model::write::Condition;
///
/// kv.store()
///     .batch()
///     .check("stock:apple", Condition::Absent)
///     .set("stock:apple", &12)
///     .delete("order:1")
///     .commit()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens before `commit`"]
#[derive(Debug)]
pub struct Batch<'s> {
    service: &'s RemoteService,
    /// The first error ends the batch; it is reported by `commit`.
    parts: Result<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    checks: Vec<(Key, Condition)>,
    writes: Vec<Operation>,
}

impl<'s> Batch<'s> {
    pub(crate) fn new(service: &'s RemoteService) -> Self {
        Self {
            service,
            parts: Ok(Parts::default()),
        }
    }

    /// Adds a condition that must hold before the first change; `key` need not be changed by the
    /// batch.
    pub fn check(self, key: &str, condition: Condition) -> Self {
        self.add(key, |key, parts| {
            if parts.checks.iter().any(|(other, _)| *other == key) {
                return Err(Error::Invalid {
                    subject: Subject::Batch,
                    reason: format!("it has two conditions on key {key:?}"),
                });
            }
            parts.checks.push((key, condition));
            Ok(())
        })
    }

    /// Sets `key` to `value`, without a deadline.
    pub fn set<T: Serialize + ?Sized>(self, key: &str, value: &T) -> Self {
        self.write(key, |key| {
            Ok(Operation::set(key, Value::from_serialize(value)?))
        })
    }

    /// Sets `key` to `value` for `ttl`, in whole seconds.
    pub fn set_for<T: Serialize + ?Sized>(self, key: &str, value: &T, ttl: Duration) -> Self {
        self.write(key, |key| {
            Ok(Operation::set(key, Value::from_serialize(value)?).expires_after(ttl))
        })
    }

    /// Deletes `key`.
    pub fn delete(self, key: &str) -> Self {
        self.write(key, |key| Ok(Operation::delete(key)))
    }

    /// Sends all changes as one write and returns their versions, in order.
    ///
    /// # Errors
    /// The first error of a key or value in the batch; [`Error::Conflict`] if a check does not
    /// hold; [`Error::CrossPartition`] or [`Error::Invalid`] if a server with several partitions
    /// keeps the keys in different ones.
    pub async fn commit(self) -> Result<Committed> {
        let Parts { checks, mut writes } = self.parts?;
        let mut checks_alone = Vec::new();
        for (key, condition) in &checks {
            match writes.iter_mut().find(|write| write.key == *key) {
                Some(write) => write.condition = condition.clone(),
                None if *condition == Condition::Any => {}
                None => checks_alone.push(Operation::check(key.clone()).under(condition.clone())),
            }
        }
        let mut submission = self.service.batch();
        for operation in checks_alone.into_iter().chain(writes) {
            submission = submission.operation(operation);
        }
        let committed = store::committed(submission).await;
        committed.map_err(|error| match error {
            // The operation's number on the wire, mapped to that of its check.
            Error::Conflict { key, current, .. } => Error::Conflict {
                check: checks
                    .iter()
                    .position(|(other, _)| *other == key)
                    .unwrap_or(0),
                key,
                current,
            },
            error => error,
        })
    }

    fn write(self, key: &str, make: impl FnOnce(Key) -> Result<Operation>) -> Self {
        self.add(key, |key, parts| {
            parts.writes.push(make(key)?);
            Ok(())
        })
    }

    fn add(mut self, key: &str, add: impl FnOnce(Key, &mut Parts) -> Result<()>) -> Self {
        if let Ok(parts) = &mut self.parts
            && let Err(error) = Key::new(key).and_then(|key| add(key, parts))
        {
            self.parts = Err(error);
        }
        self
    }
}
