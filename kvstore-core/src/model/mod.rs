//! The words that every layer uses, each module looking only at those before it.
//!
//! What is not here: the contracts of stores and queues ([`crate::store`], [`crate::queue`]), and anything
//! that reads or writes.

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
