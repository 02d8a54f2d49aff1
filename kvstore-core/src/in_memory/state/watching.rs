//! A watch: the changes that it takes, and its place in the history.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};

use super::shared::Shared;
use super::watchers::{Ended, Prepared, Watcher, change_id};
use crate::error::{Error, Result, Subject};
use crate::model::entry::Version;
use crate::store::{Changed, Watch, WatchFrom, WatchRequest};

impl Shared {
    /// Streams changes from a point on, as they become visible.
    pub(crate) fn watch(self: &Arc<Self>, request: &WatchRequest) -> Result<Watch> {
        let state = self.read();
        let start = match &request.from {
            WatchFrom::Now => state.version,
            WatchFrom::After(id) => {
                let version = id.as_str().parse().map(Version);
                version.map_err(|_| {
                    Error::invalid(Subject::ChangeId, "this store did not hand it out")
                })?
            }
        };
        if start > state.version {
            return Err(Error::Compacted);
        }
        drop(state.changes.after(start)?);
        let is_behind = start < state.version;
        let watcher = self.watchers.add(request.clone(), start, is_behind);
        if self.is_closed.load(Ordering::SeqCst) {
            watcher.place().ended = Some(Ended::Closed);
        }
        drop(state);
        let watching = Arc::new(LiveWatch {
            shared: Arc::clone(self),
            watcher,
        });
        let place = Arc::clone(&watching);
        let changes = stream::unfold(Some(watching), |watching| async move {
            let watching = watching?;
            let next = watching.next().await?;
            let goes_on = next.is_ok().then_some(watching);
            Some((next, goes_on))
        });
        Ok(Watch {
            start: change_id(start),
            changes: changes.boxed(),
            place: Box::new(move || change_id(place.place())),
        })
    }
}

/// A watcher, for as long as it lives.
struct LiveWatch {
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
}

impl LiveWatch {
    /// Waits for the next change; `None` once the store is closed.
    async fn next(&self) -> Option<Result<Changed>> {
        loop {
            let is_behind = {
                let mut place = self.watcher.place();
                match place.ended {
                    Some(Ended::Closed) => return None,
                    Some(Ended::Replaced) => return Some(Err(Error::Compacted)),
                    None => {}
                }
                if let Some(change) = place.take(self.shared.now()) {
                    return Some(Ok(change));
                }
                place.is_behind
            };
            match is_behind {
                true => {
                    if let Err(error) = self.read() {
                        return Some(Err(error));
                    }
                }
                false => self.watcher.changed.notified().await,
            }
        }
    }

    /// Continues in the history. Nothing is handed out meanwhile, since the state is locked.
    fn read(&self) -> Result<()> {
        let state = self.shared.read();
        let mut place = self.watcher.place();
        let request = &self.watcher.request;
        let history = state.changes.after(place.up_to)?;
        for (version, key, kind) in history {
            if place.is_full() {
                return Ok(());
            }
            place.up_to = *version;
            if request.shows(key, *kind) {
                let value = request.include_values;
                place.push(Prepared::new(&state, *version, key, *kind, value));
            }
        }
        place.up_to = state.version;
        place.is_behind = false;
        Ok(())
    }

    fn place(&self) -> Version {
        let state = self.shared.read();
        let place = self.watcher.place();
        match (place.is_empty(), place.is_behind) {
            (false, _) => place.taken,
            (true, true) => place.up_to,
            (true, false) => state.version,
        }
    }
}

impl Drop for LiveWatch {
    fn drop(&mut self) {
        self.shared.watchers.remove(&self.watcher);
    }
}
