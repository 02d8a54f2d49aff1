//! Bearer tokens, and what each of them may touch.
//!
//! Only digests are kept, so neither the file nor this process holds a token. [`Access`] answers
//! the questions of a route: one for each way to touch keys. Every check precedes the lookup, so a
//! refusal reveals nothing about which keys exist.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use kvstore_core::Key;
use kvstore_core::model::job::Summary;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio::sync::watch;

use crate::answer::error::{Problem, Result};

/// Maximum length of a token's name, in characters.
const NAME_CHARS_MAX: usize = 64;

/// The known tokens; they can be replaced while requests are served.
pub struct Tokens {
    list: RwLock<Arc<[Arc<Token>]>>,
    /// Notified whenever `list` is replaced.
    replaced: watch::Sender<()>,
}

/// A known token.
pub(crate) struct Token {
    name: String,
    digest: [u8; 32],
    may_write: bool,
    /// The prefix of all keys that the token may touch.
    prefix: String,
    /// Number of open connections whose last request used the token.
    connections: AtomicUsize,
    /// Number of open watches that use the token.
    watchers: AtomicUsize,
}

impl Tokens {
    /// Parses a file of tokens, one line `name:sha256:rw` or `name:sha256:r` each. An optional
    /// fourth part limits the token to keys with that prefix. `sha256` is the token's digest in
    /// hexadecimal digits. Empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// Describes the problem of each faulty line.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let mut tokens: Vec<Arc<Token>> = Vec::new();
        let mut problems = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Token::parse(line) {
                Ok(token) => match tokens.iter().find(|other| other.clashes(&token)) {
                    None => tokens.push(Arc::new(token)),
                    Some(other) => problems.push(format!(
                        "line {number}: {} has the same name or token as {} above it",
                        token.name, other.name
                    )),
                },
                Err(reason) => problems.push(format!("line {number}: {reason}")),
            }
        }
        if tokens.is_empty() && problems.is_empty() {
            problems.push("there is no token in it".to_owned());
        }
        if problems.is_empty() {
            Ok(Self {
                list: RwLock::new(tokens.into()),
                replaced: watch::Sender::new(()),
            })
        } else {
            Err(problems)
        }
    }

    /// Replaces all tokens by those of `newer`. Requests in progress finish. Watches end if their
    /// token is no longer known or has other rights; those of a token that stays still count
    /// towards its share.
    pub fn replace_by(&self, newer: Self) {
        let older = self.list();
        let kept = |token: &Arc<Token>| {
            let mut same = older.iter().filter(|known| known.is_same(token));
            Arc::clone(same.find(|known| known.name == token.name).unwrap_or(token))
        };
        let newer = newer.list().iter().map(kept).collect();
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = newer;
        self.replaced.send_replace(());
    }

    /// Returns once the token of `access` is no longer known or has other rights.
    pub(crate) async fn revoked(&self, access: &Access) {
        let Access::Of(token) = access else {
            return std::future::pending().await;
        };
        let mut replaced = self.replaced.subscribe();
        while self.list().iter().any(|known| known.is_same(token)) {
            // `self` owns the sender, so the channel is open.
            let _ = replaced.changed().await;
        }
    }

    /// Returns the number of tokens.
    pub fn count(&self) -> usize {
        self.list().len()
    }

    fn list(&self) -> Arc<[Arc<Token>]> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the token whose secret is `secret`. Takes the same time for each known token and for
    /// any unknown secret.
    fn find(&self, secret: &[u8]) -> Option<Arc<Token>> {
        let digest: [u8; 32] = Sha256::digest(secret).into();
        let list = self.list();
        let (mut found, mut place) = (Choice::from(0), 0_u64);
        for (token, at) in list.iter().zip(0..) {
            let is_same = token.digest.ct_eq(&digest);
            place.conditional_assign(&at, is_same);
            found |= is_same;
        }
        let place = usize::try_from(place).ok()?;
        bool::from(found).then(|| list.get(place).cloned())?
    }

    /// Returns the access of the token in the header, or else in a `parameter` of the address (RFC
    /// 6750 §2.3).
    pub(crate) fn admit_by(&self, headers: &HeaderMap, parameter: Option<&str>) -> Result<Access> {
        match parameter {
            Some(secret) if !headers.contains_key(AUTHORIZATION) => self
                .find(secret.as_bytes())
                .map(Access::Of)
                .ok_or_else(Self::unknown),
            _ => self.admit(headers),
        }
    }

    /// Returns the access of the token in the request's header.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<Access> {
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let Some(line) = lines.next() else {
            return Err(Problem::unauthorized(
                "Bearer",
                "this needs a token: send Authorization: Bearer",
            ));
        };
        bearer(line)
            .filter(|_| lines.next().is_none())
            .and_then(|secret| self.find(secret))
            .map(Access::Of)
            .ok_or_else(Self::unknown)
    }

    fn unknown() -> Box<Problem> {
        Problem::unauthorized(
            "Bearer error=\"invalid_token\"",
            "Authorization must be Bearer and one token that is known here",
        )
    }
}

/// Returns the token of a header `Authorization: Bearer …` (RFC 6750 §2.1).
fn bearer(line: &HeaderValue) -> Option<&[u8]> {
    let (scheme, secret) = line.as_bytes().split_at_checked(7)?;
    let secret = secret.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !secret.is_empty()).then_some(secret)
}

impl Token {
    fn parse(line: &str) -> Result<Self, String> {
        let mut parts = line.splitn(4, ':');
        let mut part = || parts.next().unwrap_or("");
        let (name, digest, rights, prefix) = (part(), part(), part(), part());
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        if !(1..=NAME_CHARS_MAX).contains(&name.len()) || !name.chars().all(is_plain) {
            return Err(format!(
                "a name is 1 to {NAME_CHARS_MAX} letters, digits, dots, dashes and underscores"
            ));
        }
        let digest = from_hex(digest).ok_or_else(|| {
            format!("behind {name}: there must be a SHA-256 digest of 64 hexadecimal digits")
        })?;
        let may_write = match rights {
            "rw" => true,
            "r" => false,
            _ => return Err(format!("behind the digest of {name} there must be rw or r")),
        };
        if prefix.chars().any(char::is_control) {
            return Err(format!(
                "the prefix of {name} holds a control character, and no key begins with it"
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            digest,
            may_write,
            prefix: prefix.to_owned(),
            connections: AtomicUsize::new(0),
            watchers: AtomicUsize::new(0),
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.digest, self.may_write, &self.prefix)
            == (&other.digest, other.may_write, &other.prefix)
    }

    fn clashes(&self, other: &Self) -> bool {
        self.name == other.name || self.digest == other.digest
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Returns the line of a token file that makes `secret` known. [`Tokens::parse`] documents its
/// parts.
///
/// # Errors
/// Describes the first invalid part.
pub fn token_line(name: &str, secret: &str, rights: &str, prefix: &str) -> Result<String, String> {
    let digest = Sha256::digest(secret);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let tail = if prefix.is_empty() {
        String::new()
    } else {
        format!(":{prefix}")
    };
    let line = format!("{name}:{digest}:{rights}{tail}");
    Token::parse(&line).map(|_| line)
}

/// What one request may touch. Every route that touches keys first calls the matching method:
///
/// | touching | ask |
/// |---|---|
/// | the entry of a key that the caller names, each of several | [`Access::may_read`] |
/// | keys under a prefix: a list, a watch | [`Access::may_list`] |
/// | a write, each key of a batch | [`Access::may_write`] |
/// | a job that the caller names, or one of a list | [`Access::may_see_job`] |
/// | a dead letter to retry | [`Access::may_see_job`], then [`Access::may_write`] of each key |
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// Full access: the server requires no tokens.
    Everything,
    /// The access of a token.
    Of(Arc<Token>),
    /// No access: the route needs no token, since it touches no keys.
    Nothing,
}

impl Access {
    /// Returns true if some keys are out of reach.
    pub(crate) fn is_scoped(&self) -> bool {
        match self {
            Self::Everything => false,
            Self::Of(token) => !token.prefix.is_empty(),
            Self::Nothing => true,
        }
    }

    /// Returns true if the keys within reach may be written.
    pub(crate) fn may_write_some(&self) -> bool {
        match self {
            Self::Everything => true,
            Self::Of(token) => token.may_write,
            Self::Nothing => false,
        }
    }

    /// Returns the prefix of all keys within reach.
    pub(crate) fn prefix(&self) -> &str {
        match self {
            Self::Of(token) => &token.prefix,
            Self::Everything | Self::Nothing => "",
        }
    }

    /// Counts a connection towards those of the token, if there is one.
    pub(crate) fn hold(&self) -> Option<Held> {
        Held::new(self, |token| &token.connections)
    }

    /// Counts a watch towards those of the token, if there is one.
    pub(crate) fn watch(&self) -> Option<Held> {
        Held::new(self, |token| &token.watchers)
    }

    /// Returns the name that scopes idempotency keys: the same key sent with two tokens means two
    /// requests.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Of(token) => Some(&token.name),
            Self::Everything | Self::Nothing => None,
        }
    }

    /// Checks that `key` may be read.
    ///
    /// # Errors
    /// 403, whether or not the key exists.
    pub(crate) fn may_read(&self, key: &Key) -> Result<()> {
        self.reaches(key.as_str())
    }

    /// Checks that all keys with `prefix` may be read. Keys out of reach are not left out silently,
    /// since the answer would look complete.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn may_list(&self, prefix: &str) -> Result<()> {
        self.reaches(prefix)
    }

    /// Checks that `key` may be written.
    ///
    /// # Errors
    /// 403, whether or not the key exists.
    pub(crate) fn may_write(&self, key: &Key) -> Result<()> {
        self.may_write_text(key.as_str())
    }

    fn may_write_text(&self, text: &str) -> Result<()> {
        self.check_rights()?;
        self.reaches(text)
    }

    /// Checks that the token is not one that only reads, whatever the key.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn check_rights(&self) -> Result<()> {
        match self {
            Self::Of(token) if !token.may_write => {
                Err(Problem::forbidden("this token may read, and not write"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that all keys with `prefix` may be written.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn may_write_all(&self, prefix: &str) -> Result<()> {
        self.may_write_text(prefix)
    }

    /// Returns true if the job may be seen: all keys that it writes are within reach. `None` is a
    /// job of which only the fact is kept that it was applied. Writes by tokens with a prefix
    /// therefore always keep their summary.
    ///
    /// If false, the answer must be the same as for an unknown job.
    pub(crate) fn may_see_job(&self, summary: Option<&Summary>) -> bool {
        match self {
            Self::Everything => true,
            Self::Of(token) if token.prefix.is_empty() => true,
            Self::Of(token) => summary.is_some_and(|summary| summary.is_within(&token.prefix)),
            Self::Nothing => false,
        }
    }

    fn reaches(&self, text: &str) -> Result<()> {
        match self {
            Self::Everything => Ok(()),
            Self::Of(token) if text.starts_with(&token.prefix) => Ok(()),
            Self::Of(token) => Err(Problem::forbidden(format!(
                "this token reaches only keys that begin with {:?}",
                token.prefix
            ))),
            Self::Nothing => Err(Problem::forbidden("this route touches no keys")),
        }
    }
}

/// A counted use of a token, released on drop.
#[derive(Debug)]
pub(crate) struct Held {
    token: Arc<Token>,
    places: fn(&Token) -> &AtomicUsize,
}

impl Held {
    fn new(access: &Access, places: fn(&Token) -> &AtomicUsize) -> Option<Self> {
        let Access::Of(token) = access else {
            return None;
        };
        places(token).fetch_add(1, Ordering::Relaxed);
        Some(Self {
            token: Arc::clone(token),
            places,
        })
    }

    /// Returns the token's count, including this use.
    pub(crate) fn count(&self) -> usize {
        (self.places)(&self.token).load(Ordering::Relaxed)
    }

    /// Returns true if the use is counted for the token of `access`.
    pub(crate) fn is_of(&self, access: &Access) -> bool {
        matches!(access, Access::Of(token) if Arc::ptr_eq(token, &self.token))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.places)(&self.token).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Omits the digest, which would let a reader of logs test guesses of the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("may_write", &self.may_write)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list().iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn lines_are_read_and_bad_ones_named() {
        let good = format!(
            "# who\n\nci:{DIGEST}:r\r\nteam:{}:rw:team/a:b \n",
            "AB".repeat(32)
        );
        let tokens = Tokens::parse(&good).unwrap();
        assert_eq!(
            format!("{tokens:?}"),
            "[Token { name: \"ci\", may_write: false, prefix: \"\", .. }, \
             Token { name: \"team\", may_write: true, prefix: \"team/a:b \", .. }]"
        );
        for (line, reason) in [
            ("", "no token"),
            ("ci", "line 1: behind ci"),
            (":", "line 1: a name"),
            ("a b:", "line 1: a name"),
            (&format!("{}:{DIGEST}:r", "n".repeat(65)), "line 1: a name"),
            (&format!("ci:{}:r", &DIGEST[1..]), "64 hexadecimal"),
            (&format!("ci:+{}:r", &DIGEST[1..]), "64 hexadecimal"),
            (&format!("ci:{DIGEST}"), "rw or r"),
            (&format!("ci:{DIGEST}:w"), "rw or r"),
            (&format!("ci:{DIGEST}:r:a\tb"), "control character"),
            (
                &format!("a:{DIGEST}:r\na:{}:r", "0".repeat(64)),
                "line 2: a has",
            ),
            (&format!("a:{DIGEST}:r\nb:{DIGEST}:r"), "line 2: b has"),
        ] {
            let problems = Tokens::parse(line).unwrap_err();
            assert_eq!(problems.len(), 1, "{line}: {problems:?}");
            assert!(problems[0].contains(reason), "{line}: {problems:?}");
            assert!(!problems[0].contains(&DIGEST[1..]), "{problems:?}");
        }
        assert_eq!(Tokens::parse("a\nb").unwrap_err().len(), 2);
    }

    #[test]
    fn every_token_is_found_and_no_other_text() {
        let secrets: Vec<String> = (0..20).map(|number| format!("secret-{number}")).collect();
        let lines: String = secrets
            .iter()
            .zip(0..)
            .map(|(secret, number)| {
                token_line(&format!("n{number}"), secret, "r", "").unwrap() + "\n"
            })
            .collect();
        let tokens = Tokens::parse(&lines).unwrap();
        for (secret, number) in secrets.iter().zip(0..) {
            let found = tokens.find(secret.as_bytes()).unwrap();
            assert_eq!(found.name, format!("n{number}"));
        }
        for other in ["", "secret-", "secret-20", "Secret-1", "secret-1 "] {
            assert!(tokens.find(other.as_bytes()).is_none(), "{other:?}");
        }
        tokens.replace_by(Tokens::parse(&token_line("new", "other", "rw", "").unwrap()).unwrap());
        assert!(tokens.find(b"secret-1").is_none());
        assert_eq!(
            (tokens.find(b"other").unwrap().name.as_str(), tokens.count()),
            ("new", 1)
        );
    }

    #[test]
    fn prefix_holds_for_lists_as_a_whole() {
        let access = |prefix| {
            let line = token_line("a", "secret", "r", prefix).unwrap();
            let tokens = Tokens::parse(&line).unwrap();
            Access::Of(tokens.find(b"secret").unwrap())
        };
        for (prefix, allowed) in [
            ("team/", true),
            ("team/a", true),
            ("team", false),
            ("teams/", false),
            ("", false),
        ] {
            assert_eq!(
                access("team/").may_list(prefix).is_ok(),
                allowed,
                "{prefix}"
            );
            assert!(access("").may_list(prefix).is_ok(), "{prefix}");
            assert!(Access::Everything.may_list(prefix).is_ok(), "{prefix}");
            assert!(Access::Nothing.may_list(prefix).is_err(), "{prefix}");
        }
    }

    #[test]
    fn header_is_the_scheme_and_one_token() {
        for (line, secret) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("BEARER abc=", Some("abc=")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic abc", None),
            ("Bearerabc", None),
            ("", None),
        ] {
            let line = HeaderValue::from_static(line);
            assert_eq!(bearer(&line), secret.map(str::as_bytes), "{line:?}");
        }
    }
}
