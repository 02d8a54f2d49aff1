//! Does the client work as documented against the real server, and against servers that lose
//! answers?

mod program;
mod retries;
mod server;
mod support;
