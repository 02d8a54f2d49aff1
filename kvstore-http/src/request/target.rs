//! The request's target: the key in its path, and the query parameters.

use std::borrow::Cow;
use std::time::Duration;

use kvstore_core::Key;
use percent_encoding::percent_decode_str;

use crate::answer::error::{Problem, Result};
use crate::answer::field::{Field, Place, raw};
use crate::request::prefer::whole_seconds;

/// Parses the key in the rest of a path. It is percent-decoded once, so `/` and `%2F` are the same
/// character.
pub(crate) fn key(text: &str) -> Result<Key> {
    let refused = |why: String| {
        Problem::field(Field::value_error(
            Place::In("path", "key"),
            &why,
            raw(text),
        ))
    };
    let decoded = decode(text).ok_or_else(|| refused(BAD_ENCODING.to_owned()))?;
    Key::new(&decoded).map_err(|error| refused(error.to_string()))
}

const BAD_ENCODING: &str =
    "each % must be followed by two hexadecimal digits, and what they encode must be UTF-8";

/// Decodes percent-encoding; returns `None` if it is malformed or does not decode to UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.as_bytes().contains(&b'%') {
        return Some(Cow::Borrowed(text));
    }
    // The library passes on a `%` that encodes nothing.
    let is_whole = |(at, _): (usize, &str)| {
        let digits = text.as_bytes().get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.match_indices('%').all(is_whole) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok()
}

/// The query string. A read ignores unknown parameters; a write calls [`Query::only`] to refuse
/// them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a>(Option<&'a str>);

impl<'a> Query<'a> {
    pub(crate) fn new(query: Option<&'a str>) -> Self {
        Self(query)
    }

    /// Refuses parameters outside `known`: a misspelt parameter must not become a write without it.
    pub(crate) fn only(self, known: &[&str]) -> Result<()> {
        let mut names = self
            .pairs()
            .map(|(encoded, _)| decode(encoded).unwrap_or(encoded.into()));
        match names.find(|name| !known.contains(&&**name)) {
            None => Ok(()),
            Some(name) => Err(Problem::field(Field::value_error(
                Place::Whole(["query"]),
                &unknown("parameter", &name, known),
                None,
            ))),
        }
    }

    /// Returns the parameter `name`, decoded as in forms. An empty value counts as absent.
    ///
    /// # Errors
    /// The parameter occurs twice, or its encoding is malformed.
    pub(crate) fn get(self, name: &'static str) -> Result<Option<Cow<'a, str>>> {
        Ok(self.given(name)?.filter(|text| !text.is_empty()))
    }

    /// Returns the parameter like [`Query::get`], but keeps an empty value: an empty `ttl` must not
    /// become a write without one.
    pub(crate) fn given(self, name: &'static str) -> Result<Option<Cow<'a, str>>> {
        let mut all = self.all(name);
        let first = all.next().transpose()?;
        match all.next() {
            None => Ok(first),
            Some(second) => Err(Problem::field(Field::value_error(
                Place::In("query", name),
                "it must be given once",
                raw(second?),
            ))),
        }
    }

    /// Returns all values of the parameter `name`, decoded.
    pub(crate) fn all(self, name: &'static str) -> impl Iterator<Item = Result<Cow<'a, str>>> {
        let is_it = move |encoded: &str| decode(encoded).is_some_and(|decoded| decoded == name);
        let found = self.pairs().filter(move |(encoded, _)| is_it(encoded));
        found.map(move |(_, value)| value_of(name, value))
    }

    fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = self.0.into_iter().flat_map(|query| query.split('&'));
        let pairs = pairs.filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// Returns true if the switch `name` is on: `?name=1`.
    pub(crate) fn switch(self, name: &'static str) -> Result<bool> {
        match self.get(name)?.as_deref() {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(other) => Err(Problem::field(Field {
                kind: "bool_parsing",
                place: Place::In("query", name),
                message: "Input should be a valid boolean, unable to interpret input".into(),
                input: raw(other),
                context: None,
            })),
        }
    }

    /// Parses a number of whole seconds. More than `max` is no error and means `max`.
    pub(crate) fn seconds(self, name: &'static str, max: Duration) -> Result<Duration> {
        let Some(text) = self.get(name)? else {
            return Ok(Duration::ZERO);
        };
        match whole_seconds(&text) {
            Some(span) => Ok(span.min(max)),
            None => Err(Problem::field(Field::int_parsing(
                Place::In("query", name),
                &text,
            ))),
        }
    }
}

/// Decodes the value of the parameter `name`.
fn value_of<'a>(name: &'static str, value: &'a str) -> Result<Cow<'a, str>> {
    // Forms encode a space as `+`. Only such a value needs a copy.
    let decoded = if value.contains('+') {
        decode(&value.replace('+', " ")).map(|text| Cow::Owned(text.into_owned()))
    } else {
        decode(value)
    };
    decoded.ok_or_else(|| {
        Problem::field(Field::value_error(
            Place::In("query", name),
            BAD_ENCODING,
            raw(value),
        ))
    })
}

/// Describes an unknown `what` and suggests the most similar known name.
pub(crate) fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    // One different letter lowers the similarity of short names considerably.
    const SIMILAR: f64 = 0.6;
    let name: String = name.chars().take(64).collect();
    let nearness = |known: &str| strsim::jaro_winkler(&name.to_lowercase(), known);
    let nearest = known
        .iter()
        .max_by(|a, b| nearness(a).total_cmp(&nearness(b)));
    match nearest.filter(|nearest| nearness(nearest) >= SIMILAR) {
        Some(nearest) => format!("{what} {name} is unknown; did you mean {nearest}?"),
        None => format!("{what} {name} is unknown"),
    }
}
