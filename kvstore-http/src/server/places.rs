//! Limits the number of connections: the longest idle one closes in favor of a new one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::connection::Phase;
use crate::access::token::Access;
use crate::answer::error::{Problem, Result};

/// The open connections and the number still allowed.
#[derive(Debug)]
pub(crate) struct Places {
    /// A permit for each connection.
    pub(super) free: Arc<Semaphore>,
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    by_number: HashMap<u64, Arc<Phase>>,
}

/// An open connection, removed on drop.
pub(super) struct OpenPlace(Arc<Places>, u64);

impl Places {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(most)),
            most,
            open: Mutex::default(),
        })
    }

    pub(super) fn add(this: &Arc<Self>, phase: Arc<Phase>) -> OpenPlace {
        let mut open = this.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.last += 1;
        let number = open.last;
        open.by_number.insert(number, phase);
        OpenPlace(Arc::clone(this), number)
    }

    /// Closes the connection that has been idle longest; returns false if none is idle.
    pub(super) fn close_idle(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let phases = open.by_number.values();
        let idle = phases.filter_map(|phase| Some((phase.idle_since()?, phase)));
        let longest = idle.min_by_key(|(since, _)| *since);
        longest.inspect(|(_, phase)| phase.close()).is_some()
    }

    /// Closes each connection once its request is answered.
    pub(super) fn close_all(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.by_number.values().for_each(|phase| phase.close());
    }

    /// Checks that the token of a request on the connection `phase` leaves a share to others: if no
    /// connection is free or idle, a token may hold at most half of them.
    ///
    /// # Errors
    /// 503, and the connection closes.
    pub(crate) fn share(&self, phase: &Phase, access: &Access) -> Result<()> {
        let has_most = phase.hold(access) > self.most.div_ceil(2);
        if has_most && self.free.available_permits() == 0 && !self.close_idle() {
            return Err(Problem::too_many_connections());
        }
        Ok(())
    }
}

impl Drop for OpenPlace {
    fn drop(&mut self) {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.by_number.remove(&self.1);
    }
}
