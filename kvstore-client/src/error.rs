//! Maps every unsuccessful answer to an error of the core. The only such mapping.

use std::sync::Arc;

use hyper::StatusCode;
use kvstore_core::error::{Source, Subject, Unit};
use kvstore_core::model::id::JobId;
use kvstore_core::{Error, Key, Version};
use serde::Deserialize;

use crate::transport::{ApiCall, ApiReply, RepeatEffect};
use crate::wire;

/// A problem of RFC 9457; every member may be missing.
#[derive(Debug, Default, Deserialize)]
struct ProblemBody {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    detail: String,
    key: Option<Key>,
    current_etag: Option<String>,
    failed_op: Option<usize>,
    limit: Option<u64>,
    limit_bytes: Option<u64>,
    job_id: Option<JobId>,
}

/// The detail of a 404 for a path that the API does not have, as with a base URL that ends in
/// `/v1`.
const NO_ROUTE: &str = "Not Found";

/// Why a request did not succeed.
#[derive(Debug)]
pub(crate) struct ProblemReply {
    status: StatusCode,
    body: ProblemBody,
}

impl ProblemReply {
    pub(crate) fn of(reply: &ApiReply) -> Self {
        Self {
            status: reply.status,
            body: serde_json::from_slice(&reply.body).unwrap_or_default(),
        }
    }

    /// Returns the name of the problem; empty if it does not come from a kvstore server.
    fn name(&self) -> &str {
        self.body
            .kind
            .strip_prefix("/problems/")
            .unwrap_or_default()
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        self.name() == name
    }

    /// Returns true if a kvstore server sent it, rather than a proxy in front of it.
    pub(crate) fn is_own(&self) -> bool {
        !self.name().is_empty()
    }

    /// Returns true if it says that a key is absent.
    pub(crate) fn is_absent_key(&self) -> bool {
        self.is("not-found") && self.body.key.is_some()
    }

    pub(crate) fn failed_op(&self) -> usize {
        self.body.failed_op.unwrap_or(0)
    }

    /// Returns the error of an operation on `key` that failed its condition or could not be carried
    /// out.
    pub(crate) fn of_write(self, key: &Key, call: &ApiCall) -> Error {
        let key = self.body.key.as_ref().unwrap_or(key).clone();
        match self.name() {
            "precondition-failed" => Error::Conflict {
                key,
                check: self.failed_op(),
                current: self.current(),
            },
            "not-found" if self.body.key.is_some() => Error::NotFound {
                what: format!("key {key:?}"),
            },
            "not-an-integer" => Error::Invalid {
                subject: Subject::Value,
                reason: format!("{} of key {key:?}", self.body.detail),
            },
            _ => self.into_error(call),
        }
    }

    fn current(&self) -> Option<Version> {
        wire::version(self.body.current_etag.as_deref()?)
    }

    pub(crate) fn into_error(self, call: &ApiCall) -> Error {
        let status = self.status;
        let detail = match self.body.detail.as_str() {
            "" => format!("the server answered {status}"),
            detail => detail.to_owned(),
        };
        let unavailable = |what| Error::Unavailable { what, source: None };
        let unknown = |detail: String| Error::Unknown {
            what: "the write takes effect".to_owned(),
            source: source(detail),
        };
        match (self.name(), status.as_u16()) {
            (_, 401 | 403) => Error::Denied { reason: detail },
            ("too-large", _) => Error::TooLarge {
                subject: call.subject,
                limit: self.body.limit_bytes.unwrap_or(0),
                unit: Unit::Bytes,
            },
            ("invalid", _) if self.body.limit.is_some() => Error::TooLarge {
                subject: call.subject,
                limit: self.body.limit.unwrap_or(0),
                unit: match call.subject {
                    Subject::Batch => Unit::Operations,
                    _ => Unit::Keys,
                },
            },
            ("idempotency-key-reused", _) => Error::KeyReused,
            ("history-compacted", _) => Error::Compacted,
            ("storage-full", _) => Error::StorageFull { detail },
            ("dead-lettered", _) if self.body.job_id.is_some() => Error::DeadLettered {
                job: self.body.job_id.expect("it was just seen"),
                reason: detail,
            },
            ("malformed" | "invalid" | "cross-partition" | "not-an-integer", _) => Error::Invalid {
                subject: call.subject,
                // The server's own error may begin as this one will.
                reason: match detail.strip_prefix(&format!("{} is invalid: ", call.subject)) {
                    Some(reason) => reason.to_owned(),
                    None => detail,
                },
            },
            ("not-found", _) if detail != NO_ROUTE => Error::NotFound { what: detail },
            ("misdirected", _) => Error::Config(detail),
            ("not-found", _) | ("", 400..=499) => Error::Config(format!(
                "no kvstore server of this version answers there: {} {} gave {status}",
                call.method, call.target
            )),
            (_, 400..=499) => Error::Config(detail),
            ("unavailable" | "overloaded" | "not-yet-visible" | "draining", _) => {
                unavailable(detail)
            }
            _ if call.effect != RepeatEffect::None => unknown(detail),
            _ => unavailable(detail),
        }
    }
}

/// Makes `cause` the source of an error.
pub(crate) fn source(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Option<Source> {
    Some(Arc::from(cause.into()))
}

/// Returns the error for an answer that does not conform to the API.
pub(crate) fn unexpected(reply: &ApiReply, call: &ApiCall, why: &dyn std::fmt::Display) -> Error {
    let what = format!(
        "the answer to {} {} ({}) is not as expected: {why}",
        call.method, call.target, reply.status
    );
    match call.effect {
        RepeatEffect::None => Error::Unavailable { what, source: None },
        _ => Error::Unknown {
            what: "the write takes effect".to_owned(),
            source: source(what),
        },
    }
}
