//! `token`: creates a token, and adds its line to the file that the server's `--tokens-file` names.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use sha2::{Digest as _, Sha256};

use crate::args::TokenArgs;
use crate::failure::CommandFailure;
use crate::output::line;

/// Random bytes of a token: too many to guess.
const SECRET_BYTES: usize = 32;

/// The maximum length of a name, as in the server.
const NAME_CHARS_MAX: usize = 64;

pub(super) fn token(token: TokenArgs) -> Result<(), CommandFailure> {
    let TokenArgs {
        name,
        tokens_file: path,
        rights,
        keys,
    } = token;
    let refused =
        |what: &str, error| CommandFailure::Failed(format!("{}: {what}: {error}", path.display()));
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(refused("cannot be read", error)),
    };
    if before
        .lines()
        .any(|line| line.split(':').next() == Some(&name))
    {
        return Err(CommandFailure::Usage(format!(
            "{} already has a token for {name}: remove its line first",
            path.display()
        )));
    }
    let mut secret = [0; SECRET_BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| std::io::Read::read_exact(&mut random, &mut secret))
        .map_err(|error| CommandFailure::Failed(format!("/dev/urandom cannot be read: {error}")))?;
    let secret = hex(&secret);
    let digest = hex(&Sha256::digest(&secret));
    let mut added = format!("{name}:{digest}:{}", rights.as_str());
    if let Some(keys) = keys {
        added = format!("{added}:{keys}");
    }
    // A last line without a newline would absorb the new one.
    let end = match before.is_empty() || before.ends_with('\n') {
        true => "",
        false => "\n",
    };
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| {
            file.write_all(format!("{end}{added}\n").as_bytes())?;
            file.sync_all()
        })
        .map_err(|error| refused("cannot be written", error))?;
    // Alone on standard output, so that it can be captured in a variable or a file.
    Ok(line(secret.as_bytes())?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses the name of the token's owner.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    match (1..=NAME_CHARS_MAX).contains(&text.len()) && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "a name is 1 to {NAME_CHARS_MAX} letters, digits, dots, dashes and underscores"
        )),
    }
}

/// Parses the prefix of the keys that the token can access.
pub(crate) fn keys(text: &str) -> Result<String, String> {
    match text.chars().any(char::is_control) {
        false => Ok(text.to_owned()),
        true => Err("it contains a control character, and no key begins with it".to_owned()),
    }
}
