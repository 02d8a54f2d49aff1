//! Everything that the tests of several crates share: programs of the machine ([`tool`]), programs
//! of this workspace ([`process`], [`server`]), Redis servers ([`redis`], [`cluster`]), a store and
//! a queue that fail on demand ([`faulty`]), a client that sees every byte ([`client`],
//! [`events`]), and the checker of what many clients did at once ([`history`]).
//!
//! A test that lacks a program of the machine fails: it never passes without having asked its
//! question. The message names the line that installs the program, and the command that runs the
//! other tests.

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod events;
pub mod faulty;
pub mod history;
#[cfg(test)]
mod left_out;
pub mod process;
pub mod redis;
pub mod server;
mod tools;

use std::str::FromStr;

pub use tools::{judge, missing, tool};

/// Returns a setting of a test, such as the number of its rounds, from the environment.
///
/// # Panics
/// If the variable is set, but not to a `T`.
#[expect(
    clippy::disallowed_methods,
    reason = "the caller of a test has no other way to say how long it runs"
)]
pub fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let value = text.parse().ok();
    Some(value.unwrap_or_else(|| panic!("{name} cannot be {text:?}")))
}
