//! The common parts of writes on both faces: headers, waiting, and outcomes.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION, RETRY_AFTER};
use kvstore_core::Key;
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::{Applied, Failure, JobState, Outcome};
use kvstore_core::service::Request;

use super::context::Context;
use super::kv::rfc3339;
use crate::answer::error::{Problem, RETRY_SOON, Result};
use crate::answer::json::Object;
use crate::answer::reply::{
    self, IDEMPOTENCY_REPLAYED, PREFERENCE_APPLIED, Reply, SYNC_TOKEN, header_value,
};
use crate::request::conditions::write_condition;
use crate::request::headers::{idempotency_key, traceparent};
use crate::request::prefer::Prefer;

/// A write that is in the queue, and possibly applied already.
#[derive(Debug)]
pub(super) struct WriteReport {
    pub(super) key: Key,
    pub(super) job: JobId,
    pub(super) progress: WriteProgress,
    /// The result of each operation, if it is applied and the results are known.
    pub(super) writes: Vec<Applied>,
    replayed: bool,
    prefer: Prefer,
}

/// The progress of a write that has not failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum WriteProgress {
    /// Still queued: the wait was too short, or there was none.
    Queued,
    /// Applied, with the result unless it is no longer known.
    Applied(Option<Applied>),
}

/// Submits `operation` under the conditions in the headers, and waits as the client prefers.
pub(super) async fn submit(
    context: &Context<'_>,
    operation: Operation,
    default_wait: Duration,
) -> Result<WriteReport> {
    let operation = operation.under(write_condition(context.rare)?);
    send(context, operation.into(), default_wait).await
}

/// Submits `command`, and waits as the client prefers.
pub(super) async fn send(
    context: &Context<'_>,
    command: Command,
    default_wait: Duration,
) -> Result<WriteReport> {
    let keys: Vec<Key> = command
        .operations()
        .iter()
        .map(|operation| operation.key.clone())
        .collect();
    for key in &keys {
        context.access.may_write(key)?;
    }
    let key = keys.first().expect("a command has an operation").clone();
    let is_batch = matches!(command, Command::Batch(_));
    let headers = context.rare;
    let prefer = Prefer::of(headers);
    let wait = prefer.wait(default_wait, context.options.wait_max);
    let mut request = Request::new(command, wait);
    if let Some(given) = idempotency_key(headers)? {
        request.idempotency_key = Some(scoped(context.access.name(), &key, &given.text));
        request.idempotency_window = given.window;
    }
    request.traceparent = traceparent(headers);
    // A client that does not wait will ask for the job. Of other writes only failures are kept,
    // except for tokens with a prefix: they may not see jobs whose keys are unknown.
    request.keep_outcome = prefer.respond_async || context.access.is_scoped();

    let submitted = context.service.submit(request).await?;
    let job = submitted.id;
    // A failed job is identified in the answer in the same way as a successful one.
    let answered = |problem: Box<Problem>| {
        let problem = problem.header(SYNC_TOKEN, header_value(job.to_string()));
        match submitted.replayed {
            true => problem.header(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true")),
            false => problem,
        }
    };
    let mut writes = Vec::new();
    let progress = match submitted.state {
        JobState::Queued => WriteProgress::Queued,
        JobState::Finished(Outcome::Succeeded(details)) => {
            writes = details.map(|details| details.writes).unwrap_or_default();
            WriteProgress::Applied(writes.first().copied())
        }
        JobState::Finished(Outcome::Failed(failed)) => {
            let key = keys.get(failed.operation).unwrap_or(&key);
            let problem = if failed.reason != Failure::Condition {
                Problem::failed(failed.reason, key)
            } else if prefer.representation {
                // Read again, since tag and value must match, and the key may have changed since
                // the job failed.
                let current = context.service.get(key).await?;
                let applied = HeaderValue::from_static("return=representation");
                Problem::condition_failed_with(current.as_ref()).header(PREFERENCE_APPLIED, applied)
            } else {
                Problem::condition_failed(failed.current)
            };
            let problem = match is_batch {
                true => problem.with("failed_op", failed.operation),
                false => problem,
            };
            return Err(answered(problem.with("job_id", job)));
        }
        JobState::Finished(Outcome::Dead(_)) => return Err(answered(Problem::dead_lettered(&job))),
        JobState::Forgotten | JobState::Unknown => {
            return Err(answered(Problem::outcome_unknown(&job)));
        }
    };
    Ok(WriteReport {
        key,
        job,
        progress,
        writes,
        replayed: submitted.replayed,
        prefer,
    })
}

/// Adds the result of the operation `name`: the same in every answer.
pub(super) fn describe(answer: Object, name: &str, applied: &Applied) -> Object {
    match name {
        "delete" => answer
            .etag(applied.version)
            .member("deleted", applied.existed),
        "touch" => answer
            .etag(applied.version)
            .member("expires_at", applied.computed.expires_at.map(rfc3339)),
        _ => match applied.computed.number {
            Some(number) => answer.member("value", number),
            None => answer,
        }
        .etag(applied.version)
        .member("created", !applied.existed),
    }
}

/// Prefixes an idempotency key with the token's name and the entry's key. None of the three
/// contains a line feed, so different triples give different texts.
fn scoped(name: Option<&str>, key: &Key, text: &str) -> String {
    match name {
        None => format!("{key}\n{text}"),
        Some(name) => format!("{name}\n{key}\n{text}"),
    }
}

impl WriteReport {
    /// Builds an answer with `body` and the headers of every write.
    pub(super) fn reply(&self, status: StatusCode, body: Object) -> Reply {
        let mut reply = reply::object(status, body);
        let headers = reply.headers_mut();
        let job = self.job.to_string();
        let is_queued = matches!(self.progress, WriteProgress::Queued);
        let place = is_queued.then(|| header_value(format!("/v1/jobs/{job}")));
        headers.insert(SYNC_TOKEN, header_value(job));
        if let Some(place) = place {
            headers.insert(LOCATION, place);
            headers.insert(RETRY_AFTER, RETRY_SOON);
        }
        if self.replayed {
            headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        }
        self.prefer.mark(headers);
        reply
    }
}
