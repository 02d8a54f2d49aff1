//! Encodes a command as a request of the API.

use std::fmt::Write as _;

use hyper::Method;
use hyper::header::{IF_MATCH, IF_NONE_MATCH};
use kvstore_core::error::Subject;
use kvstore_core::model::command::{Action, Command, Expiry, Operation};
use kvstore_core::service::Request;
use kvstore_core::{Error, Key, Result, Value};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::transport::{ApiCall, IDEMPOTENCY_KEY, RepeatEffect, TRACEPARENT};
use crate::wire::{self, RequestTarget};

/// Returns the request for `request`, without its wait.
pub(super) fn call(request: &Request) -> Result<ApiCall> {
    let mut call = match &request.command {
        Command::One(Operation {
            action: Action::Check,
            ..
        })
        | Command::Batch(_) => batch(request.command.operations())?,
        Command::One(operation) => one(operation)?,
    };
    call.effect = RepeatEffect::EachTime;
    if let Some(key) = &request.idempotency_key {
        // A string of structured fields (RFC 9651 §3.3.3).
        let mut quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        if let Some(window) = request.idempotency_window {
            let seconds = window.as_millis().div_ceil(1000).max(1);
            write!(quoted, ";window={seconds}").expect("a String takes it");
        }
        call.header(IDEMPOTENCY_KEY, &quoted)
            .ok_or_else(|| Error::Invalid {
                subject: Subject::Job,
                reason: "its idempotency key contains a character that is not visible ASCII"
                    .to_owned(),
            })?;
        call.effect = RepeatEffect::Once;
    }
    if let Some(traceparent) = &request.traceparent {
        call.header(TRACEPARENT, traceparent)
            .ok_or_else(|| Error::Invalid {
                subject: Subject::Job,
                reason: "its traceparent contains a character that is not allowed in a header"
                    .to_owned(),
            })?;
    }
    Ok(call)
}

fn one(operation: &Operation) -> Result<ApiCall> {
    let key = &operation.key;
    let ttl = ttl(operation)?;
    let target = RequestTarget::entry(key).with_some("ttl", ttl.as_ref().map(WireTtl::text));
    let write =
        |method, target: RequestTarget| ApiCall::read(method, target.finish(), Subject::Value);
    let mut call = match &operation.action {
        Action::Set { value } => {
            let mut call = write(Method::PUT, target);
            call.json("application/json", value.clone().into_bytes());
            call
        }
        Action::Delete | Action::Check => write(Method::DELETE, target),
        Action::Add { by } => write(Method::POST, target.with("add", by)),
        Action::Merge { patch, .. } => {
            let mut call = write(Method::PATCH, target);
            call.json("application/merge-patch+json", patch.clone().into_bytes());
            call
        }
        Action::Touch => write(Method::PATCH, target),
    };
    let (matches, none_matches) = wire::conditions(&operation.condition);
    for (header, value) in [(IF_MATCH, matches), (IF_NONE_MATCH, none_matches)] {
        if let Some(value) = value {
            call.header(header, &value).expect("tags are visible ASCII");
        }
    }
    Ok(call)
}

/// A time to live in the form of the API.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
enum WireTtl {
    Seconds(u64),
    Keep(&'static str),
}

impl WireTtl {
    fn text(&self) -> String {
        match self {
            Self::Seconds(seconds) => seconds.to_string(),
            Self::Keep(keep) => (*keep).to_owned(),
        }
    }
}

fn ttl(operation: &Operation) -> Result<Option<WireTtl>> {
    let is_merge = matches!(operation.action, Action::Merge { .. });
    match operation.expiry {
        Expiry::After(ttl) => Ok(Some(WireTtl::Seconds(wire::whole_seconds(ttl)?))),
        Expiry::Keep => Ok(Some(WireTtl::Keep("keep"))),
        Expiry::Never if is_merge => Err(Error::Invalid {
            subject: Subject::Ttl,
            reason: "a merge over HTTP keeps the deadline or sets a new one".to_owned(),
        }),
        Expiry::Never => Ok(None),
    }
}

/// One operation of a batch.
#[derive(Debug, Serialize)]
struct WireOperation<'a> {
    op: &'static str,
    key: &'a Key,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<WireTtl>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_match: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_none_match: Option<String>,
}

/// The body of a batch.
#[derive(Debug, Serialize)]
struct WireBatch<'a> {
    ops: Vec<WireOperation<'a>>,
}

fn batch(operations: &[Operation]) -> Result<ApiCall> {
    if operations.is_empty() {
        return Err(Error::Invalid {
            subject: Subject::Batch,
            reason: "it has no operation".to_owned(),
        });
    }
    let ops: Result<Vec<_>> = operations.iter().map(operation).collect();
    let body = serde_json::to_vec(&WireBatch { ops: ops? }).expect("it has a JSON form");
    let mut call = ApiCall::read(Method::POST, "/v1/batch".to_owned(), Subject::Batch);
    call.json("application/json", body);
    Ok(call)
}

fn operation(operation: &Operation) -> Result<WireOperation<'_>> {
    let mut wire = WireOperation {
        op: operation.action.name(),
        key: &operation.key,
        value: None,
        patch: None,
        by: None,
        ttl: ttl(operation)?,
        if_match: None,
        if_none_match: None,
    };
    match &operation.action {
        Action::Set { value } => wire.value = Some(raw(value)),
        Action::Merge { patch, .. } => wire.patch = Some(raw(patch)),
        Action::Add { by } => wire.by = Some(*by),
        Action::Delete | Action::Touch | Action::Check => {}
    }
    (wire.if_match, wire.if_none_match) = wire::conditions(&operation.condition);
    Ok(wire)
}

fn raw(value: &Value) -> &RawValue {
    serde_json::from_slice(value.as_bytes()).expect("a value is JSON text")
}
