//! The body of `POST /set`: parsed without changing the value in it; all errors are reported at
//! once.

use std::fmt;

use bytes::Bytes;
use kvstore_core::model::command::Expiry;
use kvstore_core::{Key, Value};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::answer::error::{Problem, Result};
use crate::answer::field::{Field, Place, raw};
use crate::request::ttl;

/// The parsed body of `POST /set`.
#[derive(Debug)]
pub(super) struct SetRequest {
    pub(super) key: Key,
    pub(super) value: Value,
    pub(super) expiry: Expiry,
}

impl SetRequest {
    /// Parses a body.
    ///
    /// # Errors
    /// 422 in FastAPI's words, with a field for each member that is wrong.
    pub(super) fn parse(body: &Bytes) -> Result<Self> {
        let text = std::str::from_utf8(body).map_err(|error| {
            let before = String::from_utf8_lossy(&body[..error.valid_up_to()]);
            not_json(before.chars().count(), "it is not UTF-8")
        })?;
        if text.trim_ascii().is_empty() {
            return Err(Problem::field(missing(Place::BODY, None)));
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let members = json
            .deserialize_map(MembersVisitor)
            .and_then(|members| json.end().map(|()| members))
            .map_err(|error| no_object(text, error))?;

        let key = required("key", members.key, text).and_then(parse_key);
        let value = required("value", members.value, text).and_then(parse_value);
        let expiry = match members.ttl {
            SetMember::Absent => Ok(Expiry::Never),
            SetMember::Once(json) => ttl::from_json(json),
            SetMember::Repeated(json) => Err(repeated("ttl", json)),
        };
        match (key, value, expiry) {
            (Ok(key), Ok(value), Ok(expiry)) => Ok(Self { key, value, expiry }),
            (key, value, expiry) => Err(Problem::invalid(
                [key.err(), value.err(), expiry.err()]
                    .into_iter()
                    .flatten()
                    .collect(),
            )),
        }
    }
}

/// The recognized members of the body, unparsed: a value must not pass through a parser that
/// changes it, and `null` is a value.
#[derive(Debug, Default)]
struct SetMembers<'a> {
    key: SetMember<'a>,
    value: SetMember<'a>,
    ttl: SetMember<'a>,
}

#[derive(Clone, Copy, Debug, Default)]
enum SetMember<'a> {
    #[default]
    Absent,
    Once(&'a RawValue),
    /// JSON parsers disagree about which one applies, so repetition is an error.
    Repeated(&'a RawValue),
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Name {
    Key,
    Value,
    Ttl,
    #[serde(other)]
    Other,
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = SetMembers<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(
        self,
        mut map: A,
    ) -> std::result::Result<SetMembers<'de>, A::Error> {
        let mut members = SetMembers::default();
        while let Some(name) = map.next_key()? {
            let member = match name {
                Name::Key => &mut members.key,
                Name::Value => &mut members.value,
                Name::Ttl => &mut members.ttl,
                Name::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let json = map.next_value()?;
            *member = match member {
                SetMember::Absent => SetMember::Once(json),
                SetMember::Once(_) | SetMember::Repeated(_) => SetMember::Repeated(json),
            };
        }
        Ok(members)
    }
}

fn required<'a>(
    name: &'static str,
    member: SetMember<'a>,
    body: &str,
) -> Result<&'a RawValue, Field> {
    match member {
        SetMember::Once(json) => Ok(json),
        SetMember::Absent => {
            let whole = serde_json::from_str(body).ok();
            Err(missing(Place::In("body", name), whole.and_then(echo)))
        }
        SetMember::Repeated(json) => Err(repeated(name, json)),
    }
}

fn parse_key(json: &RawValue) -> Result<Key, Field> {
    const PLACE: Place = Place::In("body", "key");
    if !json.get().starts_with('"') {
        return Err(Field {
            kind: "string_type",
            place: PLACE,
            message: "Input should be a valid string".into(),
            input: echo(json),
            context: None,
        });
    }
    // Text with an unpaired surrogate is not Unicode.
    let text: String = serde_json::from_str(json.get()).map_err(|_| Field {
        kind: "string_unicode",
        place: PLACE,
        message: "Input should be a valid string, unable to parse raw data as a unicode string"
            .into(),
        input: echo(json),
        context: None,
    })?;
    Key::new(&text).map_err(|error| Field::value_error(PLACE, &error.to_string(), echo(json)))
}

fn parse_value(json: &RawValue) -> Result<Value, Field> {
    // `Value::parse` copies, so the value does not keep the rest of the body in memory.
    Value::parse(json.get())
        .map_err(|error| Field::value_error(Place::In("body", "value"), &error.to_string(), None))
}

/// Returns the client's input for the error, unless the client's parser might refuse it.
fn echo(json: &RawValue) -> Option<Box<RawValue>> {
    let checked = Value::parse(json.get()).ok()?;
    RawValue::from_string(checked.to_string()).ok()
}

fn missing(place: Place, input: Option<Box<RawValue>>) -> Field {
    Field {
        kind: "missing",
        place,
        message: "Field required".into(),
        input,
        context: None,
    }
}

fn repeated(name: &'static str, json: &RawValue) -> Field {
    Field::value_error(
        Place::In("body", name),
        "it must not be repeated",
        echo(json),
    )
}

/// Reports a body that is not an object; `error` is the parser's reason.
fn no_object(text: &str, error: serde_json::Error) -> Box<Problem> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(whole) if !whole.get().starts_with('{') => Problem::field(Field {
            kind: "model_attributes_type",
            place: Place::BODY,
            message: "Input should be a valid dictionary or object to extract fields from".into(),
            input: echo(whole),
            context: None,
        }),
        whole => syntax_error(text, &whole.err().unwrap_or(error)),
    }
}

/// Reports a body that is not JSON, with the position of the error.
fn syntax_error(text: &str, error: &serde_json::Error) -> Box<Problem> {
    // The parser counts lines and, within the last one, bytes, both from 1.
    let lines_before = error.line().saturating_sub(1);
    let line_start: usize = text
        .split_inclusive('\n')
        .take(lines_before)
        .map(str::len)
        .sum();
    let offset = if error.is_eof() {
        text.len()
    } else {
        line_start + error.column().saturating_sub(1)
    };
    let is_character_start = |at: &usize| text.is_char_boundary(*at);
    let characters_before = (0..offset).filter(is_character_start).count();
    not_json(characters_before, &error.to_string())
}

fn not_json(at: usize, reason: &str) -> Box<Problem> {
    Problem::field(Field {
        kind: "json_invalid",
        place: Place::At("body", at),
        message: "JSON decode error".into(),
        input: raw(serde_json::json!({})),
        context: raw(serde_json::json!({ "error": reason })),
    })
}
