//! `POST /v1/mget`: several entries in one answer, as of one moment (in each partition).

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::CACHE_CONTROL;
use hyper::http::request::Parts;
use kvstore_core::{Entry, Key};
use serde::Deserialize;

use super::context::Context;
use super::kv::rfc3339;
use crate::answer::error::{Problem, Result};
use crate::answer::field::{Field, Place, raw};
use crate::answer::json::Object;
use crate::answer::reply::{self, NO_STORE, Reply};
use crate::request::body;
use crate::request::target::Query;

/// Maximum size of all values in one answer, in bytes, unless a single value may be larger.
const VALUES_BYTES_MAX: usize = 8 << 20;

/// The body of a request.
#[derive(Debug, Deserialize)]
struct MgetRequest {
    keys: Vec<String>,
}

/// Answers `POST /v1/mget`.
pub(super) async fn post(context: &Context<'_>, parts: &Parts, body: Incoming) -> Result<Reply> {
    body::check_content_type(&parts.headers)?;
    let query = Query::new(parts.uri.query());
    let keys = keys(&context.bodies(body).await?, context.options.mget_keys_max)?;
    for key in &keys {
        context.access.may_read(key)?;
    }
    context.wait_visible(query).await?;
    let value_bytes_max = context.service.options().value_bytes_max;
    let bytes_max = value_bytes_max.max(VALUES_BYTES_MAX);
    let room = keys.len().saturating_mul(value_bytes_max).min(bytes_max);
    let room = context.in_flight.hold(room).await?;
    let found = context.service.get_many(&keys).await?;
    let bytes: usize = found.iter().flatten().map(|entry| entry.value.len()).sum();
    if bytes > bytes_max {
        return Err(Problem::answer_too_large(bytes_max));
    }
    let mut reply = reply::object(StatusCode::OK, answer(&keys, &found, bytes));
    reply.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    Ok(room.carried_by(reply))
}

fn keys(text: &[u8], most: usize) -> Result<Vec<Key>> {
    let wanted: MgetRequest = body::object(text).map_err(|error| {
        Problem::field(Field::value_error(Place::BODY, &error.to_string(), None))
    })?;
    if wanted.keys.len() > most {
        let rule = format!(
            "it must have at most {most} keys, and has {}",
            wanted.keys.len()
        );
        let field = Field::value_error(Place::In("body", "keys"), &rule, None);
        return Err(Problem::field(field).with("limit", most));
    }
    let mut keys = Vec::with_capacity(wanted.keys.len());
    let mut wrong = Vec::new();
    for (number, text) in wanted.keys.iter().enumerate() {
        match Key::new(text) {
            Ok(key) => keys.push(key),
            Err(error) => {
                let place = Place::Item("body", "keys", number);
                wrong.push(Field::value_error(place, &error.to_string(), raw(text)));
            }
        }
    }
    if wrong.is_empty() {
        Ok(keys)
    } else {
        Err(Problem::invalid(wrong))
    }
}

fn answer(keys: &[Key], found: &[Option<Entry>], bytes: usize) -> Object {
    let there = keys
        .iter()
        .zip(found)
        .filter_map(|(key, entry)| Some((key, entry.as_ref()?)));
    let missing = keys.iter().zip(found).filter(|(_, entry)| entry.is_none());
    let missing: Vec<&Key> = missing.map(|(key, _)| key).collect();
    Object::with_capacity(bytes + 100 * keys.len())
        .array("entries", there, |object, (key, entry)| {
            object
                .member("key", key)
                .raw("value", entry.value.as_bytes())
                .etag(entry.version)
                .member("expires_at", entry.expires_at.map(rfc3339))
        })
        .member("missing", missing)
}
