//! The name of an entry, checked once.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, Subject};
use crate::limits::KEY_CHARS_MAX;
use crate::model::id::{Partition, PartitionCount};

/// A checked key: 1 to 512 Unicode characters, none of them a control character (U+0000–U+001F,
/// U+007F–U+009F). Between slashes, no segment is empty, `.` or `..`.
///
/// Keys are compared and ordered byte for byte; nothing is normalised. Cheap to clone.
///
/// ```
/// use kvstore_core::Key;
///
/// let key = Key::new("user:1")?;
/// assert_eq!(key.as_str(), "user:1");
/// assert!(Key::new("a//b").is_err());
/// # Ok::<(), kvstore_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Checks `text` and copies it.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that `text` breaks.
    pub fn new(text: &str) -> Result<Self> {
        match Self::broken_rule(text) {
            None => Ok(Self(text.into())),
            Some(rule) => Err(Error::invalid(Subject::Key, rule)),
        }
    }

    /// Creates a key from text that was checked before.
    pub(crate) fn trusted(text: &str) -> Self {
        debug_assert_eq!(Self::broken_rule(text), None);
        Self(text.into())
    }

    fn broken_rule(text: &str) -> Option<&'static str> {
        // Most keys have no byte that any rule but the one on length is about.
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'/' && byte != b'.';
        if (1..=KEY_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_plain) {
            return None;
        }
        // A character takes at most four bytes, so a short text needs no counting.
        if text.is_empty() {
            Some("it must not be empty")
        } else if text.len() > KEY_CHARS_MAX && text.chars().count() > KEY_CHARS_MAX {
            Some("it must have at most 512 characters")
        } else if text.chars().any(char::is_control) {
            Some("it must not contain control characters")
        } else if text.starts_with('/') || text.ends_with('/') {
            Some("it must not start or end with /")
        } else {
            text.split('/').find_map(|segment| match segment {
                "" => Some("it must not contain an empty segment (//)"),
                "." | ".." => Some("it must not contain a segment . or .."),
                _ => None,
            })
        }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the part that selects the partition: the text in the first non-empty `{…}`, or the
    /// whole key.
    pub fn tag(&self) -> &str {
        let mut rest = &*self.0;
        while let Some((_, after)) = rest.split_once('{') {
            match after.split_once('}') {
                Some((tag, _)) if !tag.is_empty() => return tag,
                Some((_, later)) => rest = later,
                None => break,
            }
        }
        &self.0
    }
}

/// Lets maps ordered by key be searched by plain text, such as prefixes and cursors.
impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<&str> for Key {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

impl PartitionCount {
    /// Returns the partition of `key`: the CRC-32 (as in zip and PNG) of the text in its first
    /// non-empty `{…}`, or of the whole key, modulo the count. This is part of the format: clients
    /// may compute it, and it never changes.
    pub fn partition_of(self, key: &Key) -> Partition {
        let crc = crc32fast::hash(key.tag().as_bytes());
        // The remainder is less than a u16.
        Partition((crc % u32::from(self.get())) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_the_api() {
        for good in [
            "a",
            "user:1",
            "a/b/c",
            "...",
            "a/.b",
            "é",
            "💡",
            " ",
            "{}",
            "%2F",
            "a?b#c",
            &"é".repeat(512),
        ] {
            assert!(Key::new(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/..",
            "./a",
            "a\u{0}",
            "a\n",
            "\u{7f}",
            "\u{85}",
            &"é".repeat(513),
        ] {
            assert!(
                matches!(
                    Key::new(bad),
                    Err(Error::Invalid {
                        subject: Subject::Key,
                        ..
                    })
                ),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn tag_is_the_first_braces_that_hold_something() {
        for (key, tag) in [
            ("a{b}c", "b"),
            ("{}{x}", "x"),
            ("{}", "{}"),
            ("a{b", "a{b"),
            ("{a}{b}", "a"),
            ("}{a}", "a"),
            ("plain", "plain"),
        ] {
            assert_eq!(Key::new(key).unwrap().tag(), tag, "{key}");
        }
    }

    #[test]
    fn partition_is_part_of_the_format() {
        // The check value in the definition of CRC-32, for "123456789".
        let count = PartitionCount::new(64).unwrap();
        assert_eq!(
            count.partition_of(&Key::new("123456789").unwrap()).0,
            (0xCBF4_3926_u32 % 64) as u16
        );
        assert_eq!(
            count.partition_of(&Key::new("x{123456789}y").unwrap()).0,
            (0xCBF4_3926_u32 % 64) as u16
        );
    }
}
