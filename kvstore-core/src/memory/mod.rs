//! The backend that keeps everything in memory, for tests and caches.

mod store;

pub use store::MemoryStore;
