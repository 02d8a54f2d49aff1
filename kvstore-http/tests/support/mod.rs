//! A server in this process with a worker beside it, the real program as a process, and a client that sees every byte.
#![allow(dead_code, reason = "each test file uses its own part of it")]

pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod counter;
pub(crate) mod events;
pub(crate) mod faulty;
pub(crate) mod history;
pub(crate) mod load;
pub(crate) mod mounted;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod run;
pub(crate) mod server;
pub(crate) mod strace;
pub(crate) mod tokens;
