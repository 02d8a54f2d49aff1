//! Encodings of the API: entity tags, timestamps, keys in paths, and common parts of answers.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::write::Condition;
use kvstore_core::{Entry, Error, Key, Result, Value, Version};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Everything except the unreserved characters of a URI (RFC 3986 §2.3) and the slashes of a key.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// Returns the version of an entity tag; `None` if the server did not make it.
pub(crate) fn version(etag: &str) -> Option<Version> {
    let digits = etag.strip_prefix('"')?.strip_suffix('"')?;
    digits.parse().ok().map(Version)
}

pub(crate) fn etag(version: Version) -> String {
    format!("\"{version}\"")
}

/// Parses an RFC 3339 timestamp.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    let since = humantime::parse_rfc3339(text)
        .ok()?
        .duration_since(UNIX_EPOCH);
    Some(Timestamp(u64::try_from(since.ok()?.as_millis()).ok()?))
}

/// A path and query under construction.
#[derive(Debug)]
pub(crate) struct RequestTarget {
    text: String,
    separator: char,
}

impl RequestTarget {
    pub(crate) fn new(path: &str) -> Self {
        Self {
            text: path.to_owned(),
            separator: '?',
        }
    }

    /// Creates `/v1/kv/{key}`.
    pub(crate) fn entry(key: &Key) -> Self {
        Self::new(&format!(
            "/v1/kv/{}",
            utf8_percent_encode(key.as_str(), ESCAPED)
        ))
    }

    /// Adds a parameter.
    pub(crate) fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        let value = value.to_string();
        let value = utf8_percent_encode(&value, ESCAPED);
        write!(self.text, "{}{name}={value}", self.separator).expect("a String takes it");
        self.separator = '&';
        self
    }

    /// Adds a parameter if there is a value.
    pub(crate) fn with_some(self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// Returns what a condition says in `If-Match` and in `If-None-Match`, and in the members of a
/// batch that have their names.
pub(crate) fn conditions(condition: &Condition) -> (Option<String>, Option<String>) {
    let any = || Some("*".to_owned());
    let list = |versions: &[Version]| {
        let tags: Vec<_> = versions.iter().copied().map(etag).collect();
        Some(tags.join(", "))
    };
    match condition {
        Condition::Any => (None, None),
        Condition::Absent => (None, any()),
        Condition::Present => (any(), None),
        Condition::Version(version) => (list(&[*version]), None),
        Condition::OneOf(versions) => (list(versions), None),
        Condition::NoneOf {
            versions,
            or_absent,
        } => (any().filter(|_| !or_absent), list(versions)),
    }
}

/// Converts a duration to whole seconds.
///
/// # Errors
/// [`Error::Invalid`] if it is not whole: HTTP requests have no smaller unit.
pub(crate) fn whole_seconds(ttl: Duration) -> Result<u64> {
    match ttl.subsec_nanos() {
        0 => Ok(ttl.as_secs()),
        _ => Err(Error::Invalid {
            subject: kvstore_core::error::Subject::Ttl,
            reason: format!("a server counts in whole seconds, but it is {ttl:?}"),
        }),
    }
}

/// An entry in any answer.
#[derive(Debug, Deserialize)]
pub(crate) struct WireEntry<'a> {
    pub(crate) key: Key,
    pub(crate) etag: String,
    /// `null` is a value.
    #[serde(borrow, default, deserialize_with = "some")]
    pub(crate) value: Option<&'a RawValue>,
    pub(crate) size: Option<usize>,
    pub(crate) expires_at: Option<String>,
}

fn some<'de, D: Deserializer<'de>>(json: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(json).map(Some)
}

impl WireEntry<'_> {
    pub(crate) fn version(&self) -> Option<Version> {
        version(&self.etag)
    }

    pub(crate) fn value(&self) -> Option<Value> {
        Value::parse(self.value?.get()).ok()
    }

    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        timestamp(self.expires_at.as_deref()?)
    }

    pub(crate) fn entry(&self) -> Option<Entry> {
        Some(Entry {
            value: self.value()?,
            version: self.version()?,
            expires_at: self.expires_at(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_those_of_the_api() {
        assert_eq!(version("\"42\""), Some(Version(42)));
        assert_eq!(version("W/\"42\""), None);
        assert_eq!(etag(Version(42)), "\"42\"");
        let moment = Timestamp(1_767_225_599_999);
        assert_eq!(timestamp(&moment.to_string()), Some(moment));
        let key = Key::new("a/ü ?#%&").unwrap();
        let target = RequestTarget::entry(&key)
            .with("add", -1)
            .with_some("ttl", Some("keep"));
        assert_eq!(
            target.finish(),
            "/v1/kv/a/%C3%BC%20%3F%23%25%26?add=-1&ttl=keep"
        );
        assert!(whole_seconds(Duration::from_millis(1500)).is_err());
    }
}
