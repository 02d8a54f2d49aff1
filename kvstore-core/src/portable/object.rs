//! One JSON object with a member per entry.

use std::collections::HashSet;

use super::{PortableEntry, Refused, Wrong, read_key};
use crate::model::json::{JsonError, Scanner};
use crate::model::key::Key;
use crate::model::value::Value;

/// Reads the members of a JSON object as entries, in order.
///
/// An invalid or repeated key is rejected, and reading continues after it. Malformed JSON ends the
/// iteration. The text is parsed lazily: only once the iteration ends is it known to be a JSON
/// object.
#[derive(Debug)]
pub struct ObjectReader<'a> {
    text: &'a [u8],
    scanner: Option<Scanner<'a>>,
    /// Why there is no scanner; taken when it is reported.
    broken: Option<JsonError>,
    has_begun: bool,
    keys: HashSet<Key>,
}

/// A member: the offset of its name, the name with its quotes, and the value.
type Member<'a> = (usize, &'a [u8], Value);

impl<'a> ObjectReader<'a> {
    /// Creates a reader at the beginning of `text`.
    ///
    /// # Cost
    /// One pass over the text to validate UTF-8, and one while it is read; the keys are held in
    /// memory.
    pub fn new(text: &'a [u8]) -> Self {
        let (scanner, broken) = match Scanner::new(text) {
            Ok(scanner) => (Some(scanner), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            text,
            scanner,
            broken,
            has_begun: false,
            keys: HashSet::new(),
        }
    }

    fn member(&mut self) -> Result<Option<Member<'a>>, JsonError> {
        let Some(scanner) = &mut self.scanner else {
            return Ok(None);
        };
        let has_more = if self.has_begun {
            scanner.comma_or(b'}', "a comma or }")?
        } else {
            self.has_begun = true;
            scanner.skip_space();
            scanner.expect(b'{', "an object, { … }")?;
            scanner.skip_space();
            let is_empty = scanner.peek() == b'}';
            if is_empty {
                scanner.expect(b'}', "}")?;
            }
            !is_empty
        };
        if !has_more {
            scanner.skip_space();
            scanner.end()?;
            self.scanner = None;
            return Ok(None);
        }
        let name = scanner.string()?;
        scanner.colon()?;
        scanner.restart_gathering();
        scanner.value()?;
        let value = Value::trusted(scanner.gathered().into());
        Ok(Some((name.start, &self.text[name], value)))
    }

    fn entry(&mut self, at: usize, name: &[u8], value: Value) -> Result<PortableEntry, Wrong> {
        let key = read_key(at, name)?;
        if !self.keys.insert(key.clone()) {
            let reason = format!("the key {:?} occurs a second time", key.as_str());
            return Err(Wrong::new(at, reason));
        }
        Ok(PortableEntry {
            key,
            value,
            expires_at: None,
            version: None,
        })
    }
}

impl Iterator for ObjectReader<'_> {
    type Item = Result<PortableEntry, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        let member = self.broken.take().map_or_else(|| self.member(), Err);
        let entry = match member {
            Ok(member) => {
                let (at, name, value) = member?;
                self.entry(at, name, value)
            }
            Err(error) => {
                self.scanner = None;
                Err(error.into())
            }
        };
        Some(entry.map_err(|wrong| wrong.within(self.text, 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<(String, String), String>> {
        ObjectReader::new(text.as_bytes())
            .map(|item| {
                item.map(|entry| (entry.key.to_string(), entry.value.to_string()))
                    .map_err(|refused| refused.to_string())
            })
            .collect()
    }

    fn good(key: &str, value: &str) -> Result<(String, String), String> {
        Ok((key.to_owned(), value.to_owned()))
    }

    #[test]
    fn members_are_entries_byte_for_byte() {
        assert_eq!(read(" { } "), []);
        assert_eq!(
            read("\n{\"a\" : [ 1.50, 1e400 ],\n\"\\u0062\":{\"a\":1,\"a\":2}\n}\n"),
            [good("a", "[1.50,1e400]"), good("b", r#"{"a":1,"a":2}"#)]
        );
    }

    #[test]
    fn bad_keys_are_rejected_with_their_position_and_the_rest_is_read() {
        let found = read("{\"a\":1,\n  \"\":2, \"a\":3,\n\"b\":4}");
        let [first, empty, again, last] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!((first, last), (&good("a", "1"), &good("b", "4")));
        let said = |item: &Result<_, String>, start: &str| {
            assert!(item.as_ref().unwrap_err().starts_with(start), "{item:?}");
        };
        said(empty, "line 2 column 3: \"\": key is invalid");
        said(again, "line 2 column 9: the key \"a\" occurs a second time");
    }

    #[test]
    fn malformed_json_ends_the_iteration() {
        for (text, entries, place) in [
            ("", 0, "line 1 column 1: it is not JSON"),
            ("[]", 0, "line 1 column 1: it is not JSON"),
            ("{\"a\":1", 1, "line 1 column 7: it is not JSON"),
            ("{\"a\":1,}", 1, "line 1 column 8: it is not JSON"),
            ("{\"a\":1}\n{}", 1, "line 2 column 1: it is not JSON"),
            (
                "{\"a\":1,\n\"b\":NaN,\"c\":1}",
                1,
                "line 2 column 5: it is not JSON",
            ),
        ] {
            let mut found = read(text);
            let last = found.pop().unwrap().unwrap_err();
            assert!(last.starts_with(place), "{text}: {last}");
            assert_eq!(found.len(), entries, "{text}");
            assert!(found.iter().all(Result::is_ok), "{text}");
        }
        let mut no_text = ObjectReader::new(b"{\"a\":\"\xff\"}");
        assert_eq!(no_text.next().unwrap().unwrap_err().column, 7);
        assert_eq!(no_text.next(), None);
    }
}
