//! The backend that keeps everything in memory, for tests and caches: it keeps the contracts, but for surviving the process.

mod queue;
mod store;

pub use queue::MemoryQueue;
pub use store::MemoryStore;
