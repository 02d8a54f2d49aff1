//! Who may use the server: bearer tokens, web pages of other origins, and accepted host names.

pub(crate) mod cors;
pub(crate) mod host;
pub(crate) mod token;
