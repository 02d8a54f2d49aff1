//! Parses arguments: keys, values, times, etags.

use std::convert::Infallible;
use std::io::Read as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use kvstore_core::model::command::Expiry;
use kvstore_core::model::write::Condition;
use kvstore_core::store::ChangeKind;
use kvstore_core::{Key, Value, Version};

use crate::failure::CommandFailure;

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ValueSource {
    Argument(String),
    /// `-`
    Standard,
    /// `@FILE`
    File(PathBuf),
}

impl FromStr for ValueSource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match (text, text.strip_prefix('@')) {
            ("-", _) => Self::Standard,
            (_, Some(path)) => Self::File(path.into()),
            _ => Self::Argument(text.to_owned()),
        })
    }
}

impl ValueSource {
    pub(crate) fn read(self) -> Result<Vec<u8>, CommandFailure> {
        match self {
            Self::Argument(text) => Ok(text.into_bytes()),
            Self::Standard => {
                let mut text = Vec::new();
                std::io::stdin().read_to_end(&mut text).map_err(|error| {
                    CommandFailure::Usage(format!("standard input cannot be read: {error}"))
                })?;
                Ok(text)
            }
            Self::File(path) => std::fs::read(&path).map_err(|error| {
                CommandFailure::Usage(format!("{} cannot be read: {error}", path.display()))
            }),
        }
    }

    /// Parses a JSON value.
    pub(crate) fn json(self) -> Result<Value, CommandFailure> {
        let is_argument = matches!(self, Self::Argument(_));
        Value::parse(self.read()?).map_err(|error| {
            let hint = match is_argument {
                true => ": text needs quotes of its own, as in '\"Ada\"'; or use --text, or @FILE",
                false => "",
            };
            CommandFailure::Usage(format!("{error}{hint}"))
        })
    }

    /// Reads plain text as a JSON string.
    pub(crate) fn text(self) -> Result<Value, CommandFailure> {
        let text = String::from_utf8(self.read()?)
            .map_err(|_| CommandFailure::Usage("the value is not text in UTF-8".to_owned()))?;
        Ok(Value::from_serialize(&text)?)
    }
}

pub(crate) fn key(text: &str) -> Result<Key, String> {
    Key::new(text).map_err(|error| error.to_string())
}

/// Parses `15m`, `1h 30m`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text)
            .map_err(|error| format!("{error}: expected a time such as 90, 15m or 1h30m")),
    }
}

pub(crate) fn expiry(text: &str) -> Result<Expiry, String> {
    match text {
        "keep" => Ok(Expiry::Keep),
        text => duration(text).map(Expiry::After),
    }
}

/// Parses `*`, or an etag with or without its quotes.
pub(crate) fn condition(text: &str) -> Result<Condition, String> {
    if text == "*" {
        return Ok(Condition::Present);
    }
    let digits = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let version = digits.unwrap_or(text).parse();
    let version = version.map_err(|_| "expected * or an etag such as 42".to_owned())?;
    Ok(Condition::Version(Version(version)))
}

pub(crate) fn change_kind(text: &str) -> Result<ChangeKind, String> {
    match text {
        "set" => Ok(ChangeKind::Set),
        "delete" => Ok(ChangeKind::Delete),
        "expire" => Ok(ChangeKind::Expire),
        _ => Err("expected set, delete or expire".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_people_write_them() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("-1").is_err() && duration("soon").is_err());
        assert_eq!(expiry("keep"), Ok(Expiry::Keep));
        assert_eq!(condition("*"), Ok(Condition::Present));
        for etag in ["42", "\"42\""] {
            assert_eq!(condition(etag), Ok(Condition::Version(Version(42))));
        }
        assert!(condition("\"42").is_err());
        assert_eq!("-".parse(), Ok(ValueSource::Standard));
        assert_eq!("@a".parse(), Ok(ValueSource::File("a".into())));
        assert_eq!("-1".parse(), Ok(ValueSource::Argument("-1".to_owned())));
    }
}
