//! The simple face: the three plain routes, with FastAPI's answers.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::ETAG;
use hyper::http::request::Parts;
use kvstore_core::Entry;
use kvstore_core::model::command::Operation;

use super::context::Context;
use super::read;
use super::set_request::SetRequest;
use super::write::{WriteProgress, submit};
use crate::answer::error::Result;
use crate::answer::json::Object;
use crate::answer::reply::Reply;
use crate::request::body;
use crate::request::conditions::etag;
use crate::request::target::{self, Query};

/// Answers `POST /set`.
pub(super) async fn set(context: &Context<'_>, parts: &Parts, body: Incoming) -> Result<Reply> {
    body::check_content_type(&parts.headers)?;
    let SetRequest { key, value, expiry } = SetRequest::parse(&context.body(body).await?)?;
    let set = Operation {
        expiry,
        ..Operation::set(key, value)
    };
    let written = submit(context, set, context.options.simple_wait).await?;
    let answer = |message, status| {
        Object::new()
            .member("message", message)
            .member("key", &written.key)
            .member("job_id", written.job)
            .member("status", status)
    };
    Ok(match written.progress {
        WriteProgress::Queued => {
            written.reply(StatusCode::ACCEPTED, answer("Set accepted", "queued"))
        }
        WriteProgress::Applied(None) => {
            written.reply(StatusCode::OK, answer("Set applied", "succeeded"))
        }
        WriteProgress::Applied(Some(applied)) => {
            let answer = answer("Set applied", "succeeded").etag(applied.version);
            let mut reply = written.reply(StatusCode::OK, answer);
            reply.headers_mut().insert(ETAG, etag(applied.version));
            reply
        }
    })
}

/// Answers `GET /get/{key}`.
pub(super) async fn get(context: &Context<'_>, parts: &Parts, path: &str) -> Result<Reply> {
    let key = target::key(path)?;
    let query = Query::new(parts.uri.query());
    let body = |entry: Entry| -> Bytes {
        Object::with_capacity(key.as_str().len() + entry.value.len() + 24)
            .member("key", &key)
            .raw("value", entry.value.as_bytes())
            .finish()
    };
    read::reply(context, query, &key, body).await
}

/// Answers `DELETE /delete/{key}`.
pub(super) async fn delete(context: &Context<'_>, path: &str) -> Result<Reply> {
    let key = target::key(path)?;
    let wait = context.options.simple_wait;
    let written = submit(context, Operation::delete(key), wait).await?;
    let answer = |message, status| {
        Object::new()
            .member("message", message)
            .member("key", &written.key)
            .member("job_id", written.job)
            .member("status", status)
    };
    Ok(match written.progress {
        WriteProgress::Queued => {
            written.reply(StatusCode::ACCEPTED, answer("Delete accepted", "queued"))
        }
        WriteProgress::Applied(details) => {
            let mut answer = answer("Delete applied", "succeeded");
            if let Some(applied) = details {
                answer = answer.member("deleted", applied.existed);
            }
            written.reply(StatusCode::OK, answer)
        }
    })
}
