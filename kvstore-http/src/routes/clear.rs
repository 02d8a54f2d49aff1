//! `DELETE /v1/kv?prefix=`: deletes the keys that it finds, in jobs of limited size.
//!
//! The deletion is not atomic: a key written in the meantime may remain. Repeating the request is
//! always safe, so it takes no idempotency key.

use std::collections::HashMap;
use std::time::Instant;

use hyper::StatusCode;
use hyper::header::{HeaderName, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER};
use hyper::http::request::Parts;
use kvstore_core::limits::{BATCH_OPERATIONS_MAX, PAGE_ENTRIES_MAX};
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::id::{JobId, Partition};
use kvstore_core::model::job::{JobState, Outcome};
use kvstore_core::service::Request;
use kvstore_core::store::ListRequest;
use kvstore_core::{Error, Key};

use super::context::Context;
use crate::answer::error::{Problem, RETRY_SOON, Result};
use crate::answer::field::{Field, Place};
use crate::answer::json::Object;
use crate::answer::reply::{self, Reply};
use crate::request::headers::{IDEMPOTENCY_KEY, traceparent};
use crate::request::prefer::Prefer;
use crate::request::target::Query;

/// Maximum number of keys in memory at once, over all partitions.
const KEYS_HELD_MAX: usize = 16 * BATCH_OPERATIONS_MAX;

/// Answers `DELETE /v1/kv?prefix=`.
pub(super) async fn delete(context: &Context<'_>, parts: &Parts) -> Result<Reply> {
    const REFUSED: [HeaderName; 3] = [IF_MATCH, IF_NONE_MATCH, IDEMPOTENCY_KEY];
    if let Some(name) = REFUSED
        .iter()
        .find(|name| parts.headers.contains_key(*name))
    {
        return Err(Problem::malformed(format!(
            "a delete by prefix takes no {name}: it deletes what it finds, and is safe to repeat"
        )));
    }
    let query = Query::new(parts.uri.query());
    query.only(&["prefix", "all"])?;
    let prefix = query.get("prefix")?.unwrap_or_default();
    context.access.may_write_all(&prefix)?;
    let is_all_meant = query.switch("all")?;
    if prefix.is_empty() && !is_all_meant {
        return Err(Problem::field(Field::value_error(
            Place::In("query", "prefix"),
            "it must not be empty, unless all=1 says that everything is meant",
            None,
        )));
    }
    let prefer = Prefer::of(&parts.headers);
    let wait = prefer.wait(context.options.resource_wait, context.options.wait_max);
    let until = Instant::now() + wait;

    let mut jobs = Vec::new();
    // Accepted jobs cannot be withdrawn, so an error after the first leaves the outcome open.
    submit_all(context, parts, &prefix, &mut jobs)
        .await
        .map_err(|error| match jobs.is_empty() {
            true => error.into(),
            false => Problem::unknown(
                "some of the keys are deleted, or will be: repeat it to delete the others",
            ),
        })?;
    let mut deleted = 0;
    let mut is_finished = true;
    for job in &jobs {
        let left = until.saturating_duration_since(Instant::now());
        match context.service.wait(job, left).await {
            JobState::Finished(Outcome::Succeeded(details)) => {
                let writes = details.map(|details| details.writes).unwrap_or_default();
                deleted += writes.iter().filter(|applied| applied.existed).count();
            }
            JobState::Queued => is_finished = false,
            JobState::Finished(Outcome::Dead(_)) => return Err(Problem::dead_lettered(job)),
            _ => return Err(Problem::outcome_unknown(job)),
        }
    }
    let answer = Object::new().member("prefix", &prefix);
    let mut reply = match is_finished {
        true => {
            let answer = answer.member("deleted", deleted).member("job_ids", &jobs);
            reply::object(StatusCode::OK, answer)
        }
        false => {
            let answer = answer.member("job_ids", &jobs).member("status", "queued");
            let mut reply = reply::object(StatusCode::ACCEPTED, answer);
            reply.headers_mut().insert(RETRY_AFTER, RETRY_SOON);
            reply
        }
    };
    prefer.mark(reply.headers_mut());
    Ok(reply)
}

/// Finds the keys and submits jobs that delete them, each for as many keys of one partition as a
/// batch may hold.
async fn submit_all(
    context: &Context<'_>,
    parts: &Parts,
    prefix: &str,
    jobs: &mut Vec<JobId>,
) -> Result<(), Error> {
    let partitions = context.service.queue().partitions();
    let mut found: HashMap<Partition, Vec<Key>> = HashMap::new();
    let mut held = 0;
    let mut request = ListRequest {
        prefix: prefix.to_owned(),
        limit: PAGE_ENTRIES_MAX,
        ..ListRequest::default()
    };
    let most = context.service.options().batch_operations_max;
    loop {
        let page = context.service.list(&request).await?;
        for listed in page.entries {
            let keys = found
                .entry(partitions.partition_of(&listed.key))
                .or_default();
            keys.push(listed.key);
            held += 1;
            if keys.len() == most {
                held -= keys.len();
                jobs.push(submit(context, parts, std::mem::take(keys)).await?);
            }
        }
        request.after = page.next;
        let is_last = request.after.is_none();
        if is_last || held >= KEYS_HELD_MAX {
            for (_, keys) in found.drain().filter(|(_, keys)| !keys.is_empty()) {
                jobs.push(submit(context, parts, keys).await?);
            }
            held = 0;
        }
        if is_last {
            return Ok(());
        }
    }
}

async fn submit(context: &Context<'_>, parts: &Parts, keys: Vec<Key>) -> Result<JobId, Error> {
    let deletes = keys.into_iter().map(Operation::delete).collect();
    let mut request = Request::new(Command::Batch(deletes), std::time::Duration::ZERO);
    request.keep_outcome = true;
    request.traceparent = traceparent(&parts.headers);
    Ok(context.service.submit(request).await?.id)
}
