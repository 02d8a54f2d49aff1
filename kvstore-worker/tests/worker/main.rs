//! Does the worker apply every job, answer its probes, and start and end as its operator expects?

mod admin;
mod jobs;
mod process;
mod support;
