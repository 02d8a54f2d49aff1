//! Token files in the format of `kvstore token`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use kvstore_http::token_line;

/// Adds a token with these rights and this key prefix (possibly empty) to `file`, and returns the
/// token.
pub(crate) fn add_token(file: &Path, name: &str, rights: &str, keys: &str) -> String {
    let secret = format!("{:032x}", rand::random::<u128>());
    let line = token_line(name, &secret, rights, keys).unwrap();
    let mut file = OpenOptions::new().append(true).create(true).open(file);
    writeln!(file.as_mut().unwrap(), "{line}").unwrap();
    secret
}
