//! The vocabulary that every layer uses; each module uses only those before it.
//!
//! Not here: the contracts of stores and queues ([`crate::store`], [`crate::queue`]), and all input
//! and output.

mod codec;
pub mod command;
pub mod commit;
pub mod entry;
pub mod evaluate;
pub mod id;
pub mod job;
pub(crate) mod json;
pub mod key;
mod merge;
pub mod value;
pub mod write;
