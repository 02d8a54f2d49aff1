//! `POST /v1/batch`: several writes that take effect together or not at all, as one job.

use std::borrow::Cow;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{IF_MATCH, IF_NONE_MATCH};
use hyper::http::request::Parts;
use kvstore_core::model::command::{Action, Command, Expiry, Operation};
use kvstore_core::model::job::Applied;
use kvstore_core::model::write::Condition;
use kvstore_core::{Key, Value};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::context::Context;
use super::write::{Progress, send};
use crate::answer::error::{Problem, Result};
use crate::answer::field::{Field, Place};
use crate::answer::json::{Object, array};
use crate::answer::reply::Reply;
use crate::request::conditions::{etag_text, write_condition_of};
use crate::request::{body, ttl};

/// Largest body, in bytes, unless a single value may be larger.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;

/// The body of a request.
#[derive(Debug, Deserialize)]
struct Wanted<'a> {
    /// Each is read on its own, so that what is wrong has a place.
    #[serde(borrow)]
    ops: Vec<&'a RawValue>,
}

/// One of its operations, as it was sent.
#[derive(Debug, Deserialize)]
struct Sent<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    /// `null` is a value.
    #[serde(borrow, default, deserialize_with = "some")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ttl: Option<&'a RawValue>,
    #[serde(borrow, default)]
    if_match: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    if_none_match: Option<Cow<'a, str>>,
}

fn some<'de, D: Deserializer<'de>>(
    json: D,
) -> std::result::Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(json).map(Some)
}

/// `POST`
pub(super) async fn post(context: &Context<'_>, parts: &Parts, body: Incoming) -> Result<Reply> {
    body::check_content_type(&parts.headers)?;
    if [IF_MATCH, IF_NONE_MATCH]
        .iter()
        .any(|name| parts.headers.contains_key(name))
    {
        return Err(Problem::malformed(
            "the conditions of a batch are its operations' own: if_match and if_none_match in the body",
        ));
    }
    let options = context.options;
    let bytes_max = match options.body_bytes_max {
        Some(bytes_max) => bytes_max,
        None => context.body_bytes_max().max(BODY_BYTES_MAX),
    };
    let text = body::read(body, bytes_max, options.body_timeout).await?;
    let operations = operations(&text)?;
    let asked: Vec<_> = operations
        .iter()
        .map(|operation| (operation.key.clone(), is_set(operation)))
        .collect();
    let written = send(
        context,
        parts,
        Command::Batch(operations),
        options.resource_wait,
    )
    .await?;
    let answer = Object::new().member("job_id", written.job);
    Ok(match written.progress {
        Progress::Queued => written.reply(StatusCode::ACCEPTED, answer.member("status", "queued")),
        Progress::Applied(_) => {
            let results = asked.iter().enumerate();
            let results = results
                .map(|(number, (key, is_set))| result(key, *is_set, written.writes.get(number)));
            written.reply(StatusCode::OK, answer.raw("results", &array(results)))
        }
    })
}

fn is_set(operation: &Operation) -> bool {
    matches!(operation.action, Action::Set { .. })
}

/// What an operation did, as far as that is still known: the same as for a write on its own.
fn result(key: &Key, is_set: bool, applied: Option<&Applied>) -> Object {
    let result = Object::new()
        .member("op", if is_set { "set" } else { "delete" })
        .member("key", key);
    match applied {
        None => result,
        Some(applied) if is_set => result
            .member("etag", etag_text(applied.version))
            .member("created", !applied.existed),
        Some(applied) => result.member("deleted", applied.existed),
    }
}

fn operations(text: &[u8]) -> Result<Vec<Operation>> {
    let wanted: Wanted<'_> = serde_json::from_slice(text).map_err(|error| {
        Problem::field(Field::value_error(Place::BODY, &error.to_string(), None))
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

/// # Errors
/// What is wrong with it.
fn operation(json: &RawValue) -> Result<Operation, String> {
    let sent: Sent<'_> = serde_json::from_str(json.get()).map_err(|error| error.to_string())?;
    let key = Key::new(&sent.key).map_err(|error| error.to_string())?;
    let condition = write_condition_of(sent.if_match.as_deref(), sent.if_none_match.as_deref())?;
    let operation = match (&*sent.op, sent.value) {
        ("set", Some(value)) => Operation {
            expiry: match sent.ttl {
                None => Expiry::Never,
                Some(json) => ttl::from_json(json).map_err(|field| field.message.into_owned())?,
            },
            // A copy of its own: the rest of the body must not stay in memory with it.
            ..Operation::set(
                key,
                Value::parse(value.get()).map_err(|error| error.to_string())?,
            )
        },
        ("set", None) => return Err("a set needs a value".to_owned()),
        ("delete", Some(_)) => return Err("a delete takes no value".to_owned()),
        ("delete", None) if sent.ttl.is_some() => return Err("a delete takes no ttl".to_owned()),
        ("delete", None) if condition == Condition::Absent => {
            return Err("a delete takes no if_none_match".to_owned());
        }
        ("delete", None) => Operation::delete(key),
        _ => return Err("op must be set or delete".to_owned()),
    };
    Ok(operation.under(condition))
}
