//! Times to live, in `?ttl=` and in the member `ttl`: whole seconds from 1 to ten years, or `keep`.

use std::time::Duration;

use kvstore_core::limits::{TTL_MAX, TTL_MIN};
use kvstore_core::model::command::Expiry;
use serde_json::value::RawValue;

use crate::answer::field::{Field, Place, raw};

/// Parses a time to live from a query.
pub(crate) fn from_text(text: &str) -> Result<Expiry, Field> {
    const PLACE: Place = Place::In("query", "ttl");
    if text == "keep" {
        return Ok(Expiry::Keep);
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Field::int_parsing(PLACE, text));
    }
    let seconds = text.parse().unwrap_or(f64::MAX);
    from_number(seconds).map_err(|rule| rule.broken(PLACE, raw(text)))
}

/// Parses a time to live from a body; `null` means none.
pub(crate) fn from_json(json: &RawValue) -> Result<Expiry, Field> {
    const PLACE: Place = Place::In("body", "ttl");
    let input = || Some(json.to_owned());
    match serde_json::from_str(json.get()) {
        Ok(serde_json::Value::Null) => Ok(Expiry::Never),
        Ok(serde_json::Value::String(text)) if text == "keep" => Ok(Expiry::Keep),
        Ok(serde_json::Value::String(text)) => Err(Field::int_parsing(PLACE, &text)),
        // A number that no type can hold is out of range.
        Ok(serde_json::Value::Number(number)) => from_number(number.as_f64().unwrap_or(f64::MAX))
            .map_err(|rule| rule.broken(PLACE, input())),
        Ok(_) => Err(Field {
            kind: "int_type",
            place: PLACE,
            message: "Input should be a valid integer".into(),
            input: input(),
            context: None,
        }),
        Err(_) => from_number(f64::MAX).map_err(|rule| rule.broken(PLACE, input())),
    }
}

/// A rule for a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Whole,
    AtLeast(u64),
    AtMost(u64),
}

/// Converts seconds to an expiry. A floating-point number is exact far beyond the seconds of ten
/// years.
fn from_number(seconds: f64) -> Result<Expiry, Rule> {
    if seconds < TTL_MIN.as_secs_f64() {
        Err(Rule::AtLeast(TTL_MIN.as_secs()))
    } else if seconds > TTL_MAX.as_secs_f64() {
        Err(Rule::AtMost(TTL_MAX.as_secs()))
    } else if seconds.fract() == 0.0 {
        Ok(Expiry::After(Duration::from_secs_f64(seconds)))
    } else {
        Err(Rule::Whole)
    }
}

impl Rule {
    fn broken(self, place: Place, input: Option<Box<RawValue>>) -> Field {
        let (kind, message, context) = match self {
            Self::Whole => (
                "int_from_float",
                "Input should be a valid integer, got a number with a fractional part".into(),
                None,
            ),
            Self::AtLeast(min) => (
                "greater_than_equal",
                format!("Input should be greater than or equal to {min}").into(),
                raw(serde_json::json!({ "ge": min })),
            ),
            Self::AtMost(max) => (
                "less_than_equal",
                format!("Input should be less than or equal to {max}").into(),
                raw(serde_json::json!({ "le": max })),
            ),
        };
        Field {
            kind,
            place,
            message,
            input,
            context,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Expiry {
        Expiry::After(Duration::from_secs(count))
    }

    #[test]
    fn a_query_takes_whole_seconds_within_bounds_or_keep() {
        for (text, expected) in [
            ("1", Ok(seconds(1))),
            ("60", Ok(seconds(60))),
            ("315360000", Ok(seconds(315_360_000))),
            ("keep", Ok(Expiry::Keep)),
            ("0", Err("greater_than_equal")),
            ("-1", Err("greater_than_equal")),
            ("315360001", Err("less_than_equal")),
            ("99999999999999999999999", Err("less_than_equal")),
            ("", Err("int_parsing")),
            ("-", Err("int_parsing")),
            ("+1", Err("int_parsing")),
            ("1.0", Err("int_parsing")),
            ("1e3", Err("int_parsing")),
            ("Keep", Err("int_parsing")),
            ("inf", Err("int_parsing")),
        ] {
            assert_eq!(
                from_text(text).map_err(|field| field.kind),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn a_body_takes_the_same_as_json() {
        for (json, expected) in [
            ("1", Ok(seconds(1))),
            ("60.0", Ok(seconds(60))),
            ("6e1", Ok(seconds(60))),
            ("null", Ok(Expiry::Never)),
            ("\"keep\"", Ok(Expiry::Keep)),
            ("0", Err("greater_than_equal")),
            ("-1", Err("greater_than_equal")),
            ("1.5", Err("int_from_float")),
            ("315360001", Err("less_than_equal")),
            ("1e400", Err("less_than_equal")),
            ("99999999999999999999999", Err("less_than_equal")),
            ("\"60\"", Err("int_parsing")),
            ("true", Err("int_type")),
            ("[]", Err("int_type")),
        ] {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            assert_eq!(
                from_json(raw).map_err(|field| field.kind),
                expected,
                "{json}"
            );
        }
    }
}
