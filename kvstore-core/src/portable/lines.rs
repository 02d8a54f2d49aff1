//! NDJSON: one object per line.

use std::io::{self, BufRead, Read as _};

use super::{PortableEntry, Refused, Wrong, read_key};
use crate::model::entry::{Timestamp, Version};
use crate::model::json::Scanner;
use crate::model::value::Value;

/// The longest line, in bytes. Bounds the memory that reading line by line needs.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// Reads one entry per line. Empty lines are skipped.
///
/// An outer error is an I/O error and ends the iteration. An inner error rejects one line, with its
/// position, and reading continues with the next line, unless the line is longer than
/// [`LINE_BYTES_MAX`], which ends the iteration.
///
/// The same key may occur repeatedly, as in a log: the keys are not remembered.
///
/// # Cost
/// One line is in memory at a time.
#[derive(Debug)]
pub struct LinesReader<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
    has_ended: bool,
}

impl<R: BufRead> LinesReader<R> {
    /// Creates a reader at the beginning of `input`.
    pub fn new(input: R) -> Self {
        Self {
            input,
            line: Vec::new(),
            number: 0,
            has_ended: false,
        }
    }

    /// Reads the next line, and returns false at the end of the input.
    fn read_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        let mut input = (&mut self.input).take(LINE_BYTES_MAX as u64 + 1);
        self.number += 1;
        Ok(input.read_until(b'\n', &mut self.line)? > 0)
    }
}

impl<R: BufRead> Iterator for LinesReader<R> {
    type Item = io::Result<Result<PortableEntry, Refused>>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.has_ended {
            match self.read_line() {
                Ok(true) => {}
                Ok(false) => self.has_ended = true,
                Err(error) => {
                    self.has_ended = true;
                    return Some(Err(error));
                }
            }
            let line = self.line.trim_ascii_end();
            let entry = if line.len() > LINE_BYTES_MAX {
                self.has_ended = true;
                Err(Wrong::new(0, "the line is longer than 64 MiB"))
            } else if line.is_empty() {
                continue;
            } else {
                entry(line)
            };
            return Some(Ok(entry.map_err(|wrong| wrong.within(line, self.number))));
        }
        None
    }
}

fn entry(line: &[u8]) -> Result<PortableEntry, Wrong> {
    let mut scanner = Scanner::new(line)?;
    scanner.skip_space();
    let start = scanner.at();
    scanner.expect(b'{', "an object, { … }")?;
    scanner.skip_space();
    let (mut key, mut value, mut version, mut expires_at) = (None, None, None, None);
    let mut has_more = scanner.peek() != b'}';
    if !has_more {
        scanner.expect(b'}', "}")?;
    }
    while has_more {
        let name = scanner.string()?;
        let (name_at, name) = (name.start, &line[name]);
        scanner.colon()?;
        let at = scanner.at();
        scanner.restart_gathering();
        scanner.value()?;
        let text = scanner.gathered();
        let is_first = match name {
            b"\"key\"" if text[0] == b'"' => key.replace(read_key(at, &text)?).is_none(),
            b"\"key\"" => return Err(Wrong::new(at, "the key is not a string")),
            b"\"value\"" => value.replace(Value::trusted(text.into())).is_none(),
            b"\"version\"" => version.replace(number(at, &text)?).is_none(),
            b"\"expires_at\"" => expires_at.replace(number(at, &text)?).is_none(),
            _ => {
                let name = String::from_utf8_lossy(name);
                let reason = format!(
                    "{name} is unknown: expected \"key\", \"value\", \"version\" or \"expires_at\""
                );
                return Err(Wrong::new(name_at, reason));
            }
        };
        if !is_first {
            let reason = format!("{} occurs a second time", String::from_utf8_lossy(name));
            return Err(Wrong::new(name_at, reason));
        }
        has_more = scanner.comma_or(b'}', "a comma or }")?;
    }
    scanner.skip_space();
    scanner.end()?;
    Ok(PortableEntry {
        key: key.ok_or_else(|| Wrong::new(start, "\"key\" is missing"))?,
        value: value.ok_or_else(|| Wrong::new(start, "\"value\" is missing"))?,
        expires_at: expires_at.flatten().map(Timestamp),
        version: version.flatten().map(Version),
    })
}

/// Parses a whole number or `null`.
fn number(at: usize, text: &[u8]) -> Result<Option<u64>, Wrong> {
    serde_json::from_slice(text).map_err(|_| {
        Wrong::new(
            at,
            "it must be null or a whole number from 0 to 18446744073709551615",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Vec<Result<PortableEntry, String>> {
        LinesReader::new(text)
            .map(|item| item.unwrap().map_err(|refused| refused.to_string()))
            .collect()
    }

    #[test]
    fn lines_are_entries_byte_for_byte() {
        let found = read(
            b"{\"key\":\"a\",\"value\":[ 1.50, 1e400 ]}\r\n\n \t\n\
              {\"expires_at\":7, \"version\":3, \"value\":null ,\"key\":\"\\u0062\"}\n\
              {\"key\":\"a\",\"value\":0,\"expires_at\":null}",
        );
        let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
        let known: Vec<_> = found
            .iter()
            .map(|entry| {
                let (version, deadline) = (entry.version, entry.expires_at);
                (entry.key.as_str(), entry.value.as_str(), version, deadline)
            })
            .collect();
        assert_eq!(
            known,
            [
                ("a", "[1.50,1e400]", None, None),
                ("b", "null", Some(Version(3)), Some(Timestamp(7))),
                ("a", "0", None, None),
            ]
        );
    }

    #[test]
    fn each_bad_line_is_rejected_with_its_position_and_the_rest_is_read() {
        for (line, place) in [
            (&b"{}"[..], "line 2 column 1: \"key\" is missing"),
            (
                b"  {\"key\":\"a\"}",
                "line 2 column 3: \"value\" is missing",
            ),
            (b"{\"value\":1}", "line 2 column 1: \"key\" is missing"),
            (
                b"{\"key\":\"a//b\",\"value\":1}",
                "line 2 column 8: \"a//b\": key is invalid",
            ),
            (
                b"{\"key\":1,\"value\":1}",
                "line 2 column 8: the key is not a string",
            ),
            (
                b"{\"key\":\"a\",\"value\":1,\"ttl\":1}",
                "line 2 column 22: \"ttl\" is unknown",
            ),
            (
                b"{\"key\":\"a\",\"key\":\"b\",\"value\":1}",
                "line 2 column 12: \"key\" occurs a second time",
            ),
            (
                b"{\"key\":\"a\",\"value\":1,\"value\":1}",
                "line 2 column 22: \"value\" occurs a second time",
            ),
            (
                b"{\"key\":\"a\",\"value\":1,\"expires_at\":-1}",
                "line 2 column 35: it must be null or",
            ),
            (
                b"{\"key\":\"a\",\"value\":1,\"expires_at\":1.5}",
                "line 2 column 35: it must be null or",
            ),
            (
                b"{\"key\":\"\xc3\xa9\",\"value\":nul}",
                "line 2 column 20: it is not JSON",
            ),
            (
                b"{\"key\":\"a\",\"value\":1} {}",
                "line 2 column 23: it is not JSON",
            ),
            (
                b"{\"key\":\"a\",\"value\":1",
                "line 2 column 21: it is not JSON",
            ),
            (
                b"{\"key\":\"a\",\"value\":\"\xff\"}",
                "line 2 column 21: it is not JSON: expected valid UTF-8",
            ),
            (
                b"\"a\"",
                "line 2 column 1: it is not JSON: expected an object",
            ),
        ] {
            let good = b"{\"key\":\"a\",\"value\":1}";
            let text = [&good[..], line, good].join(&b'\n');
            let found = read(&text);
            let [Ok(_), Err(said), Ok(_)] = &found[..] else {
                panic!("{found:?}");
            };
            assert!(said.starts_with(place), "{said} is not {place}");
        }
    }

    #[test]
    fn line_without_end_is_rejected() {
        let input = io::BufReader::new(io::repeat(b'1').take(1 << 30));
        let mut lines = LinesReader::new(input);
        let refused = lines.next().unwrap().unwrap().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "line 1 column 1: the line is longer than 64 MiB"
        );
        assert!(lines.next().is_none());
        assert!(lines.line.capacity() <= 3 * LINE_BYTES_MAX);
    }

    #[test]
    fn failing_input_is_an_error_and_ends_the_iteration() {
        struct Failing;
        impl io::Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("it is gone"))
            }
        }
        let input = (&b"{\"key\":\"a\",\"value\":1}\n"[..]).chain(io::BufReader::new(Failing));
        let mut lines = LinesReader::new(input);
        assert!(lines.next().unwrap().unwrap().is_ok());
        assert_eq!(lines.next().unwrap().unwrap_err().to_string(), "it is gone");
        assert!(lines.next().is_none());
    }
}
