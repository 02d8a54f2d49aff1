//! The entries of a server, with the methods of `StoreExt`.

use std::time::Duration;

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use kvstore_core::limits::PAGE_ENTRIES_MAX;
use kvstore_core::model::commit::Committed;
use kvstore_core::model::job::JobState;
use kvstore_core::model::write::Condition;
use kvstore_core::service::Submitted;
use kvstore_core::store::{ListRequest, Listed, Page, Watch, WatchRequest};
use kvstore_core::{Entry, Error, Key, Result, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::Batch;
use crate::collection::Collection;
use crate::service::{RemoteService, Submission};
use crate::watch::Watching;

/// How long a write waits to be applied.
const APPLIED_WAIT: Duration = Duration::from_secs(60);

/// The entries of a server: the methods of [`StoreExt`](kvstore_core::StoreExt), and the reads of
/// [`Store`](kvstore_core::Store). Cheap to clone.
///
/// A write goes through the server's queue like any other, in the order of its key, and returns
/// once it is applied and durable.
///
/// ```no_run
/// # async fn program() -> kvstore_core::Result<()> {
/// use futures_util::TryStreamExt;
/// use kvstore_client::Client;
///
/// let kv = Client::open("http://127.0.0.1:8000").await?;
/// let store = kv.store();
/// let first = store.create("visits", &1).await?;
/// store.compare_and_set("visits", first, &2).await?;
/// store.update("visits", |visits: Option<u64>| visits.unwrap_or(0) + 1).await?;
/// let keys: Vec<_> = store.keys("user:").try_collect().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// All methods return [`Error::Invalid`] for a key that breaks the rules of [`Key`], for a stored
/// value that is not of the requested type, and for a value that cannot be serialized as JSON;
/// [`Error::Unavailable`] if nothing happened, and [`Error::Unknown`] if that is not known;
/// [`Error::Denied`] if the token does not suffice.
#[derive(Clone, Debug)]
pub struct RemoteStore {
    service: RemoteService,
}

impl RemoteStore {
    pub(crate) fn new(service: RemoteService) -> Self {
        Self { service }
    }

    /// Returns the entry under `key`, or `None`.
    ///
    /// # Errors
    /// Those named above.
    pub async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.service.get(key).await
    }

    /// Returns the entries under `keys`, in their order.
    ///
    /// # Errors
    /// Those of [`RemoteService::get_many`].
    pub async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        self.service.get_many(keys).await
    }

    /// Returns a page of keys.
    ///
    /// # Errors
    /// Those of [`RemoteService::list`].
    pub async fn list(&self, request: &ListRequest) -> Result<Page> {
        self.service.list(request).await
    }

    /// Returns the changes from a point on, as [`Store::watch`](kvstore_core::Store::watch) does.
    /// The stream resumes by itself when the connection breaks; it may then repeat a change, but
    /// never skips one. [`Client::watch`](crate::Client::watch) can begin with a snapshot.
    ///
    /// # Errors
    /// [`Error::Compacted`], here or from the stream, if that point is no longer in the history.
    pub async fn watch(&self, request: &WatchRequest) -> Result<Watch> {
        Watching::new(self.service.transport().clone(), &request.prefix)
            .changes(request)
            .await
    }

    /// Returns the value under `key`, deserialized as a `T`, or `None` if it is absent.
    ///
    /// # Errors
    /// Those named above.
    pub async fn get_as<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let entry = self.get(&Key::new(key)?).await?;
        entry.map(|entry| entry.value.to()).transpose()
    }

    /// Returns the values under `keys`, in their order, each deserialized as a `T`, or `None` where
    /// it is absent.
    ///
    /// # Errors
    /// Those of [`RemoteService::get_many`].
    pub async fn get_many_as<T: DeserializeOwned>(
        &self,
        keys: &[impl AsRef<str>],
    ) -> Result<Vec<Option<T>>> {
        let keys: Result<Vec<Key>> = keys.iter().map(|key| Key::new(key.as_ref())).collect();
        let entries = self.get_many(&keys?).await?.into_iter();
        entries
            .map(|entry| entry.map(|entry| entry.value.to()).transpose())
            .collect()
    }

    /// Sets `key` to `value`, without a deadline, and returns its version.
    ///
    /// # Errors
    /// Those named above.
    pub async fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<Version> {
        version(self.service.set(key, value)).await
    }

    /// Sets `key` to `value` for `ttl`, in whole seconds, and returns its version.
    ///
    /// # Errors
    /// Those named above.
    pub async fn set_for<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        ttl: Duration,
    ) -> Result<Version> {
        version(self.service.set(key, value).expires_after(ttl)).await
    }

    /// Adds `by` to the 64-bit integer under `key` (0 if it is absent), and returns the sum. The
    /// entry keeps its deadline.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the value is not a 64-bit integer, or the sum would not fit in one.
    pub async fn add(&self, key: &str, by: i64) -> Result<i64> {
        let added = applied(self.service.add(key, by)).await?;
        added.number().ok_or_else(|| no_details(&added))
    }

    /// Deletes `key`, and returns true if it was present.
    ///
    /// # Errors
    /// Those named above.
    pub async fn delete(&self, key: &str) -> Result<bool> {
        let deleted = applied(self.service.delete(key)).await?;
        deleted.existed().ok_or_else(|| no_details(&deleted))
    }

    /// Sets `key` to `value` if it is absent, and returns its version.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is present.
    pub async fn create<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<Version> {
        version(self.service.set(key, value).if_absent()).await
    }

    /// Sets `key` to `value`, without a deadline, if its version is still `expected`, and returns
    /// the new version.
    ///
    /// # Errors
    /// [`Error::Conflict`] with the current version if it is a different one.
    pub async fn compare_and_set<T: Serialize + ?Sized>(
        &self,
        key: &str,
        expected: Version,
        value: &T,
    ) -> Result<Version> {
        version(self.service.set(key, value).if_version(expected)).await
    }

    /// Replaces the value under `key` with the result of `change` (called with `None` if it is
    /// absent), and returns it.
    ///
    /// No write is lost: if another one came first, `change` is called again with the newer value.
    /// The entry keeps its deadline.
    ///
    /// # Errors
    /// Those named above.
    pub async fn update<T, F>(&self, key: &str, mut change: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnMut(Option<T>) -> T + Send,
    {
        let name = Key::new(key)?;
        loop {
            let entry = self.get(&name).await?;
            let condition = Condition::unchanged(entry.as_ref().map(|entry| entry.version));
            let old = entry.map(|entry| entry.value.to()).transpose()?;
            let new = change(old);
            let set = self.service.set(key, &new).keep_ttl().under(condition);
            match applied(set).await {
                Ok(_) => return Ok(new),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes every key that starts with `prefix`, and returns how many there were.
    ///
    /// The server does this in several jobs: it is not atomic, and a key that is written meanwhile
    /// may remain.
    ///
    /// # Errors
    /// [`Error::Unknown`] if some of them may be left; repeating the call is safe.
    pub async fn delete_all(&self, prefix: &str) -> Result<u64> {
        self.service.delete_all(prefix, APPLIED_WAIT).await
    }

    /// Begins a batch: changes that take effect together or not at all.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(&self.service)
    }

    /// Returns the collection of `T`s whose keys start with `prefix`.
    pub fn collection<T>(&self, prefix: &str) -> Collection<T>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        Collection::new(self.clone(), prefix)
    }

    /// Streams the keys that start with `prefix`, in byte order, read page by page as the stream is
    /// polled.
    ///
    /// A key that exists during the whole iteration appears exactly once; the stream ends after the
    /// first error.
    pub fn keys(&self, prefix: &str) -> BoxStream<'static, Result<Key>> {
        self.listed(prefix, false)
            .map_ok(|listed| listed.key)
            .boxed()
    }

    /// Streams the entries whose keys start with `prefix`: like [`RemoteStore::keys`], with values.
    pub fn entries(&self, prefix: &str) -> BoxStream<'static, Result<(Key, Entry)>> {
        self.listed(prefix, true)
            .try_filter_map(|listed| async move {
                // Every entry has a value, since the request asks for values.
                Ok(listed.value.map(|value| {
                    let (version, expires_at) = (listed.version, listed.expires_at);
                    let entry = Entry {
                        value,
                        version,
                        expires_at,
                    };
                    (listed.key, entry)
                }))
            })
            .boxed()
    }

    /// Streams the listed keys that start with `prefix`, with or without values.
    pub fn listed(&self, prefix: &str, include_values: bool) -> BoxStream<'static, Result<Listed>> {
        let first = ListRequest {
            prefix: prefix.to_owned(),
            limit: PAGE_ENTRIES_MAX,
            include_values,
            ..ListRequest::default()
        };
        let pages = stream::try_unfold(
            (self.service.clone(), Some(first)),
            |(service, request)| async move {
                let Some(request) = request else {
                    return Ok(None);
                };
                let page = service.list(&request).await?;
                let next = page.next.map(|after| ListRequest {
                    after: Some(after),
                    ..request
                });
                let entries = stream::iter(page.entries.into_iter().map(Ok));
                Ok(Some((entries, (service, next))))
            },
        );
        pages.try_flatten().boxed()
    }
}

/// Sends a write and waits until it is applied.
pub(crate) async fn applied(write: Submission<'_>) -> Result<Submitted> {
    let submitted = write.wait(APPLIED_WAIT).await?;
    match submitted.state {
        JobState::Queued => Err(Error::Unknown {
            what: format!(
                "the write {} has been applied: it is queued, and will be",
                submitted.id
            ),
            source: None,
        }),
        _ => Ok(submitted),
    }
}

async fn version(write: Submission<'_>) -> Result<Version> {
    let submitted = applied(write).await?;
    submitted.version().ok_or_else(|| no_details(&submitted))
}

/// Sends a batch, and returns its effects.
pub(crate) async fn committed(write: Submission<'_>) -> Result<Committed> {
    let submitted = applied(write).await?;
    let Some(first_version) = submitted.version() else {
        return Err(no_details(&submitted));
    };
    Ok(Committed {
        first_version,
        existed: submitted
            .applied()
            .iter()
            .map(|write| write.existed)
            .collect(),
    })
}

/// Returns the error for a write that is applied but whose effect the server no longer knows.
fn no_details(submitted: &Submitted) -> Error {
    Error::Unknown {
        what: format!(
            "the write {} created or replaced its entries: it is applied, and its details are no longer kept",
            submitted.id
        ),
        source: None,
    }
}
