//! The parts of an answer: bodies and headers, JSON text, and the problems of both faces.

pub(crate) mod error;
pub(crate) mod field;
pub(crate) mod json;
pub(crate) mod problems;
pub(crate) mod reply;
