//! Conditions on the version of an entry: entity tags, `If-Match` and `If-None-Match` (RFC 9110 §13).

use hyper::header::{HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use kvstore_core::Version;
use kvstore_core::model::write::Condition;

use crate::answer::error::{Problem, Result};

/// A version as it stands in `ETag`.
pub(crate) fn etag(version: Version) -> HeaderValue {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(version.0).as_bytes();
    // The most that a number has are 20 digits.
    let mut tag = [b'"'; 22];
    tag[1..=digits.len()].copy_from_slice(digits);
    HeaderValue::from_bytes(&tag[..digits.len() + 2]).expect("digits and quotes are visible ASCII")
}

/// A version as it stands in a body: the entity tag, with its quotes.
pub(crate) fn etag_text(version: Version) -> String {
    let mut digits = itoa::Buffer::new();
    ["\"", digits.format(version.0), "\""].concat()
}

/// What a list of entity tags says.
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
    /// The version that it is the tag of. A tag that this service never made is that of no version.
    fn version(self) -> Option<Version> {
        let text = str::from_utf8(self.opaque).ok()?;
        let version = Version(text.parse().ok()?);
        (version.to_string() == text).then_some(version)
    }
}

impl<'a> Tags<'a> {
    /// All lines of the header `name`; `None` if there is none.
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
                // An element may be empty, and counts for nothing (RFC 9110 §5.6.1.2).
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

    /// Whether one of them is that of `version`. Weak tags count only for a `weak` comparison (RFC 9110 §8.8.3.2).
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
        // There are no spaces in it (RFC 9110 §8.8.3).
        let is_plain = opaque
            .iter()
            .all(|byte| byte.is_ascii_graphic() || !byte.is_ascii());
        is_plain.then_some((Self { weak, opaque }, after))
    }
}

/// What the headers want of the entry that a write changes.
///
/// The queue takes one condition on one version, so of what RFC 9110 allows only `If-Match: *`, `If-Match: "42"` and
/// `If-None-Match: *` can be had. Everything else is refused, never ignored.
pub(crate) fn write_condition(headers: &HeaderMap) -> Result<Condition> {
    let must_match = Tags::of(headers, IF_MATCH)?;
    let must_not_match = Tags::of(headers, IF_NONE_MATCH)?;
    match (must_match, must_not_match) {
        (None, None) => Ok(Condition::Any),
        (Some(Tags::Any), None) => Ok(Condition::Present),
        (None, Some(Tags::Any)) => Ok(Condition::Absent),
        (Some(Tags::List(tags)), None) => match tags[..] {
            [tag] => Ok(Condition::Version(strong_version(tag))),
            _ => Err(Problem::malformed(
                "on a write, If-Match takes one entity tag",
            )),
        },
        (None, Some(Tags::List(_))) => {
            Err(Problem::malformed("on a write, If-None-Match takes only *"))
        }
        (Some(_), Some(_)) => Err(Problem::malformed(
            "If-Match and If-None-Match cannot be combined on a write",
        )),
    }
}

/// The same condition from the members of a body that are named after these headers.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn write_condition_of(
    if_match: Option<&str>,
    if_none_match: Option<&str>,
) -> Result<Condition, String> {
    let mut headers = HeaderMap::new();
    for (name, text) in [(IF_MATCH, if_match), (IF_NONE_MATCH, if_none_match)] {
        if let Some(text) = text {
            let value = HeaderValue::from_str(text)
                .map_err(|_| format!("{name} must be * or an entity tag, like \"42\""))?;
            headers.insert(name, value);
        }
    }
    write_condition(&headers).map_err(|problem| problem.detail().to_owned())
}

/// The version that a tag must match strongly. A weak tag, or one of no version, matches nothing: neither does version 0, which
/// comes before every change, so such a write takes its turn and fails there.
fn strong_version(tag: Tag<'_>) -> Version {
    tag.version().filter(|_| !tag.weak).unwrap_or(Version(0))
}

/// What the headers make of a read that has found its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadCondition {
    /// Send the entry.
    Holds,
    /// The client has it already.
    NotModified,
    /// It is not the one that the client wants.
    Failed,
}

impl ReadCondition {
    /// In the order of RFC 9110 §13.2.2.
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
    fn write_conditions_are_taken_or_refused_never_ignored() {
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
            (vec![(IF_MATCH, "\"1\", \"2\"")], None),
            (vec![(IF_MATCH, "*, \"2\"")], None),
            (vec![(IF_MATCH, "*"), (IF_MATCH, "*")], None),
            (vec![(IF_NONE_MATCH, "\"42\"")], None),
            (vec![(IF_MATCH, "*"), (IF_NONE_MATCH, "*")], None),
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
