//! Read-only access to a folder that another process writes: its store, its queue, and the follower
//! of its journals.

mod queue;
mod store;
pub(crate) mod tail;

pub use self::queue::JsonReaderQueue;
pub use self::store::JsonReader;
