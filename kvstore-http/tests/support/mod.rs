//! A server and its worker in this process; and token files.
#![allow(dead_code, reason = "not every binary needs both")]

pub(crate) mod server;
pub(crate) mod tokens;
