//! Values of one type under one prefix.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use kvstore_core::store::ListRequest;
use kvstore_core::{Result, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::RemoteStore;

/// The entries whose keys start with one prefix, each a `T`; made by [`RemoteStore::collection`].
///
/// An *id* is the part of a key after the prefix. Cheap to clone.
///
/// ```no_run
/// # async fn program(kv: kvstore_client::Client) -> kvstore_core::Result<()> {
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct User {
///     name: String,
/// }
///
/// let users = kv.store().collection::<User>("users/");
/// users.set("ada", &User { name: "Ada".into() }).await?;
/// assert_eq!(users.get("ada").await?.expect("it was just set").name, "Ada");
/// # Ok(())
/// # }
/// ```
pub struct Collection<T> {
    store: RemoteStore,
    prefix: String,
    values: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Collection<T> {
    pub(crate) fn new(store: RemoteStore, prefix: &str) -> Self {
        Self {
            store,
            prefix: prefix.to_owned(),
            values: PhantomData,
        }
    }

    /// Returns the key of `id`.
    pub fn key(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }

    /// Returns the value of `id`, or `None` if it is absent.
    ///
    /// # Errors
    /// Those of [`RemoteStore::get_as`].
    pub async fn get(&self, id: &str) -> Result<Option<T>> {
        self.store.get_as(&self.key(id)).await
    }

    /// Returns the values of `ids`, in their order.
    ///
    /// # Errors
    /// Those of [`RemoteStore::get_many_as`].
    pub async fn get_many(&self, ids: &[&str]) -> Result<Vec<Option<T>>> {
        let keys: Vec<String> = ids.iter().map(|id| self.key(id)).collect();
        self.store.get_many_as(&keys).await
    }

    /// Sets `id` to `value`, without a deadline, and returns its version.
    ///
    /// # Errors
    /// Those of [`RemoteStore::set`].
    pub async fn set(&self, id: &str, value: &T) -> Result<Version> {
        self.store.set(&self.key(id), value).await
    }

    /// Sets `id` to `value` for `ttl`, and returns its version.
    ///
    /// # Errors
    /// Those of [`RemoteStore::set_for`].
    pub async fn set_for(&self, id: &str, value: &T, ttl: Duration) -> Result<Version> {
        self.store.set_for(&self.key(id), value, ttl).await
    }

    /// Sets `id` to `value` if it is absent, and returns its version.
    ///
    /// # Errors
    /// Those of [`RemoteStore::create`].
    pub async fn create(&self, id: &str, value: &T) -> Result<Version> {
        self.store.create(&self.key(id), value).await
    }

    /// Replaces the value of `id` with the result of `change`, and returns it.
    ///
    /// # Errors
    /// Those of [`RemoteStore::update`].
    pub async fn update<F>(&self, id: &str, change: F) -> Result<T>
    where
        F: FnMut(Option<T>) -> T + Send,
    {
        self.store.update(&self.key(id), change).await
    }

    /// Deletes `id`, and returns true if it was present.
    ///
    /// # Errors
    /// Those of [`RemoteStore::delete`].
    pub async fn delete(&self, id: &str) -> Result<bool> {
        self.store.delete(&self.key(id)).await
    }

    /// Returns the number of entries.
    ///
    /// # Errors
    /// Those of [`RemoteStore::list`].
    pub async fn count(&self) -> Result<u64> {
        let request = ListRequest {
            prefix: self.prefix.clone(),
            limit: 1,
            count: true,
            ..ListRequest::default()
        };
        Ok(self.store.list(&request).await?.count.unwrap_or_default())
    }

    /// Streams all ids with their values in byte order, read page by page as the stream is polled.
    ///
    /// An entry that exists during the whole iteration appears exactly once; the stream ends after
    /// the first error.
    pub fn entries(&self) -> BoxStream<'static, Result<(String, T)>> {
        let prefix = self.prefix.len();
        let entries = self.store.entries(&self.prefix);
        entries
            .and_then(move |(key, entry)| async move {
                Ok((key.as_str()[prefix..].to_owned(), entry.value.to()?))
            })
            .boxed()
    }
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            prefix: self.prefix.clone(),
            values: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Collection").field(&self.prefix).finish()
    }
}
