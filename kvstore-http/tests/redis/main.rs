//! Do servers and workers that share a Redis server keep their promises, whatever fails?

#[path = "../support/mod.rs"]
mod support;

mod fleet;
mod operations;
mod round_trips;
mod several;
mod shared;
mod watch;
mod wrong_types;
