//! Who may use the server: bearer tokens, web pages of other origins, and the names under which it is asked for.

pub(crate) mod cors;
pub(crate) mod host;
pub(crate) mod token;
