//! Tests that need to see inside: the simulated disk, the format, and folders that are damaged.

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
