//! What the server says about itself.

use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::json;

use super::context::Context;
use crate::answer::error::{Problem, Result};
use crate::answer::json::Object;
use crate::answer::reply::{self, Body, Reply};

/// `GET /`
pub(super) fn root(context: &Context<'_>) -> Reply {
    let mut links = json!({
        "set": "/set",
        "get": "/get/{key}",
        "delete": "/delete/{key}",
        "entry": "/v1/kv/{key}",
        "job": "/v1/jobs/{id}",
        "watch": "/v1/watch",
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
        .member("links", links);
    reply::object(StatusCode::OK, body)
}

/// `GET /livez`, `GET /readyz` and `GET /metrics`: the same as on a listener for these alone.
pub(super) async fn admin(context: &Context<'_>, parts: &Parts) -> Result<Reply> {
    let answer = context.health.respond(&Method::GET, parts.uri.path()).await;
    let answer = answer.ok_or_else(Problem::no_route)?;
    Ok(answer.map(Body::Whole))
}
