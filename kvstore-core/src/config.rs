//! A URL to an open backend: the only place that names them all.

use std::sync::Arc;

use crate::queue::JobQueue;
use crate::store::Store;

/// A store and the queue in front of it, open.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The queue; its jobs are for this store.
    pub queue: Arc<dyn JobQueue>,
}
