//! Does the real program meet the expectations of its operator and its clients?

#[path = "../support/mod.rs"]
mod support;

mod access;
mod corpora;
mod histories;
mod hostile;
mod import;
mod listen;
mod metrics;
mod process;
mod secrets;
mod shutdown;
mod systemd;
mod tls;
