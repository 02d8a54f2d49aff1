//! The waiting jobs (`GET /v1/jobs`), and their number and size (`GET /v1/queue`).

use hyper::StatusCode;
use hyper::header::CACHE_CONTROL;
use hyper::http::request::Parts;
use kvstore_core::limits::PAGE_ENTRIES_MAX;
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::{Job, JobState, Summary};
use kvstore_core::service::JobReport;
use kvstore_core::store::DeadRequest;

use super::context::Context;
use super::dead::{self, is_visible};
use super::jobs::describe;
use super::kv::rfc3339;
use super::list::limit;
use crate::answer::error::{Problem, Result};
use crate::answer::field::{Field, Place, raw};
use crate::answer::json::Object;
use crate::answer::reply::{self, NO_STORE, Reply};
use crate::request::target::Query;

/// The states by which jobs can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Queued,
    Dead,
}

impl Status {
    /// Reports a status outside those `expected`.
    pub(super) fn refused(given: Option<&str>, expected: &'static str) -> Box<Problem> {
        Problem::field(Field {
            kind: "literal_error",
            place: Place::In("query", "status"),
            message: format!("Input should be {expected}").into(),
            input: raw(given),
            context: raw(serde_json::json!({ "expected": expected })),
        })
    }
}

/// Parses the parameter `status`; returns `None` if it is absent.
pub(super) fn status(query: Query<'_>) -> Result<Option<Status>> {
    match query.get("status")?.as_deref() {
        None => Ok(None),
        Some("queued") => Ok(Some(Status::Queued)),
        Some("dead") => Ok(Some(Status::Dead)),
        other => Err(Status::refused(other, "'queued' or 'dead'")),
    }
}

/// Answers `GET` and `HEAD /v1/jobs`.
pub(super) async fn list(context: &Context<'_>, parts: &Parts) -> Result<Reply> {
    let query = Query::new(parts.uri.query());
    let status = status(query)?.unwrap_or(Status::Queued);
    let after = query.get("cursor")?.map(|cursor| cursor.parse());
    let after = after.transpose().map_err(|_| {
        Problem::malformed("the cursor is not one that a page of jobs has handed out")
    })?;
    let limit = limit(context, query)?;
    let (jobs, cursor) = match status {
        Status::Queued => waiting(context, after, limit).await?,
        Status::Dead => dead::page(context, after, limit).await?,
    };
    let mut answer = Object::new().array("jobs", &jobs, Object::and);
    if let Some(cursor) = cursor {
        answer = answer.member("cursor", cursor);
    }
    let mut reply = reply::object(StatusCode::OK, answer);
    reply.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    Ok(reply)
}

/// Returns a page of the waiting jobs that the caller may see, by partition and position, and the
/// cursor of the next page.
async fn waiting(
    context: &Context<'_>,
    after: Option<JobId>,
    limit: usize,
) -> Result<(Vec<Object>, Option<JobId>)> {
    let (store, queue) = (context.service.store(), context.service.queue());
    // A queue that has not been reached yet may not know its own id.
    queue.ping().await?;
    let after = after.filter(|after| after.queue == queue.id());
    let first = after.map(|after| after.partition).unwrap_or_default();
    let mut jobs = Vec::new();
    for partition in queue
        .partitions()
        .iter()
        .filter(|partition| *partition >= first)
    {
        let mut from = store.applied(queue.id(), partition).await?;
        if let Some(after) = after.filter(|after| after.partition == partition) {
            from = from.max(after.position);
        }
        while jobs.len() <= limit {
            let found = queue.peek(partition, from, limit + 1).await?;
            let Some(last) = found.last() else {
                break;
            };
            from = last.id.position;
            let found = found.into_iter();
            jobs.extend(found.filter(|job| is_visible(context, &job.command)));
        }
    }
    let cursor = cut(&mut jobs, limit, |job: &Job| job.id);
    Ok((jobs.iter().map(describe_waiting).collect(), cursor))
}

/// Truncates `seen` to `limit`. Returns the cursor of the next page, the id of the last item kept,
/// if items were cut off.
pub(super) fn cut<T>(seen: &mut Vec<T>, limit: usize, id: fn(&T) -> JobId) -> Option<JobId> {
    let more = seen.len() > limit;
    seen.truncate(limit);
    seen.last().filter(|_| more).map(id)
}

fn describe_waiting(job: &Job) -> Object {
    let report = JobReport {
        id: job.id,
        summary: Some(Summary::of(&job.command)),
        attempts: None,
        state: JobState::Queued,
    };
    describe(&report).member("accepted_at", rfc3339(job.accepted_at))
}

/// Answers `GET` and `HEAD /v1/queue`.
pub(super) async fn get(context: &Context<'_>) -> Result<Reply> {
    // The figures cover all keys, so a token with a prefix may not see them.
    context.access.may_list("")?;
    let queue = context.service.queue();
    let depth = queue.depth().await?;
    let age = depth.oldest_age.map(|age| age.as_secs_f64());
    let answer = Object::new()
        .member("jobs", depth.jobs)
        .member("bytes", depth.bytes)
        .member("oldest_age_seconds", age)
        .member("dead", count_dead(context).await?)
        .member("partitions", queue.partitions().get())
        .raw("limits", context.limits);
    let mut reply = reply::object(StatusCode::OK, answer);
    reply.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    Ok(reply)
}

async fn count_dead(context: &Context<'_>) -> Result<usize> {
    let mut count = 0;
    let mut request = DeadRequest {
        after: None,
        limit: PAGE_ENTRIES_MAX,
    };
    loop {
        let page = context.service.dead(&request).await?;
        count += page.letters.len();
        match page.letters.last().filter(|_| page.more) {
            Some(last) => request.after = Some(last.id),
            None => return Ok(count),
        }
    }
}
