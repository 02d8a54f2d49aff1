//! Convenience methods for programs that embed a store: typed values, text keys, times to live,
//! counters, batches, compare-and-set, typed collections, streams over pages.
//!
//! Every method is a few calls of [`Store`] and the same for all stores, so no backend implements
//! or overrides it. What is not here: queued writes, which [`Service`](crate::Service) has with the
//! same verbs.

mod batch;
mod collection;

use std::future::Future;
use std::time::Duration;

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, Subject};
use crate::limits::PAGE_ENTRIES_MAX;
use crate::model::commit::Commit;
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Condition, Write};
use crate::store::{ListRequest, Listed, Store};

pub use batch::Batch;
pub use collection::Collection;

/// Convenience methods of every [`Store`]: import the trait and call them on a store, an `Arc` of
/// one or an `Arc<dyn Store>`.
///
/// Writes are direct commits: they bypass the queue and take effect at once, and each is atomic and
/// durable when it returns.
///
/// ```
/// use futures_util::TryStreamExt;
/// use kvstore_core::memory::MemoryStore;
/// use kvstore_core::{Error, StoreExt};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let store = MemoryStore::default();
/// store.set("user:1", "Ada").await?;
/// assert_eq!(store.get_as::<String>("user:1").await?.as_deref(), Some("Ada"));
///
/// let first = store.create("visits", &1).await?;
/// store.update("visits", |visits: Option<u64>| visits.unwrap_or(0) + 1).await?;
/// let late = store.compare_and_set("visits", first, &7).await;
/// assert!(matches!(late, Err(Error::Conflict { .. })));
///
/// let keys: Vec<_> = store.keys("user:").try_collect().await?;
/// assert_eq!(keys.len(), 1);
/// assert!(store.delete("user:1").await?);
/// # Ok::<(), Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// All methods return [`Error::Invalid`] for a key that breaks the rules of [`Key`], for a stored
/// value that is not of the requested type, and for a value that cannot be serialized as JSON;
/// otherwise the errors of the [`Store`] methods that they call.
pub trait StoreExt: Store {
    /// Returns the value under `key`, deserialized as a `T`, or `None` if it is absent.
    fn get_as<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<Option<T>>> + Send {
        let key = Key::new(key);
        async move {
            let entry = self.get(&key?).await?;
            entry.map(|entry| entry.value.to()).transpose()
        }
    }

    /// Sets `key` to `value` unconditionally and without a deadline, and returns the new version.
    fn set<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
    ) -> impl Future<Output = Result<Version>> + Send {
        let commit = set_if(key, Condition::Any, value, None);
        async move { Ok(self.commit(commit?).await?.first_version) }
    }

    /// Sets `key` to `value` for `ttl`, counted by the store's clock from the commit, and returns
    /// the new version.
    fn set_for<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        ttl: Duration,
    ) -> impl Future<Output = Result<Version>> + Send {
        let commit = self.batch().set_for(key, value, ttl).commit();
        async move { Ok(commit.await?.first_version) }
    }

    /// Adds `by` to the 64-bit integer under `key` (0 if it is absent), and returns the sum. The
    /// entry keeps its deadline.
    ///
    /// A caller that retries after [`Error::Unknown`] may count twice;
    /// [`Service::add`](crate::Service::add) with an idempotency key does not.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the value is not a 64-bit integer, or the sum would not fit in one.
    fn add(&self, key: &str, by: i64) -> impl Future<Output = Result<i64>> + Send {
        let sum = move |old: Option<i64>| {
            old.unwrap_or(0).checked_add(by).ok_or_else(|| {
                Error::invalid(Subject::Value, "the sum does not fit in a 64-bit integer")
            })
        };
        try_update(self, Key::new(key), sum)
    }

    /// Deletes `key`, and returns true if it was present.
    fn delete(&self, key: &str) -> impl Future<Output = Result<bool>> + Send {
        let key = Key::new(key);
        async move {
            let write = Write {
                key: key?,
                change: Change::Delete,
            };
            let committed = self.commit(Commit {
                writes: vec![write],
                ..Commit::default()
            });
            Ok(committed.await?.existed.first() == Some(&true))
        }
    }

    /// Sets `key` to `value` if it is absent, and returns the new version.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is present.
    fn create<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
    ) -> impl Future<Output = Result<Version>> + Send {
        let commit = set_if(key, Condition::Absent, value, None);
        async move { Ok(self.commit(commit?).await?.first_version) }
    }

    /// Sets `key` to `value`, without a deadline, if its version is still `expected`, and returns
    /// the new version.
    ///
    /// # Errors
    /// [`Error::Conflict`] with the current version if it is a different one.
    fn compare_and_set<T: Serialize + ?Sized>(
        &self,
        key: &str,
        expected: Version,
        value: &T,
    ) -> impl Future<Output = Result<Version>> + Send {
        let commit = set_if(key, Condition::Version(expected), value, None);
        async move { Ok(self.commit(commit?).await?.first_version) }
    }

    /// Replaces the value under `key` with the result of `change` (called with `None` if it is
    /// absent), and returns it.
    ///
    /// No concurrent write is lost: if another writer changes the key meanwhile, `change` is called
    /// again with the newer value. This repeats without limit, since each repetition means that
    /// another writer made progress. The entry keeps its deadline.
    fn update<T, F>(&self, key: &str, change: F) -> impl Future<Output = Result<T>> + Send
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnMut(Option<T>) -> T + Send,
    {
        let mut change = change;
        try_update(self, Key::new(key), move |old| Ok(change(old)))
    }

    /// Returns the values under `keys`, in their order, each deserialized as a `T`, or `None` where
    /// it is absent.
    fn get_many_as<T: DeserializeOwned>(
        &self,
        keys: &[impl AsRef<str>],
    ) -> impl Future<Output = Result<Vec<Option<T>>>> + Send {
        let keys: Result<Vec<Key>> = keys.iter().map(|key| Key::new(key.as_ref())).collect();
        async move {
            let entries = self.get_many(&keys?).await?.into_iter();
            let value = |entry: Option<Entry>| entry.map(|entry| entry.value.to()).transpose();
            entries.map(value).collect()
        }
    }

    /// Begins a batch: changes that take effect together or not at all.
    fn batch(&self) -> Batch<'_, Self> {
        Batch::new(self)
    }

    /// Returns the collection of `T`s whose keys start with `prefix`. The collection holds a clone
    /// of the store, so call this on an `Arc`.
    fn collection<T>(&self, prefix: &str) -> Collection<Self, T>
    where
        Self: Clone,
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        Collection::new(self.clone(), prefix)
    }

    /// Streams the keys that start with `prefix`, in byte order, read page by page as the stream is
    /// polled.
    ///
    /// A key that exists during the whole iteration appears exactly once; the stream ends after the
    /// first error. It holds a clone of the store, so call this on an `Arc`.
    fn keys(&self, prefix: &str) -> BoxStream<'static, Result<Key>>
    where
        Self: Clone,
    {
        listed(self.clone(), prefix, false)
            .map_ok(|listed| listed.key)
            .boxed()
    }

    /// Streams the entries whose keys start with `prefix`: like [`StoreExt::keys`], with values.
    fn entries(&self, prefix: &str) -> BoxStream<'static, Result<(Key, Entry)>>
    where
        Self: Clone,
    {
        listed(self.clone(), prefix, true)
            .try_filter_map(|listed| async move {
                // Every entry has a value, since the request asks for values.
                Ok(listed.value.map(|value| {
                    let (version, expires_at) = (listed.version, listed.expires_at);
                    (
                        listed.key,
                        Entry {
                            value,
                            version,
                            expires_at,
                        },
                    )
                }))
            })
            .boxed()
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

/// Replaces the value under `key` with the result of `change`, which is called again with the newer
/// value whenever another commit came first.
async fn try_update<S, T, F>(store: &S, key: Result<Key>, mut change: F) -> Result<T>
where
    S: Store + ?Sized,
    T: Serialize + DeserializeOwned + Send,
    F: FnMut(Option<T>) -> Result<T> + Send,
{
    let key = key?;
    loop {
        let entry = store.get(&key).await?;
        let condition = Condition::unchanged(entry.as_ref().map(|entry| entry.version));
        let expires_at = entry.as_ref().and_then(|entry| entry.expires_at);
        let old = entry.map(|entry| entry.value.to()).transpose()?;
        let new = change(old)?;
        let commit = set_if(key.as_str(), condition, &new, expires_at)?;
        match store.commit(commit).await {
            Ok(_) => return Ok(new),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

fn set_if<T: Serialize + ?Sized>(
    key: &str,
    condition: Condition,
    value: &T,
    expires_at: Option<Timestamp>,
) -> Result<Commit> {
    let key = Key::new(key)?;
    let value = Value::from_serialize(value)?;
    Ok(Commit {
        checks: vec![(key.clone(), condition)],
        writes: vec![Write {
            key,
            change: Change::Set { value, expires_at },
        }],
        advance: None,
    })
}

fn listed<S: Store>(
    store: S,
    prefix: &str,
    include_values: bool,
) -> impl futures_core::Stream<Item = Result<Listed>> + Send + 'static {
    let first = ListRequest {
        prefix: prefix.to_owned(),
        limit: PAGE_ENTRIES_MAX,
        include_values,
        ..ListRequest::default()
    };
    stream::try_unfold((store, Some(first)), |(store, request)| async move {
        let Some(request) = request else {
            return Ok(None);
        };
        let page = store.list(&request).await?;
        let next = page.next.map(|after| ListRequest {
            after: Some(after),
            ..request
        });
        let entries = stream::iter(page.entries.into_iter().map(Ok));
        Ok(Some((entries, (store, next))))
    })
    .try_flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;
    use crate::memory::MemoryStore;

    fn store() -> Arc<dyn Store> {
        Arc::new(MemoryStore::default())
    }

    #[tokio::test]
    async fn typed_values_go_in_and_come_out() {
        let store = store();
        assert_eq!(store.get_as::<u64>("a").await.unwrap(), None);
        let first = store.set("a", &[1, 2]).await.unwrap();
        assert_eq!(store.get_as("a").await.unwrap(), Some(vec![1, 2]));
        assert!(store.set("a", &None::<u8>).await.unwrap() > first);
        assert_eq!(
            store.get_as("a").await.unwrap(),
            Some(None::<u8>),
            "null is a value"
        );
        assert!(store.delete("a").await.unwrap());
        assert!(!store.delete("a").await.unwrap());
    }

    #[tokio::test]
    async fn bad_input_is_an_error_and_changes_nothing() {
        let store = store();
        let invalid = |error| matches!(error, Error::Invalid { .. });
        assert!(invalid(store.set("a//b", &1).await.unwrap_err()));
        assert!(invalid(store.get_as::<u8>("").await.unwrap_err()));
        assert!(invalid(store.delete(".").await.unwrap_err()));
        store.set("a", "text").await.unwrap();
        assert!(invalid(store.get_as::<u8>("a").await.unwrap_err()));
        let update = store.update("a", |old: Option<u8>| old.unwrap_or(0));
        assert!(invalid(update.await.unwrap_err()));
        assert_eq!(
            store.get_as::<String>("a").await.unwrap().as_deref(),
            Some("text")
        );
    }

    #[tokio::test]
    async fn create_and_compare_and_set_act_only_on_what_they_expect() {
        let store = store();
        let first = store.create("a", &1).await.unwrap();
        let error = store.create("a", &2).await.unwrap_err();
        assert!(
            matches!(error, Error::Conflict { current: Some(version), .. } if version == first)
        );
        let second = store.compare_and_set("a", first, &3).await.unwrap();
        let error = store.compare_and_set("a", first, &4).await.unwrap_err();
        assert!(
            matches!(error, Error::Conflict { current: Some(version), .. } if version == second)
        );
        assert_eq!(store.get_as::<u8>("a").await.unwrap(), Some(3));
        store.delete("a").await.unwrap();
        assert!(store.compare_and_set("a", second, &5).await.is_err());
        store.create("a", &6).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn concurrent_updates_all_count() {
        let store = store();
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for _ in 0..50 {
                        let add = |old: Option<u64>| old.unwrap_or(0) + 1;
                        store.update("counter", add).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(store.get_as::<u64>("counter").await.unwrap(), Some(400));
    }

    #[tokio::test]
    async fn update_keeps_the_deadline() {
        let store = store();
        let expires_at = Some(Timestamp(u64::MAX));
        let commit = set_if("a", Condition::Any, &1, expires_at).unwrap();
        store.commit(commit).await.unwrap();
        assert_eq!(
            store
                .update("a", |old: Option<u8>| old.unwrap_or(0) + 1)
                .await
                .unwrap(),
            2
        );
        let entry = store.get(&Key::new("a").unwrap()).await.unwrap().unwrap();
        assert_eq!(entry.expires_at, expires_at);
    }

    #[tokio::test]
    async fn a_value_with_a_time_to_live_expires() {
        let clock = Arc::new(ManualClock::new(Timestamp(1_000)));
        let store = MemoryStore::new(clock.clone());
        store
            .set_for("a", &1, Duration::from_secs(2))
            .await
            .unwrap();
        clock.advance(Duration::from_millis(1_999));
        assert_eq!(store.get_as::<u8>("a").await.unwrap(), Some(1));
        clock.advance(Duration::from_millis(1));
        assert_eq!(store.get_as::<u8>("a").await.unwrap(), None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn concurrent_additions_all_count() {
        let store = store();
        let add = |store: Arc<dyn Store>| async move {
            for _ in 0..50 {
                store.add("counter", 2).await.unwrap();
            }
        };
        let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(add(store.clone()))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(store.add("counter", -1).await.unwrap(), 799);
    }

    #[tokio::test]
    async fn an_addition_without_an_integer_result_changes_nothing() {
        let store = store();
        store.set("most", &i64::MAX).await.unwrap();
        store.set("text", "7").await.unwrap();
        for key in ["most", "text"] {
            let before = store.get(&Key::new(key).unwrap()).await.unwrap();
            let error = store.add(key, 1).await.unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
            assert_eq!(store.get(&Key::new(key).unwrap()).await.unwrap(), before);
        }
    }

    #[tokio::test]
    async fn a_batch_takes_effect_whole_or_not_at_all() {
        let store = store();
        let first = store.set("a", &1).await.unwrap();
        let late = store
            .batch()
            .set("b", &2)
            .check("a", Condition::Absent)
            .delete("a");
        assert!(matches!(
            late.commit().await,
            Err(Error::Conflict { current: Some(version), .. }) if version == first
        ));
        let bad = store.batch().set("b", &2).delete("a//b").delete("a");
        assert!(matches!(bad.commit().await, Err(Error::Invalid { .. })));
        assert_eq!(
            store.get_many_as::<u8>(&["a", "b"]).await.unwrap(),
            [Some(1), None]
        );
        let good = store.batch().set("b", &2).delete("a");
        assert_eq!(good.commit().await.unwrap().existed, [false, true]);
        assert_eq!(
            store.get_many_as::<u8>(&["a", "b"]).await.unwrap(),
            [None, Some(2)]
        );
    }

    #[tokio::test]
    async fn a_collection_holds_the_entries_under_its_prefix() {
        let store = store();
        let numbers = store.collection::<u64>("n/");
        store.set("n", &0).await.unwrap();
        store.set("o", &9).await.unwrap();
        numbers.set("one", &1).await.unwrap();
        numbers.create("two", &2).await.unwrap();
        assert!(numbers.create("two", &3).await.is_err());
        assert_eq!(
            numbers
                .update("two", |old| old.unwrap_or(0) + 2)
                .await
                .unwrap(),
            4
        );
        assert_eq!(
            numbers.get_many(&["two", "three"]).await.unwrap(),
            [Some(4), None]
        );
        assert_eq!(numbers.count().await.unwrap(), 2);
        let all: Vec<(String, u64)> = numbers.entries().try_collect().await.unwrap();
        assert_eq!(all, [("one".to_owned(), 1), ("two".to_owned(), 4)]);
        assert!(numbers.delete("one").await.unwrap());
        assert_eq!(numbers.get("one").await.unwrap(), None);
    }

    #[tokio::test]
    async fn streams_run_over_all_pages() {
        let store = store();
        let names: Vec<String> = (0..2 * PAGE_ENTRIES_MAX + 1)
            .map(|number| format!("k/{number:05}"))
            .collect();
        for name in names.iter().chain([&"other".to_owned()]) {
            store.set(name, name).await.unwrap();
        }
        let keys: Vec<Key> = store.keys("k/").try_collect().await.unwrap();
        assert!(keys.iter().map(Key::as_str).eq(&names));
        let entries: Vec<(Key, Entry)> = store.entries("k/").try_collect().await.unwrap();
        assert_eq!(entries.len(), names.len());
        for (key, entry) in entries {
            assert_eq!(entry.value.to::<String>().unwrap(), key.as_str());
        }
        store.close().await.unwrap();
        let mut closed = store.keys("");
        assert!(closed.next().await.unwrap().is_err());
        assert!(
            closed.next().await.is_none(),
            "it ends after the first error"
        );
    }
}
