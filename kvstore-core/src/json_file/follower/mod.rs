//! The side that reads a folder which another process writes: its store, its queue, and what follows the journal.

mod queue;
mod store;
pub(crate) mod tail;

pub use self::queue::JsonReaderQueue;
pub use self::store::JsonReader;
