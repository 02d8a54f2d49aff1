//! What the server says about itself.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::json;

use super::Context;
use crate::error::{Problem, Result};
use crate::json::Object;
use crate::reply::{self, Reply};

/// A store or queue that does not answer a ping within this time is not ready.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// `GET /`
pub(super) fn root() -> Reply {
    let links = json!({
        "set": "/set",
        "get": "/get/{key}",
        "delete": "/delete/{key}",
        "entry": "/v1/kv/{key}",
        "job": "/v1/jobs/{id}",
        "live": "/livez",
        "ready": "/readyz",
    });
    let body = Object::new()
        .member("name", "kvstore")
        .member("version", env!("CARGO_PKG_VERSION"))
        .member("links", links);
    reply::object(StatusCode::OK, body)
}

/// `GET /livez`: the process runs.
pub(super) fn live() -> Reply {
    reply::object(StatusCode::OK, Object::new().member("status", "ok"))
}

/// `GET /readyz`: store and queue answer, and the server is not on its way out.
pub(super) async fn ready(context: &Context) -> Result<Reply> {
    if context.is_draining() {
        return Err(Problem::unavailable(
            "draining",
            "the server is shutting down",
        ));
    }
    match tokio::time::timeout(PING_TIMEOUT, context.service.ping()).await {
        Ok(answer) => answer?,
        Err(_) => {
            return Err(Problem::unavailable(
                "unavailable",
                "the store or the queue does not answer",
            ));
        }
    }
    Ok(reply::object(
        StatusCode::OK,
        Object::new().member("status", "ready"),
    ))
}
