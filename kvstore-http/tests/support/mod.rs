//! A server in this process, with a worker beside it; and files of tokens.
#![allow(dead_code, reason = "not every binary needs both")]

pub(crate) mod server;
pub(crate) mod tokens;
