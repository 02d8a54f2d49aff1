//! The server's description of itself.

use hyper::header::{CACHE_CONTROL, HeaderValue, VARY};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use kvstore_worker::admin::Health;
use serde_json::json;

use super::context::Context;
use crate::access::token::Access;
use crate::answer::error::{Problem, Result};
use crate::answer::json::Object;
use crate::answer::reply::{self, Body, NO_STORE, Reply};
use crate::console;

/// Request headers that the answer depends on.
const VARIES: HeaderValue = HeaderValue::from_static("accept, authorization");

/// Answers `GET /`: the console for a browser, a description of the service for a program.
pub(super) fn root(context: &Context<'_>, parts: &Parts) -> Reply {
    let mut reply = match console::prefers_html(&parts.headers) {
        true => console::page(),
        false => description(context, parts),
    };
    reply.headers_mut().insert(VARY, VARIES);
    reply
}

fn description(context: &Context<'_>, parts: &Parts) -> Reply {
    // The route is public, so the token is checked here. An unknown token has no access.
    let access = match &context.options.tokens {
        None => Some(Access::Everything),
        Some(tokens) => tokens.admit(&parts.headers).ok(),
    };
    let may_write = |access: &Access| access.may_write_some() && !context.service.only_reads();
    let access =
        access.map(|access| json!({ "write": may_write(&access), "prefix": access.prefix() }));
    let mut links = json!({
        "set": "/set",
        "get": "/get/{key}",
        "delete": "/delete/{key}",
        "entry": "/v1/kv/{key}",
        "list": "/v1/kv",
        "mget": "/v1/mget",
        "batch": "/v1/batch",
        "watch": "/v1/watch",
        "jobs": "/v1/jobs",
        "job": "/v1/jobs/{id}",
        "queue": "/v1/queue",
        "problems": "/problems",
        "openapi": "/openapi.json",
        "docs": "/docs",
    });
    if context.options.admin_routes {
        links["live"] = json!("/livez");
        links["ready"] = json!("/readyz");
        links["metrics"] = json!("/metrics");
    }
    let body = Object::new()
        .member("name", "kvstore")
        .member("version", env!("CARGO_PKG_VERSION"))
        .member("access", access)
        .member("links", links);
    let mut reply = reply::object(StatusCode::OK, body);
    reply.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    reply
}

/// Answers `GET /livez`, `GET /readyz` and `GET /metrics` like the separate admin listener.
pub(super) async fn admin(health: &Health, parts: &Parts) -> Result<Reply> {
    let answer = health.respond(&Method::GET, parts.uri.path()).await;
    let answer = answer.ok_or_else(Problem::no_route)?;
    Ok(answer.map(Body::Whole))
}
