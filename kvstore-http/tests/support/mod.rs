//! A server in this process, with a worker beside it, and a client that sees every byte.
#![allow(dead_code, reason = "each test file uses its own part of it")]

pub(crate) mod client;
pub(crate) mod faulty;
pub(crate) mod process;
pub(crate) mod server;
