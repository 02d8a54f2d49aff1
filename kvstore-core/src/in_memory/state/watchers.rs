//! The watchers, and what is handed to each. A commit prepares a change once for all who watch it,
//! and wakes no others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::State;
use super::row::Row;
use crate::model::entry::{Timestamp, Version};
use crate::model::key::Key;
use crate::store::{ChangeId, ChangeKind, Changed, WatchRequest};

/// The maximum number of changes that wait for a watcher, and of their bytes. A watcher further
/// behind reads the history.
const QUEUE_MAX: usize = 256;
const QUEUE_BYTES_MAX: usize = 1 << 20;

/// One watcher.
#[derive(Debug)]
pub(super) struct Watcher {
    id: usize,
    pub(super) request: WatchRequest,
    pub(super) changed: Notify,
    place: Mutex<WatcherProgress>,
}

/// How far a watcher is.
#[derive(Debug)]
pub(super) struct WatcherProgress {
    /// Changes handed to it that it has not taken.
    queue: VecDeque<Arc<Prepared>>,
    bytes: usize,
    /// The last change that it has taken, or where it began.
    pub(super) taken: Version,
    /// It was handed all the changes it watches up to this version, or all of them if it is not
    /// behind.
    pub(super) up_to: Version,
    /// New changes are not handed to it: it reads the history.
    pub(super) is_behind: bool,
    /// Set once the state is replaced or the store closed.
    pub(super) ended: Option<Ended>,
}

/// Why a watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Replaced,
    Closed,
}

impl Watcher {
    pub(super) fn place(&self) -> MutexGuard<'_, WatcherProgress> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatcherProgress {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_MAX || self.bytes >= QUEUE_BYTES_MAX
    }

    fn hand(&mut self, change: &Arc<Prepared>) {
        self.is_behind |= self.is_full();
        if !self.is_behind {
            self.up_to = change.changed.version;
            self.push(Arc::clone(change));
        }
    }

    pub(super) fn push(&mut self, change: Arc<Prepared>) {
        self.bytes += change.bytes();
        self.queue.push_back(change);
    }

    /// Takes the next change as of `now`: its value may have expired since.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<Changed> {
        let change = self.queue.pop_front()?;
        self.bytes -= change.bytes();
        let mut prepared = Arc::unwrap_or_clone(change);
        self.taken = prepared.changed.version;
        if prepared.expires_at.is_some_and(|deadline| deadline <= now) {
            prepared.changed.value = None;
        }
        Some(prepared.changed)
    }
}

/// A change, prepared for watchers.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    changed: Changed,
    /// When its value expires.
    expires_at: Option<Timestamp>,
}

impl Prepared {
    /// Prepares a change of `state`. Its value is included if it is wanted and still present.
    pub(super) fn new(
        state: &State,
        version: Version,
        key: &Key,
        kind: ChangeKind,
        wants_value: bool,
    ) -> Arc<Self> {
        let row = wants_value.then(|| state.table.get(key)).flatten();
        let row = row.filter(|row| row.version() == version);
        let changed = Changed {
            id: change_id(version),
            key: key.clone(),
            version,
            kind,
            value: row.map(Row::value),
        };
        let expires_at = row.and_then(Row::expires_at);
        Arc::new(Self {
            changed,
            expires_at,
        })
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.changed.value.as_ref().map_or(0, |value| value.len())
    }
}

/// All watchers, by the prefixes that they watch.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    count: AtomicUsize,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    next_id: usize,
    by_prefix: HashMap<String, Vec<Arc<Watcher>>>,
    /// How many prefixes have each length: a key is looked up by its own prefixes of these lengths.
    lengths: BTreeMap<usize, usize>,
}

impl Watchers {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn are_there(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Adds a watcher that was handed everything up to `up_to`. Called while the state is locked.
    pub(super) fn add(
        &self,
        request: WatchRequest,
        up_to: Version,
        is_behind: bool,
    ) -> Arc<Watcher> {
        let mut all = self.all();
        all.next_id += 1;
        let watcher = Arc::new(Watcher {
            id: all.next_id,
            changed: Notify::new(),
            place: Mutex::new(WatcherProgress {
                queue: VecDeque::new(),
                bytes: 0,
                taken: up_to,
                up_to,
                is_behind,
                ended: None,
            }),
            request,
        });
        let prefix = &watcher.request.prefix;
        if !all.by_prefix.contains_key(prefix) {
            *all.lengths.entry(prefix.len()).or_default() += 1;
        }
        let same = all.by_prefix.entry(prefix.clone()).or_default();
        same.push(Arc::clone(&watcher));
        self.count.fetch_add(1, Ordering::SeqCst);
        watcher
    }

    pub(super) fn remove(&self, watcher: &Watcher) {
        let mut all = self.all();
        let prefix = &watcher.request.prefix;
        let Some(same) = all.by_prefix.get_mut(prefix) else {
            return;
        };
        same.retain(|other| other.id != watcher.id);
        self.count.fetch_sub(1, Ordering::SeqCst);
        if same.is_empty() {
            all.by_prefix.remove(prefix);
            if let Some(count) = all.lengths.get_mut(&prefix.len()) {
                *count -= 1;
                if *count == 0 {
                    all.lengths.remove(&prefix.len());
                }
            }
        }
    }

    /// Hands out the changes of `state` after version `before`, which were just made, and returns
    /// the watchers to wake once the state is unlocked.
    pub(super) fn hand_out(&self, state: &State, before: Version) -> Vec<Arc<Watcher>> {
        let all = self.all();
        let mut woken: Vec<Arc<Watcher>> = Vec::new();
        let Ok(changes) = state.changes.after(before) else {
            // More than the history holds: the watchers find that out themselves.
            for watcher in all.by_prefix.values().flatten() {
                watcher.place().is_behind = true;
                woken.push(Arc::clone(watcher));
            }
            return woken;
        };
        for (version, key, kind) in changes {
            let text = key.as_str();
            let prefixes = all.lengths.range(..=text.len());
            let prefixes = prefixes.filter_map(|(length, _)| text.get(..*length));
            let watchers = prefixes.filter_map(|prefix| all.by_prefix.get(prefix));
            let watchers = watchers.flatten();
            let (mut with_value, mut without) = (None, None);
            for watcher in watchers.filter(|it| it.request.kinds.contains(kind)) {
                let wants_value = watcher.request.include_values;
                let change = match wants_value {
                    true => &mut with_value,
                    false => &mut without,
                };
                let change = change
                    .get_or_insert_with(|| Prepared::new(state, *version, key, *kind, wants_value));
                watcher.place().hand(change);
                if woken.last().is_none_or(|last| last.id != watcher.id) {
                    woken.push(Arc::clone(watcher));
                }
            }
        }
        woken
    }

    /// Ends all watches.
    pub(super) fn end(&self, why: Ended) {
        for watcher in self.all().by_prefix.values().flatten() {
            watcher.place().ended.get_or_insert(why);
            watcher.changed.notify_one();
        }
    }
}

/// Returns the id of the change with `version`.
pub(super) fn change_id(version: Version) -> ChangeId {
    ChangeId::new(version.to_string())
}
