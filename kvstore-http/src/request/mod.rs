//! The parts of a request: its target, headers and body, parsed into values or refused with a
//! problem.
//!
//! Nothing here knows a route or touches the store.

pub(crate) mod body;
pub(crate) mod conditions;
pub(crate) mod headers;
pub(crate) mod prefer;
pub(crate) mod target;
pub(crate) mod ttl;
