//! An invalid part of a request: an item of FastAPI's `detail` in a 422, and of `/v1`'s `errors`.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde_json::value::RawValue;

/// An invalid part of a request, as FastAPI reports it.
#[derive(Debug)]
pub(crate) struct Field {
    /// The type of error, in pydantic's terms.
    pub(crate) kind: &'static str,
    pub(crate) place: Place,
    pub(crate) message: Cow<'static, str>,
    /// The rejected input, if it can be shown.
    pub(crate) input: Option<Box<RawValue>>,
    /// The values that the message refers to.
    pub(crate) context: Option<Box<RawValue>>,
}

/// Where in a request an error is. Serializes as a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Place {
    /// A part as a whole.
    Whole([&'static str; 1]),
    /// A member of a part: `["body","key"]`.
    In(&'static str, &'static str),
    /// An item of a list in a part, counted from 0: `["body","keys",3]`.
    Item(&'static str, &'static str, usize),
    /// A character of a part, counted from 0.
    At(&'static str, usize),
}

impl Place {
    pub(crate) const BODY: Self = Self::Whole(["body"]);
}

/// The form for logs and for the detail of a problem.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole([part]) => f.write_str(part),
            Self::In(part, name) => write!(f, "{part}.{name}"),
            Self::Item(part, name, number) => write!(f, "{part}.{name}[{number}]"),
            Self::At(part, offset) => write!(f, "{part} at character {offset}"),
        }
    }
}

impl Field {
    /// Describes a rule of this service that pydantic has no type for.
    pub(crate) fn value_error(place: Place, rule: &str, input: Option<Box<RawValue>>) -> Self {
        Self {
            kind: "value_error",
            place,
            message: format!("Value error, {rule}").into(),
            input,
            context: raw(serde_json::json!({ "error": rule })),
        }
    }

    /// Describes text in the place of an integer.
    pub(crate) fn int_parsing(place: Place, text: &str) -> Self {
        Self {
            kind: "int_parsing",
            place,
            message: "Input should be a valid integer, unable to parse string as an integer".into(),
            input: raw(text),
            context: None,
        }
    }
}

/// Serializes `value` as JSON text.
pub(crate) fn raw(value: impl Serialize) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(&value).ok()
}

/// A [`Field`] in its serialized form.
#[derive(Serialize)]
pub(crate) struct SentField<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    loc: Place,
    msg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctx: Option<&'a RawValue>,
}

impl Field {
    /// Returns the form that FastAPI sends.
    pub(crate) fn long(&self) -> SentField<'_> {
        SentField {
            input: Some(self.input.as_deref().unwrap_or(RawValue::NULL)),
            ctx: self.context.as_deref(),
            ..self.short()
        }
    }

    /// Returns the form without the caller's input: `/v1` echoes nothing.
    pub(crate) fn short(&self) -> SentField<'_> {
        SentField {
            kind: self.kind,
            loc: self.place,
            msg: &self.message,
            input: None,
            ctx: None,
        }
    }
}
