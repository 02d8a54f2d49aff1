//! `GET /v1/kv`: keys in byte order, a page at a time.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use hyper::header::CACHE_CONTROL;
use hyper::http::request::Parts;
use kvstore_core::limits::{PAGE_ENTRIES_MAX, PAGE_VALUE_BYTES_MAX};
use kvstore_core::store::{ListRequest, Listed, Page};

use super::context::Context;
use super::kv::rfc3339;
use crate::answer::error::{Problem, Result};
use crate::answer::field::{Field, Place, raw};
use crate::answer::json::Object;
use crate::answer::reply::{self, NO_CACHE, Reply};
use crate::request::target::Query;

/// Answers `GET` and `HEAD /v1/kv`.
pub(super) async fn get(context: &Context<'_>, parts: &Parts) -> Result<Reply> {
    let query = Query::new(parts.uri.query());
    let request = request(context, query)?;
    context.access.may_list(&request.prefix)?;
    context.wait_visible(query).await?;
    let room = match request.include_values {
        true => request
            .limit
            .saturating_mul(context.service.options().value_bytes_max),
        // The bytes of a page of keys are counted once it is complete.
        false => 0,
    };
    let room = context
        .in_flight
        .hold(room.min(PAGE_VALUE_BYTES_MAX))
        .await?;
    let page = context.service.list(&request).await?;
    let mut reply = reply::object(StatusCode::OK, body(&request, &page));
    reply.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    Ok(match request.include_values {
        true => room.carried_by(reply),
        false => reply,
    })
}

fn request(context: &Context<'_>, query: Query<'_>) -> Result<ListRequest> {
    let text = |name| query.get(name).map(|text| text.map(String::from));
    let mut request = ListRequest {
        prefix: text("prefix")?.unwrap_or_default(),
        // An empty delimiter occurs everywhere in every text, so it counts as none.
        delimiter: text("delimiter")?.filter(|delimiter| !delimiter.is_empty()),
        include_values: include_values(query)?,
        count: query.switch("count")?,
        limit: limit(context, query)?,
        ..ListRequest::default()
    };
    if let Some(cursor) = query.get("cursor")? {
        request.after = Some(place_of(&cursor, &request).ok_or_else(|| {
            Problem::malformed(
                "the cursor is not one that a page with this prefix and delimiter has handed out",
            )
        })?);
    }
    Ok(request)
}

pub(super) fn include_values(query: Query<'_>) -> Result<bool> {
    match query.get("include")?.as_deref() {
        None => Ok(false),
        Some("value") => Ok(true),
        Some(other) => Err(Problem::field(Field {
            kind: "literal_error",
            place: Place::In("query", "include"),
            message: "Input should be 'value'".into(),
            input: raw(other),
            context: raw(serde_json::json!({ "expected": "'value'" })),
        })),
    }
}

/// Returns how many items a page may hold.
pub(super) fn limit(context: &Context<'_>, query: Query<'_>) -> Result<usize> {
    const PLACE: Place = Place::In("query", "limit");
    let Some(text) = query.get("limit")? else {
        return Ok(ListRequest::default()
            .limit
            .min(context.options.page_items_max));
    };
    let digits = text.strip_prefix('+').unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::field(Field::int_parsing(PLACE, &text)));
    }
    match digits.parse() {
        Ok(limit) if (1..=PAGE_ENTRIES_MAX).contains(&limit) => {
            Ok(limit.min(context.options.page_items_max))
        }
        _ => Err(Problem::field(Field::value_error(
            PLACE,
            &format!("it must be from 1 to {PAGE_ENTRIES_MAX}"),
            raw(&text),
        ))),
    }
}

fn body(request: &ListRequest, page: &Page) -> Object {
    let values = page.entries.iter().filter_map(|it| it.value.as_ref());
    let bytes: usize = values.map(|value| value.len()).sum();
    let mut body = Object::with_capacity(bytes + 100 * page.entries.len() + 200)
        .array("keys", &page.entries, entry)
        .member("prefixes", &page.prefixes);
    if let Some(next) = &page.next {
        body = body.member("cursor", cursor(request, next));
    }
    if let Some(count) = page.count {
        body = body.member("count", count);
    }
    body.member("as_of", page.as_of.as_str())
}

fn entry(object: Object, listed: &Listed) -> Object {
    let entry = object
        .member("key", &listed.key)
        .etag(listed.version)
        .member("size", listed.size)
        .member("expires_at", listed.expires_at.map(rfc3339));
    match &listed.value {
        Some(value) => entry.raw("value", value.as_bytes()),
        None => entry,
    }
}

/// Encodes the key after which the next page starts, with a hash of the listing.
fn cursor(request: &ListRequest, next: &str) -> String {
    let mut bytes = listing(request).to_vec();
    bytes.extend_from_slice(next.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes a cursor; returns `None` if it is malformed or belongs to another listing.
fn place_of(cursor: &str, request: &ListRequest) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let place = bytes.strip_prefix(&listing(request))?;
    let place = String::from_utf8(place.to_vec()).ok()?;
    place.starts_with(&request.prefix).then_some(place)
}

/// Returns a hash that identifies the listing. It guards against mistakes, not attacks: a caller
/// who may list may start anywhere.
fn listing(request: &ListRequest) -> [u8; 4] {
    let mut hash = crc32fast::Hasher::new();
    hash.update(request.prefix.as_bytes());
    // This byte never occurs in UTF-8, so different pairs give different input.
    hash.update(&[0xff]);
    hash.update(request.delimiter.as_deref().unwrap_or_default().as_bytes());
    hash.finalize().to_be_bytes()
}
