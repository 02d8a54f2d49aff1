//! The resource face: `/v1/kv/{key}` is the value itself, with its version as entity tag.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Body, Incoming};
use hyper::header::ETAG;
use hyper::http::request::Parts;
use kvstore_core::model::command::{Expiry, Operation};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::{Entry, Key, Value};

use super::context::Context;
use super::read;
use super::write::{WriteProgress, WriteReport, describe, submit};
use crate::answer::error::{Problem, Result};
use crate::answer::field::{Field, Place};
use crate::answer::json::Object;
use crate::answer::reply::Reply;
use crate::request::conditions::etag;
use crate::request::target::{self, Query};
use crate::request::{body, ttl};

/// Answers `GET` and `HEAD /v1/kv/{key}`.
pub(super) async fn get(context: &Context<'_>, parts: &Parts, path: &str) -> Result<Reply> {
    let key = target::key(path)?;
    let query = Query::new(parts.uri.query());
    let with_meta = query.switch("meta")?;
    let body = |entry: Entry| {
        if with_meta {
            meta(&key, &entry)
        } else {
            entry.value.into_bytes()
        }
    };
    read::reply(context, query, &key, body).await
}

fn meta(key: &Key, entry: &Entry) -> Bytes {
    Object::with_capacity(key.as_str().len() + entry.value.len() + 100)
        .member("key", key)
        .raw("value", entry.value.as_bytes())
        .etag(entry.version)
        .member("expires_at", entry.expires_at.map(rfc3339))
        .finish()
}

pub(super) fn rfc3339(moment: Timestamp) -> String {
    // The format has four digits for the year.
    const LAST_MS: u64 = 253_402_300_799_999;
    let moment = UNIX_EPOCH + Duration::from_millis(moment.0.min(LAST_MS));
    humantime::format_rfc3339_millis(moment).to_string()
}

/// Answers `PUT /v1/kv/{key}`.
pub(super) async fn put(
    context: &Context<'_>,
    parts: &Parts,
    body: Incoming,
    path: &str,
) -> Result<Reply> {
    let key = target::key(path)?;
    body::check_content_type(&parts.headers)?;
    let query = Query::new(parts.uri.query());
    query.only(&["ttl"])?;
    let expiry = expiry(query)?.unwrap_or_default();
    let value = value(&context.body(body).await?)?;
    let set = Operation {
        expiry,
        ..Operation::set(key, value)
    };
    write(context, set).await
}

/// Answers `PATCH /v1/kv/{key}`: merges the body, or sets a new deadline if there is none.
pub(super) async fn patch(
    context: &Context<'_>,
    parts: &Parts,
    body: Incoming,
    path: &str,
) -> Result<Reply> {
    let key = target::key(path)?;
    body::check_patch_type(&parts.headers)?;
    let query = Query::new(parts.uri.query());
    query.only(&["ttl"])?;
    let ttl = expiry(query)?;
    let text = context.body(body).await?;
    let operation = match (text.is_empty(), ttl) {
        (true, Some(Expiry::After(ttl))) => Operation::touch(key, ttl),
        (true, _) => {
            let rule = "it must be a number of seconds, or the body a patch";
            let field = Field::value_error(Place::In("query", "ttl"), rule, None);
            return Err(Problem::field(field));
        }
        (false, ttl) => Operation {
            expiry: ttl.unwrap_or(Expiry::Keep),
            ..Operation::merge(key, value(&text)?)
        },
    };
    drop(text);
    write(context, operation).await
}

/// Answers `POST /v1/kv/{key}`: adds to an integer.
pub(super) async fn add(
    context: &Context<'_>,
    parts: &Parts,
    body: Incoming,
    path: &str,
) -> Result<Reply> {
    let key = target::key(path)?;
    // Prevents a web page from sending this without a preflight request.
    body::check_content_type(&parts.headers)?;
    let query = Query::new(parts.uri.query());
    query.only(&["add", "ttl"])?;
    let place = Place::In("query", "add");
    let text = query.given("add")?.ok_or_else(|| {
        Problem::field(Field::value_error(place, "it must say what to add", None))
    })?;
    let by = text
        .parse()
        .map_err(|_| Problem::field(Field::int_parsing(place, &text)))?;
    if !body.is_end_stream() {
        let rule = "there must be none: what to add is in the query";
        return Err(Problem::field(Field::value_error(Place::BODY, rule, None)));
    }
    let expiry = expiry(query)?.unwrap_or_default();
    let add = Operation {
        expiry,
        ..Operation::add(key, by)
    };
    write(context, add).await
}

/// Parses the parameter `ttl`; returns `None` if it is absent.
fn expiry(query: Query<'_>) -> Result<Option<Expiry>> {
    let text = query.given("ttl")?;
    text.map(|text| ttl::from_text(&text).map_err(Problem::field))
        .transpose()
}

fn value(text: &[u8]) -> Result<Value> {
    Value::parse(text)
        .map_err(|error| Problem::field(Field::value_error(Place::BODY, &error.to_string(), None)))
}

/// Submits an operation that leaves a value, and describes its result.
async fn write(context: &Context<'_>, operation: Operation) -> Result<Reply> {
    let name = operation.action.name();
    let written = submit(context, operation, context.options.resource_wait).await?;
    let WriteProgress::Applied(details) = written.progress else {
        return Ok(accepted(&written));
    };
    let answer = Object::new().member("key", &written.key);
    let Some(applied) = details else {
        return Ok(written.reply(StatusCode::OK, answer.member("job_id", written.job)));
    };
    let status = match applied.existed {
        true => StatusCode::OK,
        false => StatusCode::CREATED,
    };
    let answer = describe(answer, name, &applied).member("job_id", written.job);
    let mut reply = written.reply(status, answer);
    reply.headers_mut().insert(ETAG, etag(applied.version));
    Ok(reply)
}

/// Answers `DELETE /v1/kv/{key}`.
pub(super) async fn delete(context: &Context<'_>, parts: &Parts, path: &str) -> Result<Reply> {
    let key = target::key(path)?;
    Query::new(parts.uri.query()).only(&[])?;
    let wait = context.options.resource_wait;
    let written = submit(context, Operation::delete(key), wait).await?;
    let WriteProgress::Applied(details) = written.progress else {
        return Ok(accepted(&written));
    };
    let mut answer = Object::new().member("key", &written.key);
    if let Some(applied) = details {
        answer = describe(answer, "delete", &applied);
    }
    Ok(written.reply(StatusCode::OK, answer.member("job_id", written.job)))
}

fn accepted(written: &WriteReport) -> Reply {
    let answer = Object::new()
        .member("key", &written.key)
        .member("job_id", written.job)
        .member("status", "queued");
    written.reply(StatusCode::ACCEPTED, answer)
}
