//! The JSON scanner: one pass over the bytes that accepts exactly RFC 8259 (valid UTF-8, escapes
//! that form Unicode, nesting up to [`VALUE_DEPTH_MAX`]) and drops the white space between tokens.
//! Nothing else is changed: digits, escapes, order and repeated members stay as they are.
//!
//! This is our own, because parsers that keep raw text skip more than they check (depth, lone
//! surrogates), and those that check everything do not keep the text.

use std::fmt;
use std::ops::Range;

use crate::limits::VALUE_DEPTH_MAX;

/// An error in a text, with the byte where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JsonError {
    /// The offset of the byte that does not fit.
    pub(crate) at: usize,
    /// The element that was expected there.
    pub(crate) expected: &'static str,
}

impl JsonError {
    /// Returns its position in `text`, counted as editors do.
    pub(crate) fn place(self, text: &[u8]) -> TextPosition {
        TextPosition::of(text, self.at)
    }
}

/// A line and a column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TextPosition {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl TextPosition {
    /// Returns the position of the byte at `offset` in `text`.
    pub(crate) fn of(text: &[u8], offset: usize) -> Self {
        let before = &text[..offset.min(text.len())];
        let line_start = before
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |newline| newline + 1);
        let is_character_start = |byte: &&u8| (**byte as i8) >= -0x40;
        Self {
            line: before.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1,
            column: before[line_start..]
                .iter()
                .filter(is_character_start)
                .count() as u64
                + 1,
        }
    }
}

impl fmt::Display for TextPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}

/// Checks that `text` is one JSON text. Returns it without white space between tokens, or `None` if
/// there is none to drop.
pub(crate) fn compact(text: &[u8]) -> Result<Option<Vec<u8>>, JsonError> {
    let mut scanner = Scanner::new(text)?;
    scanner.skip_space();
    scanner.value()?;
    scanner.skip_space();
    scanner.end()?;
    Ok(scanner.into_compacted())
}

/// Walks over JSON text token by token, checks it, and collects it without white space.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// The text collected up to `kept`; the text from there on follows unchanged.
    compacted: Vec<u8>,
    kept: usize,
    depth: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of `text`, after checking that it is UTF-8.
    pub(crate) fn new(text: &'a [u8]) -> Result<Self, JsonError> {
        match std::str::from_utf8(text) {
            Ok(_) => Ok(Self {
                text,
                at: 0,
                compacted: Vec::new(),
                kept: 0,
                depth: 0,
            }),
            Err(error) => Err(JsonError {
                at: error.valid_up_to(),
                expected: "valid UTF-8",
            }),
        }
    }

    /// Returns the offset of the next byte.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Returns the next byte; at the end 0, which never occurs in JSON text.
    pub(crate) fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn fail<T>(&self, expected: &'static str) -> Result<T, JsonError> {
        Err(JsonError {
            at: self.at,
            expected,
        })
    }

    /// Steps over `byte`.
    pub(crate) fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.peek() != byte || self.at >= self.text.len() {
            return self.fail(expected);
        }
        self.at += 1;
        Ok(())
    }

    /// Checks that nothing follows.
    pub(crate) fn end(&self) -> Result<(), JsonError> {
        if self.at < self.text.len() {
            self.fail("the end of the text")
        } else {
            Ok(())
        }
    }

    /// Steps over white space and leaves it out of the collected text.
    pub(crate) fn skip_space(&mut self) {
        let start = self.at;
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        if self.at > start {
            self.compacted
                .extend_from_slice(&self.text[self.kept..start]);
            self.kept = self.at;
        }
    }

    /// Starts collecting here, for text that is taken piece by piece.
    pub(crate) fn restart_gathering(&mut self) {
        self.compacted.clear();
        self.kept = self.at;
    }

    /// Returns the text collected since then, without white space.
    pub(crate) fn gathered(&mut self) -> Vec<u8> {
        self.compacted
            .extend_from_slice(&self.text[self.kept..self.at]);
        self.kept = self.at;
        std::mem::take(&mut self.compacted)
    }

    fn into_compacted(mut self) -> Option<Vec<u8>> {
        (self.kept > 0).then(|| {
            self.compacted.extend_from_slice(&self.text[self.kept..]);
            self.compacted
        })
    }

    /// Steps over one value.
    pub(crate) fn value(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            b'"' => self.string().map(drop),
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.fail("a JSON value"),
        }
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Result<(), JsonError>) -> Result<(), JsonError> {
        if self.depth == VALUE_DEPTH_MAX {
            return self.fail("nesting of at most 128 arrays and objects");
        }
        self.depth += 1;
        self.at += 1;
        inner(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn object(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.string()?;
            self.colon()?;
            self.value()?;
            if !self.comma_or(b'}', "a comma or }")? {
                return Ok(());
            }
        }
    }

    fn array(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        if self.peek() == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value()?;
            if !self.comma_or(b']', "a comma or ]")? {
                return Ok(());
            }
        }
    }

    /// Steps over the colon after a member's name, and the white space around it.
    pub(crate) fn colon(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        self.expect(b':', "a colon")?;
        self.skip_space();
        Ok(())
    }

    /// Steps over a comma (`true`: more follows) or over `close` (`false`), and the white space
    /// around it.
    pub(crate) fn comma_or(
        &mut self,
        close: u8,
        expected: &'static str,
    ) -> Result<bool, JsonError> {
        self.skip_space();
        let more = self.peek() == b',';
        self.expect(if more { b',' } else { close }, expected)?;
        if more {
            self.skip_space();
        }
        Ok(more)
    }

    /// Steps over a string and returns its range, quotes included.
    pub(crate) fn string(&mut self) -> Result<Range<usize>, JsonError> {
        let start = self.at;
        self.expect(b'"', "a string")?;
        loop {
            let rest = &self.text[self.at..];
            let plain = &rest[..memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len())];
            // Without an early end, so that it takes many bytes at a time.
            if plain.iter().fold(false, |any, byte| any | (*byte < b' ')) {
                self.at += plain.iter().take_while(|byte| **byte >= b' ').count();
                return self.fail("control characters to be escaped in a string");
            }
            self.at += plain.len();
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(start..self.at);
                }
                b'\\' => self.escape()?,
                _ => return self.fail("the closing quote of a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        match self.peek() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                self.at += 1;
                Ok(())
            }
            b'u' => {
                let start = self.at - 1;
                match self.hex()? {
                    0xd800..=0xdbff => {
                        let is_low =
                            self.peek() == b'\\' && self.text.get(self.at + 1) == Some(&b'u') && {
                                self.at += 1;
                                matches!(self.hex()?, 0xdc00..=0xdfff)
                            };
                        if is_low {
                            Ok(())
                        } else {
                            Err(JsonError {
                                at: start,
                                expected: "both halves of a surrogate pair",
                            })
                        }
                    }
                    0xdc00..=0xdfff => Err(JsonError {
                        at: start,
                        expected: "both halves of a surrogate pair",
                    }),
                    _ => Ok(()),
                }
            }
            _ => self.fail("one of the escapes of JSON"),
        }
    }

    /// Steps over `u` and four hexadecimal digits.
    fn hex(&mut self) -> Result<u32, JsonError> {
        self.at += 1;
        let mut number = 0;
        for _ in 0..4 {
            let Some(digit) = char::from(self.peek()).to_digit(16) else {
                return self.fail("four hexadecimal digits");
            };
            number = number * 16 + digit;
            self.at += 1;
        }
        Ok(number)
    }

    fn word(&mut self, word: &[u8]) -> Result<(), JsonError> {
        if !self.text[self.at..].starts_with(word) {
            return self.fail("a JSON value");
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        if self.peek() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at == start {
            self.fail("a digit")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_exactly_the_rfc_and_drops_only_white_space() {
        for (text, compacted) in [
            ("null", "null"),
            (" 1.0 ", "1.0"),
            ("1e400", "1e400"),
            ("-0", "-0"),
            (
                "1234567890123456789012345678901234567890",
                "1234567890123456789012345678901234567890",
            ),
            (r#"{"a" : 1 , "a" : 2 }"#, r#"{"a":1,"a":2}"#),
            ("[ ]", "[]"),
            ("{\n}", "{}"),
            (r#""\u0000 \ud83d\ude00 é""#, r#""\u0000 \ud83d\ude00 é""#),
            ("[1,\t[ 2 ,\r\n3]]", "[1,[2,3]]"),
            (r#"" \" ""#, r#"" \" ""#),
        ] {
            let result = compact(text.as_bytes()).unwrap();
            assert_eq!(
                result.as_deref().unwrap_or(text.as_bytes()),
                compacted.as_bytes(),
                "{text}"
            );
            assert_eq!(result.is_none(), text == compacted, "{text}");
        }
    }

    #[test]
    fn rejects_everything_else_with_its_position() {
        for (text, at) in [
            ("", 0),
            ("  ", 2),
            ("nul", 0),
            ("truex", 4),
            ("01", 1),
            ("1.", 2),
            (".5", 0),
            ("1e", 2),
            ("+1", 0),
            ("-", 1),
            ("NaN", 0),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("[", 1),
            ("{\"a\"}", 4),
            ("{\"a\":}", 5),
            ("{a:1}", 1),
            ("{\"a\":1,}", 7),
            ("\"", 1),
            ("\"\n\"", 1),
            ("\"\u{0}\"", 1),
            (r#""\x""#, 2),
            (r#""\u12g4""#, 5),
            (r#""\ud800""#, 1),
            (r#""\udc00""#, 1),
            (r#""\ud800\u0041""#, 1),
            ("1 1", 2),
            ("\u{feff}1", 0),
            ("\u{0}", 0),
            ("1\u{0}", 1),
        ] {
            assert_eq!(compact(text.as_bytes()).unwrap_err().at, at, "{text:?}");
        }
        assert_eq!(compact(b"\"a\xff\"").unwrap_err().at, 2);
    }

    #[test]
    fn depth_is_bounded_and_cannot_overflow_the_stack() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(compact(&nested(VALUE_DEPTH_MAX)).is_ok());
        assert_eq!(
            compact(&nested(VALUE_DEPTH_MAX + 1)).unwrap_err().at,
            VALUE_DEPTH_MAX
        );
        assert!(compact(&vec![b'['; 1_000_000]).is_err());
        assert!(compact(br#"[[],[],{"a":[]},[[]]]"#).is_ok());
    }

    #[test]
    fn positions_are_counted_as_editors_do() {
        let text = "{\n \"é\" x}".as_bytes();
        assert_eq!(
            compact(text).unwrap_err().place(text).to_string(),
            "line 2 column 6"
        );
    }

    proptest! {
        /// Accepts nothing that another reader of raw JSON rejects, and never panics, whatever the
        /// bytes.
        #[test]
        fn any_bytes_are_checked(bytes in proptest::collection::vec(prop_oneof![
            4 => proptest::sample::select(br#"{}[]",:\/ 0123456789.eE+-truefalsn u d8"#.as_slice()), 1 => any::<u8>(),
        ], 0..24)) {
            if compact(&bytes).is_ok() {
                prop_assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&bytes).is_ok());
            }
        }

        /// Accepts whatever a writer of JSON produces, pretty or not, and returns it compact.
        #[test]
        fn written_json_is_accepted(value in arbitrary_json()) {
            let plain = serde_json::to_vec(&value).unwrap();
            prop_assert_eq!(compact(&plain).unwrap(), None);
            let pretty = serde_json::to_vec_pretty(&value).unwrap();
            let compacted = compact(&pretty).unwrap();
            prop_assert_eq!(compacted.as_deref().unwrap_or(&pretty), &plain[..]);
        }
    }

    fn arbitrary_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<f64>().prop_filter_map("finite", |number| serde_json::Number::from_f64(number)
                .map(Into::into)),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 48, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                proptest::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }
}
