//! Does the server keep every sentence of `docs/http-api.md`, as seen on the wire?
//!
//! One module for each section, one test for each sentence of it.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod batch;
mod bytes;
mod commands;
mod conditions;
mod cors;
mod dead;
mod entries;
mod errors;
mod faults;
mod host;
mod jobs;
mod limits;
mod list;
mod openapi;
mod rules;
mod service;
mod simple;
mod strict;
mod visible;
mod watch;
