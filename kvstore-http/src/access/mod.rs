//! Who may use the server: bearer tokens, and web pages of other origins.

pub(crate) mod cors;
pub(crate) mod token;
