//! The in-memory backend, for tests and caches: it keeps every contract except surviving the
//! process.

mod queue;
mod store;

pub use queue::MemoryQueue;
pub use store::MemoryStore;
