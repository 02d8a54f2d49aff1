//! The side that reads a folder which another process writes: its store, its queue, and what follows the journal.

mod queue;
mod store;
mod tail;

pub use self::queue::JsonReaderQueue;
pub use self::store::JsonReader;
