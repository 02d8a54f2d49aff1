//! What reads of one entry have in common: sync tokens, conditions, and the headers that describe an entry.

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, ETAG, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use kvstore_core::{Clock, Entry, Key, SystemClock, Timestamp, Version};

use super::Context;
use crate::conditions::{ReadCondition, etag};
use crate::error::{Problem, Result};
use crate::headers::sync_tokens;
use crate::reply::{self, NO_CACHE, Reply, X_TTL};
use crate::target::Query;

/// The answer to a read of `key`, with what `body` makes of the entry.
pub(super) async fn reply(
    context: &Context<'_>,
    parts: &Parts,
    query: Query<'_>,
    key: &Key,
    body: impl FnOnce(Entry) -> Bytes,
) -> Result<Reply> {
    context.access.may_read(key)?;
    for token in sync_tokens(&parts.headers, query)? {
        context.service.wait_visible(&token).await?;
    }
    let Some(entry) = context.service.get(key, None).await? else {
        return Err(Problem::no_key(key));
    };
    let (version, expires_at) = (entry.version, entry.expires_at);
    let mut reply = match ReadCondition::of(&parts.headers, version)? {
        ReadCondition::Holds => reply::json(StatusCode::OK, body(entry)),
        ReadCondition::NotModified => not_modified(),
        ReadCondition::Failed => return Err(Problem::condition_failed(Some(version))),
    };
    describe(reply.headers_mut(), version, expires_at);
    Ok(reply)
}

fn not_modified() -> Reply {
    let mut reply = Response::default();
    *reply.status_mut() = StatusCode::NOT_MODIFIED;
    reply
}

fn describe(headers: &mut HeaderMap, version: Version, expires_at: Option<Timestamp>) {
    headers.insert(ETAG, etag(version));
    headers.insert(CACHE_CONTROL, NO_CACHE);
    if let Some(deadline) = expires_at {
        headers.insert(X_TTL, HeaderValue::from(seconds_left(deadline)));
    }
}

/// Rounded up, so that an entry that is still there has at least a second, and one just written all that it was given.
fn seconds_left(deadline: Timestamp) -> u64 {
    deadline
        .since(SystemClock.now())
        .as_millis()
        .div_ceil(1000)
        .max(1)
        .try_into()
        .unwrap_or(u64::MAX)
}
