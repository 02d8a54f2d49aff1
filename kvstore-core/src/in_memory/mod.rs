//! Shared parts of the backends that hold everything in memory.

pub(crate) mod log;
pub(crate) mod state;
