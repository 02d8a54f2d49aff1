//! Several direct changes in one commit.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::error::Result;
use crate::model::commit::{Commit, Committed};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Condition, Write};
use crate::store::Store;

/// Changes that take effect together or not at all, made by
/// [`StoreExt::batch`](crate::StoreExt::batch).
///
/// ```
/// # use kvstore_core::memory::MemoryStore;
/// # use kvstore_core::{Error, StoreExt};
/// use kvstore_core::model::write::Condition;
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let store = MemoryStore::default();
/// store
///     .batch()
///     .check("stock:apple", Condition::Absent)
///     .set("stock:apple", &12)
///     .delete("order:1")
///     .commit()
///     .await?;
/// # Ok::<(), Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing happens before `commit`"]
pub struct Batch<'s, S: ?Sized> {
    store: &'s S,
    /// The first error ends the batch; it is reported by `commit`.
    commit: Result<Commit>,
}

impl<'s, S: Store + ?Sized> Batch<'s, S> {
    pub(super) fn new(store: &'s S) -> Self {
        Self {
            store,
            commit: Ok(Commit::default()),
        }
    }

    /// Adds a condition that must hold before the first change; `key` need not be changed by the
    /// batch.
    pub fn check(mut self, key: &str, condition: Condition) -> Self {
        self.add(key, |key, commit| {
            commit.checks.push((key, condition));
            Ok(())
        });
        self
    }

    /// Sets `key` to `value`, without a deadline.
    pub fn set<T: Serialize + ?Sized>(self, key: &str, value: &T) -> Self {
        self.write(key, || {
            Ok(Change::Set {
                value: Value::from_serialize(value)?,
                expires_at: None,
            })
        })
    }

    /// Sets `key` to `value` for `ttl`, counted by the store's clock from the commit.
    pub fn set_for<T: Serialize + ?Sized>(self, key: &str, value: &T, ttl: Duration) -> Self {
        self.write(key, || {
            Ok(Change::SetFor {
                value: Value::from_serialize(value)?,
                ttl,
            })
        })
    }

    /// Deletes `key`.
    pub fn delete(self, key: &str) -> Self {
        self.write(key, || Ok(Change::Delete))
    }

    /// Commits all changes at once and returns their versions, in order.
    ///
    /// # Errors
    /// The first error of a key or value in the batch; otherwise those of [`Store::commit`].
    pub async fn commit(self) -> Result<Committed> {
        self.store.commit(self.commit?).await
    }

    fn write(mut self, key: &str, change: impl FnOnce() -> Result<Change>) -> Self {
        self.add(key, |key, commit| {
            let change = change()?;
            commit.writes.push(Write { key, change });
            Ok(())
        });
        self
    }

    fn add(&mut self, key: &str, add: impl FnOnce(Key, &mut Commit) -> Result<()>) {
        if let Ok(commit) = &mut self.commit
            && let Err(error) = Key::new(key).and_then(|key| add(key, commit))
        {
            self.commit = Err(error);
        }
    }
}

impl<S: ?Sized> fmt::Debug for Batch<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Batch").field(&self.commit).finish()
    }
}
