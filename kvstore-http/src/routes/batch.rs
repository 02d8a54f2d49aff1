//! `POST /v1/batch`: several writes that take effect together or not at all, as one job.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{IF_MATCH, IF_NONE_MATCH};
use hyper::http::request::Parts;
use kvstore_core::model::command::{Action, Command, Expiry, Operation};
use kvstore_core::model::write::Condition;
use kvstore_core::{Key, Value};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::context::Context;
use super::write::{WriteProgress, describe, send};
use crate::answer::error::{Problem, Result};
use crate::answer::field::{Field, Place};
use crate::answer::json::Object;
use crate::answer::reply::{self, Reply};
use crate::request::conditions::write_condition_of;
use crate::request::headers::idempotency_key;
use crate::request::target::{Query, unknown};
use crate::request::{body, ttl};

/// The body of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchRequest<'a> {
    /// Each is parsed on its own, so that an error can name its index.
    #[serde(borrow)]
    ops: Vec<&'a RawValue>,
}

/// One operation, as sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    /// `null` is a value, distinct from an absent member.
    #[serde(borrow, default, deserialize_with = "some")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "some")]
    by: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "some")]
    patch: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "some")]
    ttl: Option<&'a RawValue>,
    /// `null` is no condition.
    #[serde(default, deserialize_with = "given")]
    if_match: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    if_none_match: Option<Option<String>>,
}

impl Sent<'_> {
    const MEMBERS: [&'static str; 8] = [
        "op",
        "key",
        "value",
        "by",
        "patch",
        "ttl",
        "if_match",
        "if_none_match",
    ];
}

/// Describes the first member of the object `json` outside `known`, if there is one.
fn unknown_member(json: &[u8], known: &[&str]) -> Option<String> {
    let members: BTreeMap<String, IgnoredAny> = serde_json::from_slice(json).ok()?;
    let name = members.keys().find(|name| !known.contains(&&***name))?;
    Some(unknown("member", name, known))
}

fn some<'de, D: Deserializer<'de>>(
    json: D,
) -> std::result::Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(json).map(Some)
}

/// Reads a member that is there, perhaps as `null`.
fn given<'de, D: Deserializer<'de>>(
    json: D,
) -> std::result::Result<Option<Option<String>>, D::Error> {
    Option::deserialize(json).map(Some)
}

/// Answers `POST /v1/batch`.
pub(super) async fn post(context: &Context<'_>, parts: &Parts, body: Incoming) -> Result<Reply> {
    body::check_content_type(&parts.headers)?;
    Query::new(parts.uri.query()).only(&[])?;
    if [IF_MATCH, IF_NONE_MATCH]
        .iter()
        .any(|name| parts.headers.contains_key(name))
    {
        return Err(Problem::malformed(
            "the conditions of a batch are its operations' own: if_match and if_none_match in the body",
        ));
    }
    let operations = operations(&context.bodies(body).await?)?;
    if operations.is_empty() {
        // Nothing to do takes no job, and is refused like any other batch.
        idempotency_key(context.rare)?;
        let answer = Object::new().member("job_id", None::<&str>);
        let answer = answer.array("results", [(); 0], |object, ()| object);
        return Ok(reply::object(StatusCode::OK, answer));
    }
    let asked: Vec<_> = operations
        .iter()
        .map(|operation| (operation.key.clone(), operation.action.name()))
        .collect();
    let written = send(
        context,
        Command::Batch(operations),
        context.options.resource_wait,
    )
    .await?;
    let answer = Object::new().member("job_id", written.job);
    Ok(match written.progress {
        WriteProgress::Queued => {
            written.reply(StatusCode::ACCEPTED, answer.member("status", "queued"))
        }
        WriteProgress::Applied(_) => {
            // A check writes nothing, so it has no entry among the writes.
            let mut writes = written.writes.iter();
            let answer = answer.array("results", &asked, |result, (key, name)| {
                let result = result.member("op", name).member("key", key);
                match (*name != "check").then(|| writes.next()).flatten() {
                    Some(applied) => describe(result, name, applied),
                    None => result,
                }
            });
            written.reply(StatusCode::OK, answer)
        }
    })
}

fn operations(text: &[u8]) -> Result<Vec<Operation>> {
    let wanted: BatchRequest<'_> = body::object(text).map_err(|error| {
        let rule = unknown_member(text, &["ops"]).unwrap_or_else(|| error.to_string());
        Problem::field(Field::value_error(Place::BODY, &rule, None))
    })?;
    let mut operations = Vec::with_capacity(wanted.ops.len());
    let mut wrong = Vec::new();
    for (number, json) in wanted.ops.iter().enumerate() {
        match operation(json) {
            Ok(operation) => operations.push(operation),
            Err(rule) => {
                let place = Place::Item("body", "ops", number);
                wrong.push(Field::value_error(place, &rule, None));
            }
        }
    }
    if wrong.is_empty() {
        Ok(operations)
    } else {
        Err(Problem::invalid(wrong))
    }
}

/// Parses one operation.
///
/// # Errors
/// Describes what is wrong with it.
fn operation(json: &RawValue) -> Result<Operation, String> {
    let sent: Sent<'_> = body::object(json.get().as_bytes()).map_err(|error| {
        unknown_member(json.get().as_bytes(), &Sent::MEMBERS).unwrap_or_else(|| error.to_string())
    })?;
    let key = Key::new(&sent.key).map_err(|error| error.to_string())?;
    let conditions = [&sent.if_match, &sent.if_none_match];
    // It is all that a check is about.
    if sent.op == "check" && conditions.contains(&&Some(None)) {
        return Err("the condition of a check must not be null".to_owned());
    }
    let [if_match, if_none_match] = conditions.map(|tags| tags.as_ref()?.as_deref());
    let condition = write_condition_of(if_match, if_none_match)?;
    let parse = |json: &RawValue| Value::parse(json.get()).map_err(|error| error.to_string());
    let ttl = match sent.ttl {
        None => None,
        Some(json) => match ttl::from_json(json).map_err(|field| field.message.into_owned())? {
            Expiry::Never => None,
            expiry => Some(expiry),
        },
    };
    let mut members = OperationMembers {
        op: &sent.op,
        given: vec![
            ("value", sent.value.is_some()),
            ("by", sent.by.is_some()),
            ("patch", sent.patch.is_some()),
            ("ttl", sent.ttl.is_some()),
        ],
    };
    let operation = match &*sent.op {
        // `Value::parse` copies, so the value does not keep the rest of the body in memory.
        "set" => Operation {
            expiry: ttl.unwrap_or_default(),
            ..Operation::set(key, parse(members.needs("value", sent.value)?)?)
        },
        "delete" => Operation::delete(key),
        "add" => {
            let by = members.needs("by", sent.by)?;
            let by = integer(by).ok_or("by must be an integer of 64 bits")?;
            Operation {
                expiry: ttl.unwrap_or_default(),
                ..Operation::add(key, by)
            }
        }
        "merge" => Operation {
            expiry: ttl.unwrap_or(Expiry::Keep),
            ..Operation::merge(key, parse(members.needs("patch", sent.patch)?)?)
        },
        "touch" => match ttl {
            Some(Expiry::After(ttl)) => Operation::touch(key, ttl),
            _ => return Err("a touch needs a ttl in seconds".to_owned()),
        },
        "check" if condition == Condition::Any => {
            return Err("a check needs if_match or if_none_match".to_owned());
        }
        "check" => Operation::check(key),
        _ => return Err("op must be set, delete, add, merge, touch or check".to_owned()),
    };
    if !matches!(operation.action, Action::Delete | Action::Check) {
        members.takes("ttl");
    }
    members.end()?;
    if condition == Condition::Absent && matches!(operation.action, Action::Delete | Action::Touch)
    {
        return Err(format!("a {} takes no if_none_match", sent.op));
    }
    Ok(operation.under(condition))
}

/// Parses an integer. A fraction of zero and an exponent are accepted as far as a float is exact.
fn integer(json: &RawValue) -> Option<i64> {
    const EXACT_BELOW: f64 = 9_007_199_254_740_992.0;
    let is_integer = |number: &f64| number.fract() == 0.0 && number.abs() < EXACT_BELOW;
    let by_float = || serde_json::from_str(json.get()).ok().filter(is_integer);
    serde_json::from_str(json.get())
        .ok()
        .or_else(|| Some(by_float()? as i64))
}

/// The members that only some operations have.
struct OperationMembers<'a> {
    op: &'a str,
    given: Vec<(&'static str, bool)>,
}

impl OperationMembers<'_> {
    fn takes(&mut self, name: &str) {
        self.given.retain(|(given, _)| *given != name);
    }

    fn needs<T>(&mut self, name: &str, member: Option<T>) -> Result<T, String> {
        self.takes(name);
        member.ok_or_else(|| format!("{} {} needs a {name}", article(self.op), self.op))
    }

    /// Refuses the members that are left.
    fn end(self) -> Result<(), String> {
        match self.given.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => Err(format!("{} {} takes no {name}", article(self.op), self.op)),
            None => Ok(()),
        }
    }
}

fn article(op: &str) -> &'static str {
    match op {
        "add" => "an",
        _ => "a",
    }
}
