//! Room for connections: so many at a time, and the one that has been idle longest makes room for another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::connection::Phase;
use crate::access::token::Access;
use crate::answer::error::{Problem, Result};

/// The connections that are served, and room for more.
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

/// A connection that is served, until this is dropped.
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

    /// Closes the one that has been idle longest; returns false if none is idle.
    pub(super) fn close_idle(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let phases = open.by_number.values();
        let idle = phases.filter_map(|phase| Some((phase.idle_since()?, phase)));
        let longest = idle.min_by_key(|(since, _)| *since);
        longest.inspect(|(_, phase)| phase.close()).is_some()
    }

    /// Closes each as soon as its request is answered.
    pub(super) fn close_all(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.by_number.values().for_each(|phase| phase.close());
    }

    /// Checks that the token of a request on the connection `phase` leaves others their part: where none is free or idle, no token
    /// has more than half.
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
