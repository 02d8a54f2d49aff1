//! Dead letters, for operators: `/v1/jobs?status=dead`, and trying one again.

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, LOCATION};
use hyper::http::request::Parts;
use kvstore_core::model::command::Command;
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::{DeadLetter, JobState, Outcome, Summary};
use kvstore_core::service::JobReport;
use kvstore_core::store::DeadRequest;

use super::context::Context;
use super::jobs::describe;
use super::kv::rfc3339;
use super::list::limit;
use crate::answer::error::{Problem, Result};
use crate::answer::field::{Field, Place, raw};
use crate::answer::json::{Object, array};
use crate::answer::reply::{self, NO_STORE, Reply, SYNC_TOKEN, header_value};
use crate::request::body::check_content_type;
use crate::request::target::Query;

/// `GET` and `HEAD`
pub(super) async fn list(context: &Context<'_>, parts: &Parts) -> Result<Reply> {
    let query = Query::new(parts.uri.query());
    check_status(query)?;
    let after = query.get("cursor")?.map(|cursor| cursor.parse());
    let after = after.transpose().map_err(|_| {
        Problem::malformed("the cursor is not one that a page of jobs has handed out")
    })?;
    let limit = limit(query)?;
    let page = context.service.dead(&DeadRequest { after, limit }).await?;
    let seen = page
        .letters
        .iter()
        .filter(|letter| is_visible(context, &letter.dead.command));
    let mut answer = Object::new().raw("jobs", &array(seen.map(describe_letter)));
    if let (true, Some(last)) = (page.more, page.letters.last()) {
        answer = answer.member("cursor", last.id);
    }
    let mut reply = reply::object(StatusCode::OK, answer);
    reply.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    Ok(reply)
}

/// Only dead letters are kept in an order that can be listed, so nobody gets another list for the one that was meant.
fn check_status(query: Query<'_>) -> Result<()> {
    match query.get("status")?.as_deref() {
        Some("dead") => Ok(()),
        other => Err(Problem::field(Field {
            kind: "literal_error",
            place: Place::In("query", "status"),
            message: "Input should be 'dead'".into(),
            input: raw(other),
            context: raw(serde_json::json!({ "expected": "'dead'" })),
        })),
    }
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

/// `POST`
pub(super) async fn retry(context: &Context<'_>, parts: &Parts, path: &str) -> Result<Reply> {
    // A page that a browser shows can't send this without being asked, either.
    check_content_type(&parts.headers)?;
    Query::new(parts.uri.query()).only(&[])?;
    let id: JobId = path.parse().map_err(|_| Problem::no_letter())?;
    let dead = context.service.dead_letter(&id).await?;
    let dead = dead
        .filter(|dead| is_visible(context, &dead.command))
        .ok_or_else(Problem::no_letter)?;
    for operation in dead.command.operations() {
        context.access.may_write(&operation.key)?;
    }
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

/// Whether the caller may know of a job that does this: all of it.
fn is_visible(context: &Context<'_>, command: &Command) -> bool {
    context.access.may_see_job(Some(&Summary::of(command)))
}
