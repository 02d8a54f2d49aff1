//! Tests that need access to internals: the simulated disk, the format, and damaged folders.

mod accept;
mod backup;
mod crash;
mod damage;
mod edits;
mod faults;
mod following;
mod journal;
mod line;
mod links;
mod opening;
mod pieces;
mod record;
