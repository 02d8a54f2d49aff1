//! A part of a request that breaks a rule: what FastAPI lists under `detail` in a 422, and `/v1` under `errors`.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde_json::value::RawValue;

/// A part of a request that breaks a rule, as FastAPI reports it.
#[derive(Debug)]
pub(crate) struct Field {
    /// What is wrong, in pydantic's words.
    pub(crate) kind: &'static str,
    pub(crate) place: Place,
    pub(crate) message: Cow<'static, str>,
    /// What stood there, where that can be said.
    pub(crate) input: Option<Box<RawValue>>,
    /// Facts that the message is made of.
    pub(crate) context: Option<Box<RawValue>>,
}

/// Where in a request something is wrong. As JSON it is a list.
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

/// In log lines and in the one sentence of a problem.
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
    /// A rule of ours that pydantic has no word for.
    pub(crate) fn value_error(place: Place, rule: &str, input: Option<Box<RawValue>>) -> Self {
        Self {
            kind: "value_error",
            place,
            message: format!("Value error, {rule}").into(),
            input,
            context: raw(serde_json::json!({ "error": rule })),
        }
    }

    /// A text where a whole number should be.
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

/// `value` as JSON text.
pub(crate) fn raw(value: impl Serialize) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(&value).ok()
}

/// A [`Field`] as it is sent.
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
    /// As FastAPI sends it.
    pub(crate) fn long(&self) -> SentField<'_> {
        SentField {
            input: Some(self.input.as_deref().unwrap_or(RawValue::NULL)),
            ctx: self.context.as_deref(),
            ..self.short()
        }
    }

    /// Without what the caller has sent: `/v1` echoes nothing.
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
