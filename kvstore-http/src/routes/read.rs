//! The common parts of reads of one entry: sync tokens, conditions, waiting for a change, and the
//! headers that describe an entry.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::header::{CACHE_CONTROL, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use hyper::{Response, StatusCode};
use kvstore_core::clock::{Clock, SystemClock};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::store::{Watch, WatchRequest};
use kvstore_core::{Entry, Key, Version};
use tokio::time::{Instant, sleep_until};

use super::context::Context;
use crate::answer::error::{Problem, Result};
use crate::answer::reply::{self, NO_CACHE, PREFERENCE_APPLIED, Reply, X_TTL};
use crate::request::conditions::{ReadCondition, etag};
use crate::request::prefer::Prefer;
use crate::request::target::Query;

/// Answers a read of `key`; `body` formats the entry.
pub(super) async fn reply(
    context: &Context<'_>,
    query: Query<'_>,
    key: &Key,
    body: impl FnOnce(Entry) -> Bytes,
) -> Result<Reply> {
    context.access.may_read(key)?;
    context.wait_visible(query).await?;
    let mut found = context.service.get(key).await?;
    let wait = Prefer::of(context.rare).wait(Duration::ZERO, context.options.wait_max);
    let waits = !wait.is_zero() && is_known(context, found.as_ref())?;
    if waits {
        found = changed(context, key, wait).await?;
    }
    let Some(entry) = found else {
        let problem = Problem::no_key(key);
        return Err(match waits {
            true => problem.header(PREFERENCE_APPLIED, HeaderValue::from_static("wait")),
            false => problem,
        });
    };
    let (version, expires_at) = (entry.version, entry.expires_at);
    let mut reply = match ReadCondition::of(context.rare, version)? {
        ReadCondition::Holds => reply::json(StatusCode::OK, body(entry)),
        ReadCondition::NotModified => not_modified(),
        ReadCondition::Failed => return Err(Problem::condition_failed(Some(version))),
    };
    describe(reply.headers_mut(), version, expires_at);
    if waits {
        let applied = HeaderValue::from_static("wait");
        reply.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(reply)
}

/// Returns true if the client already knows the current state: it has the entry's version, or it
/// waits for an absent key to appear. A client that sends tags expects an entry, so absence is news
/// to it.
fn is_known(context: &Context<'_>, entry: Option<&Entry>) -> Result<bool> {
    match entry {
        Some(entry) => {
            let condition = ReadCondition::of(context.rare, entry.version)?;
            Ok(condition == ReadCondition::NotModified)
        }
        None => Ok(!context.rare.contains_key(IF_NONE_MATCH)),
    }
}

/// Returns the entry once it differs from the one that the client knows, or the current one after
/// `wait`.
async fn changed(context: &Context<'_>, key: &Key, wait: Duration) -> Result<Option<Entry>> {
    let until = Instant::now() + wait;
    let mut watcher = context.watchers.admit(context)?;
    let store = context.service.store();
    loop {
        // The watch starts before each read, so that no change in between is missed.
        let request = WatchRequest {
            prefix: key.as_str().to_owned(),
            include_values: false,
            ..WatchRequest::default()
        };
        let mut watch = store.watch(&request).await?;
        let found = store.get(key).await?;
        if !is_known(context, found.as_ref())? || until <= Instant::now() {
            return Ok(found);
        }
        let end = found.as_ref().and_then(|entry| entry.expires_at).map(end);
        tokio::select! {
            biased;
            // The server is draining or the token was revoked: the client should wait elsewhere.
            () = watcher.ended() => return Ok(found),
            () = sleep_until(end.map_or(until, |end| until.min(end))) => {}
            () = change_of(key, &mut watch) => {}
        }
    }
}

/// Returns when to check an entry that is about to expire. The store's clock decides, so a second
/// check may be needed.
fn end(deadline: Timestamp) -> Instant {
    const AGAIN: Duration = Duration::from_millis(20);
    Instant::now() + deadline.since(SystemClock.now()).max(AGAIN)
}

/// Completes after a change of `key`, or when the watch can no longer rule one out.
async fn change_of(key: &Key, watch: &mut Watch) {
    while let Some(Ok(change)) = watch.changes.next().await {
        if change.key == *key {
            break;
        }
    }
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

/// Returns the remaining seconds, rounded up: an existing entry has at least one, and a new one all
/// that it was given.
fn seconds_left(deadline: Timestamp) -> u64 {
    deadline
        .since(SystemClock.now())
        .as_millis()
        .div_ceil(1000)
        .max(1)
        .try_into()
        .unwrap_or(u64::MAX)
}
