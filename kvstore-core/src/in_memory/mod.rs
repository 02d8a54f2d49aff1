//! What the backends that hold everything in memory share.

pub(crate) mod log;
pub(crate) mod state;
