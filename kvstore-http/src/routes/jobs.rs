//! `/v1/jobs/{id}`: the state and outcome of an accepted write.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, RETRY_AFTER};
use hyper::http::request::Parts;
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::{JobState, Outcome, Succeeded};
use kvstore_core::service::JobReport;

use super::context::Context;
use super::write;
use crate::answer::error::{Problem, RETRY_SOON, Result};
use crate::answer::json::Object;
use crate::answer::problems::Kind;
use crate::answer::reply::{self, NO_STORE, Reply};
use crate::request::conditions::etag_text;
use crate::request::target::Query;

/// Answers `GET` and `HEAD /v1/jobs/{id}`.
pub(super) async fn get(context: &Context<'_>, parts: &Parts, path: &str) -> Result<Reply> {
    let wait = Query::new(parts.uri.query()).seconds("wait", context.options.wait_max)?;
    // Text that is not a job id names no job.
    let id: JobId = path.parse().map_err(|_| Problem::no_job())?;
    let report = if context.access.is_scoped() {
        // Otherwise, the time of the answer would reveal jobs that the caller may not see.
        let report = visible(context, &id, Duration::ZERO).await?;
        if report.state == JobState::Queued && !wait.is_zero() {
            visible(context, &id, wait).await?
        } else {
            report
        }
    } else {
        visible(context, &id, wait).await?
    };
    let is_queued = report.state == JobState::Queued;
    let mut reply = reply::object(StatusCode::OK, describe(&report));
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, NO_STORE);
    if is_queued {
        headers.insert(RETRY_AFTER, RETRY_SOON);
    }
    Ok(reply)
}

/// Returns the report on a job that the caller may see. The error is the same for a job out of
/// reach and an unknown one.
async fn visible(context: &Context<'_>, id: &JobId, wait: Duration) -> Result<JobReport> {
    let report = context.service.job(id, wait).await?;
    report
        .filter(|report| context.access.may_see_job(report.summary.as_ref()))
        .ok_or_else(Problem::no_job)
}

/// Describes a job. Every member is always present; unknown ones are `null`.
pub(super) fn describe(report: &JobReport) -> Object {
    let name = report.summary.as_ref().map(|summary| &summary.name);
    let (status, result, error) = match &report.state {
        JobState::Queued => ("queued", None, None),
        JobState::Finished(Outcome::Succeeded(details)) => {
            ("succeeded", details.as_ref().map(result), None)
        }
        JobState::Finished(Outcome::Failed(failed)) => (
            "failed",
            None,
            Some(
                Object::new()
                    .member("type", Kind::of_failure(failed.reason).path())
                    .member("detail", failed.reason.to_string())
                    .member("current_etag", failed.current.map(etag_text))
                    .member("failed_op", failed.operation),
            ),
        ),
        JobState::Finished(Outcome::Dead(dead)) => (
            "dead",
            None,
            Some(
                Object::new()
                    .member("type", Kind::DeadLettered.path())
                    .member("detail", &dead.reason),
            ),
        ),
        // The service never returns these in a report.
        JobState::Forgotten | JobState::Unknown => ("unknown", None, None),
    };
    let object = |object: Option<Object>| object.map_or_else(|| "null".into(), Object::finish);
    Object::new()
        .member("id", report.id)
        .member("op", name)
        .member("key", report.summary.as_ref().map(|summary| &summary.key))
        .member("status", status)
        .member("attempts", report.attempts)
        .raw("result", &object(result))
        .raw("error", &object(error))
}

/// Describes the result as the answer to a waited write does.
fn result(succeeded: &Succeeded) -> Object {
    match (&*succeeded.summary.name, succeeded.writes.first()) {
        ("batch", _) | (_, None) => Object::new(),
        (name, Some(applied)) => write::describe(Object::new(), name, applied),
    }
}
