//! Conditions on an entry's version: entity tags, `If-Match` and `If-None-Match` (RFC 9110 §13).

use hyper::header::{HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use kvstore_core::Version;
use kvstore_core::model::write::Condition;

use crate::answer::error::{Problem, Result};

/// Formats a version as a value of `ETag`.
pub(crate) fn etag(version: Version) -> HeaderValue {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(version.0).as_bytes();
    // A `u64` has at most 20 digits.
    let mut tag = [b'"'; 22];
    tag[1..=digits.len()].copy_from_slice(digits);
    HeaderValue::from_bytes(&tag[..digits.len() + 2]).expect("digits and quotes are visible ASCII")
}

/// Formats a version as an entity tag in a body, including its quotes.
pub(crate) fn etag_text(version: Version) -> String {
    let mut digits = itoa::Buffer::new();
    ["\"", digits.format(version.0), "\""].concat()
}

/// A list of entity tags, as in a header.
#[derive(Debug, PartialEq, Eq)]
enum Tags<'a> {
    /// `*`
    Any,
    List(Vec<Tag<'a>>),
}

/// One entity tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag<'a> {
    weak: bool,
    /// The bytes between its quotes, which need not be ASCII (RFC 9110 §8.8.3).
    opaque: &'a [u8],
}

impl Tag<'_> {
    /// Returns the version that the tag denotes. Tags that this service never made denote no
    /// version.
    fn version(self) -> Option<Version> {
        let text = str::from_utf8(self.opaque).ok()?;
        let version = Version(text.parse().ok()?);
        (version.to_string() == text).then_some(version)
    }
}

impl<'a> Tags<'a> {
    /// Parses all lines of the header `name`; returns `None` if there is none.
    fn of(headers: &'a HeaderMap, name: HeaderName) -> Result<Option<Self>> {
        let mut lines = headers.get_all(&name).iter().peekable();
        if lines.peek().is_none() {
            return Ok(None);
        }
        let malformed = || {
            Problem::malformed(format!(
                "{name} must be * or a list of entity tags, like \"42\""
            ))
        };
        let mut tags = Vec::new();
        for line in lines {
            let mut rest = line.as_bytes().trim_ascii();
            if rest == b"*" && headers.get_all(&name).iter().count() == 1 {
                return Ok(Some(Self::Any));
            }
            while !rest.is_empty() {
                // Empty elements are ignored (RFC 9110 §5.6.1.2).
                if rest[0] != b',' {
                    let (tag, after) = Tag::split_first(rest).ok_or_else(malformed)?;
                    tags.push(tag);
                    rest = after.trim_ascii_start();
                }
                rest = match rest.split_first() {
                    Some((b',', more)) => more.trim_ascii_start(),
                    None => rest,
                    Some(_) => return Err(malformed()),
                };
            }
        }
        if tags.is_empty() {
            return Err(malformed());
        }
        Ok(Some(Self::List(tags)))
    }

    /// Returns true if any of the tags denotes `version`. Weak tags count only for a `weak`
    /// comparison (RFC 9110 §8.8.3.2).
    fn match_version(&self, version: Version, weak: bool) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags
                .iter()
                .any(|tag| (weak || !tag.weak) && tag.version() == Some(version)),
        }
    }
}

impl<'a> Tag<'a> {
    fn split_first(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (weak, text) = match text.strip_prefix(b"W/") {
            Some(text) => (true, text),
            None => (false, text),
        };
        let text = text.strip_prefix(b"\"")?;
        let end = text.iter().position(|byte| *byte == b'"')?;
        let (opaque, after) = (&text[..end], &text[end + 1..]);
        // A tag contains no spaces (RFC 9110 §8.8.3).
        let is_plain = opaque
            .iter()
            .all(|byte| byte.is_ascii_graphic() || !byte.is_ascii());
        is_plain.then_some((Self { weak, opaque }, after))
    }
}

/// Maximum number of entity tags of a write; they are stored with its job.
pub(crate) const WRITE_TAGS_MAX: usize = 16;

/// Parses the condition that a write's headers set (RFC 9110 §13.1.1 and §13.1.2).
///
/// # Errors
/// 400 for a malformed list of entity tags, or more than [`WRITE_TAGS_MAX`] of them.
pub(crate) fn write_condition(headers: &HeaderMap) -> Result<Condition> {
    let must_match = Tags::of(headers, IF_MATCH)?;
    let must_not_match = Tags::of(headers, IF_NONE_MATCH)?;
    for tags in [&must_match, &must_not_match].into_iter().flatten() {
        if matches!(tags, Tags::List(tags) if tags.len() > WRITE_TAGS_MAX) {
            return Err(Problem::malformed(format!(
                "a write takes at most {WRITE_TAGS_MAX} entity tags"
            )));
        }
    }
    // Tags that denote no version match no entry, so they are dropped.
    let strong = |tags: Vec<Tag<'_>>| -> Vec<_> {
        let tags = tags.into_iter().filter(|tag| !tag.weak);
        tags.filter_map(Tag::version).collect()
    };
    let weak =
        |tags: Vec<Tag<'_>>| -> Vec<_> { tags.into_iter().filter_map(Tag::version).collect() };
    Ok(match (must_match, must_not_match) {
        (None, None) => Condition::Any,
        (Some(Tags::Any), None) => Condition::Present,
        (None, Some(Tags::Any)) => Condition::Absent,
        (Some(_), Some(Tags::Any)) => Condition::one_of(&[]),
        (Some(Tags::List(tags)), None) => Condition::one_of(&strong(tags)),
        (None, Some(Tags::List(tags))) => Condition::none_of(&weak(tags), true),
        (Some(Tags::Any), Some(Tags::List(tags))) => Condition::none_of(&weak(tags), false),
        (Some(Tags::List(tags)), Some(Tags::List(others))) => {
            let (mut versions, others) = (strong(tags), weak(others));
            versions.retain(|version| !others.contains(version));
            Condition::one_of(&versions)
        }
    })
}

/// Parses the same condition from the members of a body that are named after these headers.
///
/// # Errors
/// Describes what is malformed.
pub(crate) fn write_condition_of(
    if_match: Option<&str>,
    if_none_match: Option<&str>,
) -> Result<Condition, String> {
    let mut headers = HeaderMap::new();
    for (name, text) in [(IF_MATCH, if_match), (IF_NONE_MATCH, if_none_match)] {
        if let Some(text) = text {
            let value = HeaderValue::from_str(text)
                .map_err(|_| format!("{name} must be * or a list of entity tags, like \"42\""))?;
            headers.insert(name, value);
        }
    }
    write_condition(&headers).map_err(|problem| problem.detail().to_owned())
}

/// The result of a read's conditions for an existing entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadCondition {
    /// Send the entry.
    Holds,
    /// The client already has this version.
    NotModified,
    /// The entry is not the version that the client requires.
    Failed,
}

impl ReadCondition {
    /// Evaluates the headers for `version`, in the order of RFC 9110 §13.2.2.
    pub(crate) fn of(headers: &HeaderMap, version: Version) -> Result<Self> {
        if let Some(tags) = Tags::of(headers, IF_MATCH)?
            && !tags.match_version(version, false)
        {
            return Ok(Self::Failed);
        }
        match Tags::of(headers, IF_NONE_MATCH)? {
            Some(tags) if tags.match_version(version, true) => Ok(Self::NotModified),
            _ => Ok(Self::Holds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn write_conditions_are_as_the_rfc_says() {
        let condition =
            |lines: &[(HeaderName, &'static str)]| write_condition(&headers(lines)).ok();
        for (lines, expected) in [
            (vec![], Some(Condition::Any)),
            (vec![(IF_MATCH, "*")], Some(Condition::Present)),
            (
                vec![(IF_MATCH, "\"42\"")],
                Some(Condition::Version(Version(42))),
            ),
            (
                vec![(IF_MATCH, "W/\"42\"")],
                Some(Condition::Version(Version(0))),
            ),
            (
                vec![(IF_MATCH, "\"042\"")],
                Some(Condition::Version(Version(0))),
            ),
            (
                vec![(IF_MATCH, "\"other\"")],
                Some(Condition::Version(Version(0))),
            ),
            (vec![(IF_NONE_MATCH, " * ")], Some(Condition::Absent)),
            (vec![(IF_MATCH, "42")], None),
            (vec![(IF_MATCH, "\"42")], None),
            (
                vec![(IF_MATCH, ",\"42\" ,")],
                Some(Condition::Version(Version(42))),
            ),
            (vec![(IF_MATCH, "")], None),
            (vec![(IF_MATCH, "\"1\" \"2\"")], None),
            (vec![(IF_MATCH, "\"1 2\"")], None),
            (
                vec![(IF_MATCH, "\"1\", W/\"3\", \"2\"")],
                Some(Condition::one_of(&[Version(1), Version(2)])),
            ),
            (
                vec![(IF_NONE_MATCH, "\"1\""), (IF_NONE_MATCH, "W/\"2\",\"x\"")],
                Some(Condition::none_of(&[Version(1), Version(2)], true)),
            ),
            (
                vec![(IF_MATCH, "*"), (IF_NONE_MATCH, "\"1\"")],
                Some(Condition::none_of(&[Version(1)], false)),
            ),
            (
                vec![(IF_MATCH, "\"1\", \"2\""), (IF_NONE_MATCH, "\"1\"")],
                Some(Condition::Version(Version(2))),
            ),
            (
                vec![(IF_MATCH, "\"1\""), (IF_NONE_MATCH, "\"1\"")],
                Some(Condition::Version(Version(0))),
            ),
            (
                vec![(IF_NONE_MATCH, "\"x\"")],
                Some(Condition::none_of(&[Version(0)], true)),
            ),
            (vec![(IF_MATCH, "*, \"2\"")], None),
            (vec![(IF_MATCH, "*"), (IF_MATCH, "*")], None),
            (
                vec![(IF_MATCH, "*"), (IF_NONE_MATCH, "*")],
                Some(Condition::Version(Version(0))),
            ),
            (
                vec![(
                    IF_MATCH,
                    concat!(
                        "\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",",
                        "\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\""
                    ),
                )],
                None,
            ),
        ] {
            assert_eq!(condition(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn read_conditions_compare_as_the_rfc_says() {
        let condition = |lines: &[(HeaderName, &'static str)]| {
            ReadCondition::of(&headers(lines), Version(42)).ok()
        };
        for (lines, expected) in [
            (vec![], ReadCondition::Holds),
            (vec![(IF_NONE_MATCH, "\"42\"")], ReadCondition::NotModified),
            (
                vec![(IF_NONE_MATCH, "W/\"42\"")],
                ReadCondition::NotModified,
            ),
            (
                vec![(IF_NONE_MATCH, "\"a,b\" ,\"42\"")],
                ReadCondition::NotModified,
            ),
            (
                vec![(IF_NONE_MATCH, "\"1\""), (IF_NONE_MATCH, "\"42\"")],
                ReadCondition::NotModified,
            ),
            (vec![(IF_NONE_MATCH, "*")], ReadCondition::NotModified),
            (
                vec![(IF_NONE_MATCH, ", \"1\", ,\t,\"42\",,")],
                ReadCondition::NotModified,
            ),
            (
                vec![(IF_NONE_MATCH, ""), (IF_NONE_MATCH, "\"42\"")],
                ReadCondition::NotModified,
            ),
            (vec![(IF_NONE_MATCH, "\"41\"")], ReadCondition::Holds),
            (vec![(IF_MATCH, "\"42\"")], ReadCondition::Holds),
            (vec![(IF_MATCH, "W/\"42\"")], ReadCondition::Failed),
            (
                vec![(IF_MATCH, "\"41\""), (IF_NONE_MATCH, "\"42\"")],
                ReadCondition::Failed,
            ),
            (
                vec![(IF_MATCH, "*"), (IF_NONE_MATCH, "\"42\"")],
                ReadCondition::NotModified,
            ),
        ] {
            assert_eq!(condition(&lines), Some(expected), "{lines:?}");
        }
        for malformed in ["42", "", ",", " , ,", "\"1\" \"42\"", ",\"42"] {
            assert_eq!(
                condition(&[(IF_NONE_MATCH, malformed)]),
                None,
                "{malformed}"
            );
        }
        let foreign = HeaderValue::from_bytes(b"\"\xe9t\xe9\", \"42\"").unwrap();
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, foreign)]);
        assert_eq!(
            ReadCondition::of(&headers, Version(42)).ok(),
            Some(ReadCondition::NotModified)
        );
    }
}
