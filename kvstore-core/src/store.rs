//! The contract of a store: what every backend promises to its readers, writers and followers.
//!
//! Deliberately not here: commands and their conditions (`command.rs` turns them into a
//! [`Commit`]), queues (`queue.rs`), and convenience methods ([`crate::store_ext::StoreExt`], the
//! same for all stores). There are no default methods, so no wrapper can lose one unnoticed; what
//! one backend cannot do is not in the trait. The suite in [`crate::conformance`] (feature
//! `conformance`) checks each sentence below.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;

use crate::error::{Error, Result, Subject};
use crate::limits::{CHANGES_MAX, DEAD_LETTERS_MAX, OUTCOMES_MAX, PAGE_ENTRIES_MAX};
use crate::model::commit::{Commit, Committed};
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use crate::model::job::{DeadLetter, JobState};
use crate::model::key::Key;
use crate::model::value::Value;

/// Entries under keys, changed by atomic commits, which also record how far a queue has been
/// applied.
///
/// # What holds for every store
/// * **Atomic**: a commit is seen whole or not at all, by readers, watchers and recovery.
/// * **Durable**: what a method has acknowledged survives the events that the backend names (JSON
///   file: loss of power; Redis: whatever the server's own persistence promises; memory: none). A
///   reader never sees a value that a crash could take back.
/// * **Expired is absent**: past its deadline an entry is absent in every method, by the store's
///   own clock, which never goes back.
/// * **Versions** grow with every change of a key and are never used twice for it, whatever is
///   deleted, created again or restarted.
/// * **Dropping a future** does not cancel a call: it may still take effect.
///
/// # Errors
/// Besides the errors that it names, any method may fail with [`Error::Unavailable`] (nothing
/// happened), [`Error::Unknown`] (for those that change something: it may have happened) and
/// [`Error::Poisoned`] (an earlier write failed; reads continue).
///
/// ```
/// use kvstore_core::model::commit::Commit;
/// use kvstore_core::model::write::{Change, Write};
/// use kvstore_core::{Key, Store, Value};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let store = kvstore_core::memory::MemoryStore::default();
/// let key = Key::new("price")?;
/// let change = Change::Set { value: Value::parse("1.50")?, expires_at: None };
/// let writes = vec![Write { key: key.clone(), change }];
/// let committed = store.commit(Commit { writes, ..Commit::default() }).await?;
///
/// let entry = store.get(&key).await?.expect("it is visible");
/// assert_eq!(entry.value.as_str(), "1.50");
/// assert_eq!(entry.version, committed.first_version);
/// # Ok::<(), kvstore_core::Error>(())
/// # }).unwrap();
/// ```
///
/// [`StoreExt`](crate::StoreExt) does the same in one line.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Returns the number of partitions that a queue must have to be used with this store; `None`
    /// if any number will do.
    fn partitions(&self) -> Option<PartitionCount>;

    /// Returns the entry under `key`, or `None`.
    ///
    /// # Cost
    /// JSON file and memory: no I/O, one lookup in an ordered map; values up to 4 KiB are copied,
    /// larger ones shared. Redis: one round trip.
    async fn get(&self, key: &Key) -> Result<Option<Entry>>;

    /// Returns the entries under `keys`, in their order, all read at one moment (at one moment per
    /// partition, if there are several).
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>>;

    /// Returns one page of the keys, in byte order. A page is read at one moment per partition; a
    /// key that exists throughout an iteration over the pages appears in it exactly once.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit outside 1 to [`PAGE_ENTRIES_MAX`] or an empty delimiter.
    async fn list(&self, request: &ListRequest) -> Result<Page>;

    /// Applies all of `commit` atomically if every check in it holds, and returns the versions of
    /// its writes. This is the only way to write.
    ///
    /// Checks are judged first, then the position; then the writes are made in order. On `Err`
    /// nothing has happened, unless the error is `Unknown`: then the commit may or may not have
    /// happened, so read before you repeat it.
    ///
    /// A delete of an absent key uses up a version and changes nothing else; watchers do not see
    /// it.
    ///
    /// # Errors
    /// * [`Error::Conflict`] names the first check that failed.
    /// * [`Error::Stale`] if the partition is not at `advance.from`.
    /// * [`Error::WrongQueue`] if `advance` belongs to another queue than the store's active one.
    /// * [`Error::Invalid`] if `advance` does not move forward, or if its outcomes are out of
    ///   order, concern jobs that it does not pass, or name writes that do not exist.
    /// * [`Error::Full`] if it holds a dead letter and there is no room for one more.
    /// * [`Error::StorageFull`].
    ///
    /// # Cost
    /// JSON file: one appended line and a share of one `fdatasync`, independent of the size of the
    /// data. Redis: one round trip.
    async fn commit(&self, commit: Commit) -> Result<Committed>;

    /// Returns how far `queue`'s partition has been applied: [`Position::START`] for a queue never
    /// seen.
    async fn applied(&self, queue: QueueId, partition: Partition) -> Result<Position>;

    /// Returns the queue whose jobs this store applies; `None` until the first commit that advances
    /// one.
    async fn active_queue(&self) -> Result<Option<QueueId>>;

    /// Makes `queue` the store's active one. Jobs that wait in the previous queue are no longer
    /// applied, so this is an operator's decision and never happens by itself.
    async fn adopt_queue(&self, queue: QueueId) -> Result<()>;

    /// Returns the state of a job as soon as it is finished, or after `wait`, whichever comes
    /// first.
    ///
    /// Wakes as soon as the position passes the job, whichever process applied it. Outcomes are
    /// kept for a bounded time and in bounded number: an older one is [`JobState::Forgotten`], one
    /// of another queue or of a lost interval [`JobState::Unknown`]. A store cannot know where a
    /// queue ends: ask [`JobQueue::find`](crate::queue::JobQueue::find) about a job that it reports
    /// as queued.
    async fn outcome(&self, job: &JobId, wait: Duration) -> Result<JobState>;

    /// Removes entries of `partition` whose deadline has passed, and announces them to watchers.
    /// Returns how many it removed, at most [`EXPIRE_BATCH`](crate::limits::EXPIRE_BATCH) per call.
    /// Workers call it; a store without partitions treats 0 as all of its entries.
    async fn expire(&self, partition: Partition) -> Result<usize>;

    /// Returns a page of the dead letters, in ascending order of id.
    async fn dead(&self, request: &DeadRequest) -> Result<DeadPage>;

    /// Drops a dead letter, and returns true if it existed. The job is [`JobState::Forgotten`] from
    /// then on.
    async fn forget(&self, job: &JobId) -> Result<bool>;

    /// Streams the changes from a point on, for each key in the order in which they became visible.
    ///
    /// The stream ends with [`Error::Compacted`] if the reader falls behind the history that is
    /// kept.
    ///
    /// # Errors
    /// [`Error::Compacted`] if that point is no longer in the history, or was never in it;
    /// [`Error::Invalid`] for an id that no store of this kind hands out.
    async fn watch(&self, request: &WatchRequest) -> Result<Watch>;

    /// Returns how far a store that another process writes may lag: the time since it last had
    /// everything that was acknowledged, as far as it knows. `None` for a store that never lags,
    /// because it is the one that is written. Reads catch up first, so they lag less than this.
    fn lag(&self) -> Option<Duration>;

    /// Checks that it would answer now: `Ok` if reads, and writes if it takes any, are possible.
    async fn ping(&self) -> Result<()>;

    /// Finishes what is in flight, brings files up to date and releases what the process holds
    /// (locks, connections). Later calls fail with [`Error::Unavailable`]. Closing twice is not an
    /// error.
    async fn close(&self) -> Result<()>;
}

/// The selection for a page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// Only keys that start with this prefix.
    pub prefix: String,
    /// Only what follows this [`Page::next`] of the same request.
    pub after: Option<String>,
    /// The maximum of entries and common prefixes together, 1 to [`PAGE_ENTRIES_MAX`].
    pub limit: usize,
    /// Folds keys that contain this after the prefix into one common prefix, which ends with its
    /// first occurrence there.
    pub delimiter: Option<String>,
    /// True to return values.
    pub include_values: bool,
    /// True to count all keys that start with the prefix. The count is exact. JSON file and memory:
    /// microseconds. Redis: the cost grows with the number of keys.
    pub count: bool,
}

impl Default for ListRequest {
    /// Selects the first 100 keys, without values.
    fn default() -> Self {
        Self {
            prefix: String::new(),
            after: None,
            limit: 100,
            delimiter: None,
            include_values: false,
            count: false,
        }
    }
}

impl ListRequest {
    pub(crate) fn check(&self) -> Result<()> {
        if !(1..=PAGE_ENTRIES_MAX).contains(&self.limit) {
            return Err(Error::invalid(
                Subject::Limit,
                format!("it must be from 1 to {PAGE_ENTRIES_MAX}"),
            ));
        }
        if self.delimiter.as_deref() == Some("") {
            return Err(Error::invalid(Subject::Delimiter, "it must not be empty"));
        }
        Ok(())
    }

    /// Returns where the page begins; `None` if nothing can be on it.
    pub(crate) fn start(&self) -> Option<Bound<String>> {
        match &self.after {
            Some(after) if *after >= self.prefix => match self.folded(after) {
                Some(fold) => behind_prefix(&fold).map(Bound::Included),
                None => Some(Bound::Excluded(after.clone())),
            },
            _ => Some(Bound::Included(self.prefix.clone())),
        }
    }

    /// Returns the common prefix that `name` (a key, or such a prefix) is folded into.
    pub(crate) fn folded(&self, name: &str) -> Option<String> {
        let delimiter = self.delimiter.as_deref()?;
        let rest = name.strip_prefix(self.prefix.as_str())?;
        let end = self.prefix.len() + rest.find(delimiter)? + delimiter.len();
        Some(name[..end].to_owned())
    }
}

/// Returns the first text after all that start with `prefix`, in byte order; `None` if there is
/// none.
pub(crate) fn behind_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The next character also has the next bytes, since UTF-8 preserves the order; surrogates
        // are not characters.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries, in byte order of their keys.
    pub entries: Vec<Listed>,
    /// The common prefixes, in byte order.
    pub prefixes: Vec<String>,
    /// The start of the next page; `None` on the last.
    pub next: Option<String>,
    /// The number of keys that start with the prefix, if requested.
    pub count: Option<u64>,
    /// The place in the history of changes that the page shows: a watch from [`WatchFrom::After`]
    /// it misses nothing that follows, and may repeat what the page already shows. For a whole
    /// listing, use the one of the first page.
    pub as_of: ChangeId,
}

impl Page {
    /// Returns a page without entries.
    pub fn empty(as_of: ChangeId) -> Self {
        Self {
            entries: Vec::new(),
            prefixes: Vec::new(),
            next: None,
            count: None,
            as_of,
        }
    }
}

/// An entry in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// Its version.
    pub version: Version,
    /// The length of its value, in bytes.
    pub size: usize,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// Its value, if requested.
    pub value: Option<Value>,
}

/// The selection for a page of dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRequest {
    /// Only letters after this one.
    pub after: Option<JobId>,
    /// The maximum number of letters on the page.
    pub limit: usize,
}

/// How much a store that is held in memory keeps besides its entries, at most. Each is bounded in
/// bytes, too, by [`crate::limits`].
///
/// ```
/// use kvstore_core::store::Retention;
///
/// let retention = Retention { outcomes: 1000, ..Retention::default() };
/// assert_eq!(retention.changes, kvstore_core::limits::CHANGES_MAX);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The changes that a watch can start from.
    pub changes: usize,
    /// The outcomes of each partition; beyond that the oldest are dropped, and their jobs become
    /// unknown.
    pub outcomes: usize,
    /// The dead letters of each partition; beyond that the partition waits.
    pub dead_letters: usize,
}

impl Default for Retention {
    /// Returns the defaults of [`crate::limits`].
    fn default() -> Self {
        Self {
            changes: CHANGES_MAX,
            outcomes: OUTCOMES_MAX,
            dead_letters: DEAD_LETTERS_MAX,
        }
    }
}

/// A page of dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadPage {
    /// The letters, in ascending order of id.
    pub letters: Vec<DeadLetter>,
    /// True if more letters follow.
    pub more: bool,
}

/// The selection for a watch.
///
/// Changes that it filters out cost next to nothing, even with many watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// The starting point.
    pub from: WatchFrom,
    /// Only keys that start with this prefix.
    pub prefix: String,
    /// Only changes of these kinds.
    pub kinds: Vec<ChangeKind>,
    /// True to return values.
    pub include_values: bool,
}

impl WatchRequest {
    /// Returns true if the watch shows this change.
    pub fn shows(&self, key: &Key, kind: ChangeKind) -> bool {
        self.kinds.contains(&kind) && key.as_str().starts_with(&self.prefix)
    }
}

impl Default for WatchRequest {
    /// Selects all changes from now on, with values.
    fn default() -> Self {
        WatchFrom::Now.into()
    }
}

impl From<WatchFrom> for WatchRequest {
    fn from(from: WatchFrom) -> Self {
        Self {
            from,
            prefix: String::new(),
            kinds: ChangeKind::ALL.to_vec(),
            include_values: true,
        }
    }
}

/// The starting point of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// The first change after this call.
    Now,
    /// After a change seen before: nothing after it is missed.
    After(ChangeId),
}

/// A place in the history of changes, opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChangeId(String);

impl ChangeId {
    /// Wraps text that [`ChangeId::as_str`] returned.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Changes as they become visible.
pub struct Watch {
    /// The starting point: a later watch from here misses nothing that this one would have shown.
    pub start: ChangeId,
    /// The changes. The stream only ends with an error or when the store is closed.
    pub changes: BoxStream<'static, Result<Changed>>,
    /// Returns the place up to which all changes that the watch shows have been taken from it. If
    /// few changes are shown, it moves far ahead of the last one shown.
    pub place: Box<dyn Fn() -> ChangeId + Send + Sync>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

/// One change, as a watch shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its place in the history, to continue from with [`WatchFrom::After`].
    pub id: ChangeId,
    /// The key.
    pub key: Key,
    /// The version of the change.
    pub version: Version,
    /// What happened.
    pub kind: ChangeKind,
    /// For [`ChangeKind::Set`], if values were requested, the value, as long as this version is
    /// still the current one of the key and has not expired; once it is replaced, a later change
    /// brings the newer value.
    pub value: Option<Value>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It got a new value.
    Set,
    /// It was made absent.
    Delete,
    /// Its deadline passed.
    Expire,
}

impl ChangeKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Set, Self::Delete, Self::Expire];
}

/// Forwards to the shared store.
impl<S: Store + ?Sized> Store for Arc<S> {
    crate::forward_store!(|self| &**self);
}

/// Forwards methods of [`Store`] to another store, inside an `impl Store for …`.
///
/// `forward_store!(|self| &self.0)` forwards all of them;
/// `forward_store!(|self| &self.0; except commit ping)` leaves out those that the wrapper
/// implements itself. The trait has no default methods, so none can be forgotten.
///
/// ```
/// use kvstore_core::model::commit::{Commit, Committed};
/// use kvstore_core::{Result, Store};
///
/// /// Reads like the store inside, and logs every commit.
/// #[derive(Debug)]
/// struct Logged<S>(S);
///
/// #[async_trait::async_trait]
/// impl<S: Store> Store for Logged<S> {
///     async fn commit(&self, commit: Commit) -> Result<Committed> {
///         eprintln!("{} writes", commit.writes.len());
///         self.0.commit(commit).await
///     }
///     kvstore_core::forward_store!(|self| &self.0; except commit);
/// }
/// ```
#[macro_export]
macro_rules! forward_store {
    (|$self:ident| $inner:expr $(; except $($except:ident)+)?) => {
        $crate::forward_store!(@each [$($($except)+)?] $self [$inner]
            partitions get get_many list commit applied active_queue adopt_queue outcome expire dead forget watch lag ping close
        );
    };
    (@each $except:tt $self:ident $inner:tt $($method:ident)+) => {
        $($crate::forward_store!(@unless $method $except $self $inner);)+
    };

    (@unless $method:ident [] $self:ident [$inner:expr]) => {
        $crate::forward_store!(@method $method $self, $inner);
    };
    (@unless partitions [partitions $($rest:ident)*] $($other:tt)*) => {};
    (@unless get [get $($rest:ident)*] $($other:tt)*) => {};
    (@unless get_many [get_many $($rest:ident)*] $($other:tt)*) => {};
    (@unless list [list $($rest:ident)*] $($other:tt)*) => {};
    (@unless commit [commit $($rest:ident)*] $($other:tt)*) => {};
    (@unless applied [applied $($rest:ident)*] $($other:tt)*) => {};
    (@unless active_queue [active_queue $($rest:ident)*] $($other:tt)*) => {};
    (@unless adopt_queue [adopt_queue $($rest:ident)*] $($other:tt)*) => {};
    (@unless outcome [outcome $($rest:ident)*] $($other:tt)*) => {};
    (@unless expire [expire $($rest:ident)*] $($other:tt)*) => {};
    (@unless dead [dead $($rest:ident)*] $($other:tt)*) => {};
    (@unless forget [forget $($rest:ident)*] $($other:tt)*) => {};
    (@unless watch [watch $($rest:ident)*] $($other:tt)*) => {};
    (@unless lag [lag $($rest:ident)*] $($other:tt)*) => {};
    (@unless ping [ping $($rest:ident)*] $($other:tt)*) => {};
    (@unless close [close $($rest:ident)*] $($other:tt)*) => {};
    (@unless $method:ident [$another:ident $($rest:ident)*] $($other:tt)*) => {
        $crate::forward_store!(@unless $method [$($rest)*] $($other)*);
    };

    (@method partitions $self:ident, $inner:expr) => {
        fn partitions(&$self) -> ::core::option::Option<$crate::model::id::PartitionCount> {
            $crate::store::Store::partitions($inner)
        }
    };
    (@method lag $self:ident, $inner:expr) => {
        fn lag(&$self) -> ::core::option::Option<::core::time::Duration> {
            $crate::store::Store::lag($inner)
        }
    };
    (@method get $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: get($self, $inner; &key: $crate::model::key::Key)
            -> $crate::error::Result<::core::option::Option<$crate::model::entry::Entry>>);
    };
    (@method get_many $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: get_many($self, $inner; &keys: [$crate::model::key::Key])
            -> $crate::error::Result<::std::vec::Vec<::core::option::Option<$crate::model::entry::Entry>>>);
    };
    (@method list $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: list($self, $inner; &request: $crate::store::ListRequest)
            -> $crate::error::Result<$crate::store::Page>);
    };
    (@method commit $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: commit($self, $inner; commit: $crate::model::commit::Commit)
            -> $crate::error::Result<$crate::model::commit::Committed>);
    };
    (@method applied $self:ident, $inner:expr) => {
        $crate::__forward!(
            $crate::store::Store: applied($self, $inner; queue: $crate::model::id::QueueId, partition: $crate::model::id::Partition)
            -> $crate::error::Result<$crate::model::id::Position>);
    };
    (@method active_queue $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: active_queue($self, $inner;)
            -> $crate::error::Result<::core::option::Option<$crate::model::id::QueueId>>);
    };
    (@method adopt_queue $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: adopt_queue($self, $inner; queue: $crate::model::id::QueueId)
            -> $crate::error::Result<()>);
    };
    (@method outcome $self:ident, $inner:expr) => {
        $crate::__forward!(
            $crate::store::Store: outcome($self, $inner; &job: $crate::model::id::JobId, wait: ::core::time::Duration)
            -> $crate::error::Result<$crate::model::job::JobState>);
    };
    (@method expire $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: expire($self, $inner; partition: $crate::model::id::Partition)
            -> $crate::error::Result<usize>);
    };
    (@method dead $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: dead($self, $inner; &request: $crate::store::DeadRequest)
            -> $crate::error::Result<$crate::store::DeadPage>);
    };
    (@method forget $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: forget($self, $inner; &job: $crate::model::id::JobId)
            -> $crate::error::Result<bool>);
    };
    (@method watch $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: watch($self, $inner; &request: $crate::store::WatchRequest)
            -> $crate::error::Result<$crate::store::Watch>);
    };
    (@method ping $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: ping($self, $inner;) -> $crate::error::Result<()>);
    };
    (@method close $self:ident, $inner:expr) => {
        $crate::__forward!($crate::store::Store: close($self, $inner;) -> $crate::error::Result<()>);
    };
}

/// Expands to one asynchronous method as `async_trait` would, and returns the future of the inner
/// method unchanged.
#[doc(hidden)]
#[macro_export]
macro_rules! __forward {
    ($trait:path: $method:ident($self:ident, $inner:expr; &$first:ident: $first_type:ty $(, $arg:ident: $type:ty)*) -> $out:ty) => {
        fn $method<'life0, 'life1, 'async_trait>(
            &'life0 $self,
            $first: &'life1 $first_type,
            $($arg: $type),*
        ) -> ::core::pin::Pin<::std::boxed::Box<dyn ::core::future::Future<Output = $out> + ::core::marker::Send + 'async_trait>>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            Self: 'async_trait,
        {
            <_ as $trait>::$method($inner, $first $(, $arg)*)
        }
    };
    ($trait:path: $method:ident($self:ident, $inner:expr; $($arg:ident: $type:ty),*) -> $out:ty) => {
        fn $method<'life0, 'async_trait>(
            &'life0 $self,
            $($arg: $type),*
        ) -> ::core::pin::Pin<::std::boxed::Box<dyn ::core::future::Future<Output = $out> + ::core::marker::Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            <_ as $trait>::$method($inner $(, $arg)*)
        }
    };
}
