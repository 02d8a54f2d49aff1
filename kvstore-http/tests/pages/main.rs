//! Does everything written for people and programs hold: the README and the pages of `docs/`, the
//! OpenAPI document and its page, and the console?

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod clients;
mod console;
mod docs;
mod readme;
mod schemathesis;
