//! Does the command `kvstore` do what its help and the documentation say?

mod commands;
mod folder;
mod progress;
mod support;
mod transfer;
