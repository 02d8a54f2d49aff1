//! Dead letters, for operators: lists them (`/v1/jobs?status=dead`), and retries or deletes one or
//! all.

use hyper::StatusCode;
use hyper::header::LOCATION;
use hyper::http::request::Parts;
use kvstore_core::limits::PAGE_ENTRIES_MAX;
use kvstore_core::model::command::Command;
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::{Dead, DeadLetter, JobState, Outcome, Summary};
use kvstore_core::service::JobReport;
use kvstore_core::store::DeadRequest;

use super::context::Context;
use super::jobs::describe;
use super::kv::rfc3339;
use super::queue::{Status, cut, status};
use crate::answer::error::{Problem, Result};
use crate::answer::json::Object;
use crate::answer::reply::{self, Reply, SYNC_TOKEN, header_value};
use crate::request::body::check_content_type;
use crate::request::target::Query;

/// Returns a page of the letters that the caller may see, and the cursor of the next page.
pub(super) async fn page(
    context: &Context<'_>,
    after: Option<JobId>,
    limit: usize,
) -> Result<(Vec<Object>, Option<JobId>)> {
    let mut request = DeadRequest {
        after,
        limit: (limit + 1).min(PAGE_ENTRIES_MAX),
    };
    let mut seen = Vec::new();
    loop {
        let page = context.service.dead(&request).await?;
        let last = page.letters.last().map(|last| last.id);
        let letters = page.letters.into_iter();
        seen.extend(letters.filter(|letter| is_visible(context, &letter.dead.command)));
        match last.filter(|_| page.more && seen.len() <= limit) {
            Some(last) => request.after = Some(last),
            None => break,
        }
    }
    let cursor = cut(&mut seen, limit, |letter| letter.id);
    Ok((seen.iter().map(describe_letter).collect(), cursor))
}

fn describe_letter(letter: &DeadLetter) -> Object {
    let report = JobReport {
        id: letter.id,
        summary: Some(Summary::of(&letter.dead.command)),
        attempts: Some(letter.dead.attempts),
        state: JobState::Finished(Outcome::Dead(letter.dead.clone())),
    };
    describe(&report).member("dead_at", rfc3339(letter.at))
}

/// Answers `POST /v1/jobs/{id}/retry`.
pub(super) async fn retry(context: &Context<'_>, parts: &Parts, path: &str) -> Result<Reply> {
    // Prevents a web page from sending this without a preflight request.
    check_content_type(&parts.headers)?;
    Query::new(parts.uri.query()).only(&[])?;
    let (id, dead) = letter(context, path).await?;
    let accepted = context.service.retry(&id, dead).await?;
    let answer = Object::new()
        .member("id", id)
        .member("job_id", accepted.id)
        .member("status", "queued");
    let mut reply = reply::object(StatusCode::OK, answer);
    let headers = reply.headers_mut();
    headers.insert(SYNC_TOKEN, header_value(accepted.id.to_string()));
    headers.insert(LOCATION, header_value(format!("/v1/jobs/{}", accepted.id)));
    Ok(reply)
}

/// Answers `DELETE /v1/jobs/{id}`.
pub(super) async fn forget(context: &Context<'_>, parts: &Parts, path: &str) -> Result<Reply> {
    Query::new(parts.uri.query()).only(&[])?;
    let (id, _) = letter(context, path).await?;
    match context.service.store().forget(&id).await? {
        true => {
            let answer = Object::new().member("id", id).member("forgotten", true);
            Ok(reply::object(StatusCode::OK, answer))
        }
        // Another request deleted it first.
        false => Err(Problem::no_letter()),
    }
}

/// Answers `POST /v1/jobs/retry?status=dead`.
///
/// Retries one letter after the other, so that the writes of a key keep their order.
pub(super) async fn retry_all(context: &Context<'_>, parts: &Parts) -> Result<Reply> {
    check_content_type(&parts.headers)?;
    check_all_meant(parts)?;
    let mut retried = 0;
    for id in ids(context).await? {
        let dead = context.service.dead_letter(&id).await;
        let dead = dead.map_err(|error| cut_off(retried, error.into()))?;
        // A letter that is gone was retried or deleted by another request.
        if let Some(dead) = dead {
            let retry = context.service.retry(&id, dead).await;
            retry.map_err(|error| cut_off(retried, error.into()))?;
            retried += 1;
        }
    }
    Ok(reply::object(
        StatusCode::OK,
        Object::new().member("retried", retried),
    ))
}

/// Answers `DELETE /v1/jobs?status=dead`.
pub(super) async fn forget_all(context: &Context<'_>, parts: &Parts) -> Result<Reply> {
    check_all_meant(parts)?;
    let mut forgotten: u64 = 0;
    for id in ids(context).await? {
        let forget = context.service.store().forget(&id).await;
        forgotten += u64::from(forget.map_err(|error| cut_off(forgotten, error.into()))?);
    }
    Ok(reply::object(
        StatusCode::OK,
        Object::new().member("forgotten", forgotten),
    ))
}

/// Checks that the query states `status=dead` and nothing else.
fn check_all_meant(parts: &Parts) -> Result<()> {
    let query = Query::new(parts.uri.query());
    query.only(&["status"])?;
    match status(query)? {
        Some(Status::Dead) => Ok(()),
        _ => Err(Status::refused(query.get("status")?.as_deref(), "'dead'")),
    }
}

/// Returns the current letters that the caller may see. Letters of jobs that die later are not
/// included.
///
/// # Errors
/// 403 if the caller may not write a key that one of them writes.
async fn ids(context: &Context<'_>) -> Result<Vec<JobId>> {
    context.access.check_rights()?;
    let mut ids = Vec::new();
    let mut request = DeadRequest {
        after: None,
        limit: PAGE_ENTRIES_MAX,
    };
    loop {
        let page = context.service.dead(&request).await?;
        let seen = page.letters.iter();
        for letter in seen.filter(|letter| is_visible(context, &letter.dead.command)) {
            check_may_write(context, &letter.dead.command)?;
            ids.push(letter.id);
        }
        match page.letters.last().filter(|_| page.more) {
            Some(last) => request.after = Some(last.id),
            None => return Ok(ids),
        }
    }
}

/// Returns the error of a request for all letters that has handled `done` of them.
fn cut_off(done: u64, error: Box<Problem>) -> Box<Problem> {
    match done {
        0 => error,
        _ => Problem::unknown("some of the dead letters are dealt with: repeat it for the others"),
    }
}

/// Returns the letter of the job named by `path`.
///
/// # Errors
/// 404 if there is none that the caller may see; 403 if the caller may not write a key that the
/// letter writes.
async fn letter(context: &Context<'_>, path: &str) -> Result<(JobId, Dead)> {
    context.access.check_rights()?;
    let id: JobId = path.parse().map_err(|_| Problem::no_letter())?;
    let dead = context.service.dead_letter(&id).await?;
    let dead = dead
        .filter(|dead| is_visible(context, &dead.command))
        .ok_or_else(Problem::no_letter)?;
    check_may_write(context, &dead.command)?;
    Ok((id, dead))
}

fn check_may_write(context: &Context<'_>, command: &Command) -> Result<()> {
    let mut operations = command.operations().iter();
    operations.try_for_each(|operation| context.access.may_write(&operation.key))
}

/// Returns true if the caller may see a job with this command.
pub(super) fn is_visible(context: &Context<'_>, command: &Command) -> bool {
    context.access.may_see_job(Some(&Summary::of(command)))
}
