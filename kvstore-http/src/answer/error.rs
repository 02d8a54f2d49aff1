//! Every answer that is not a success: its type, and its form on each face of the API.
//!
//! `/v1` uses `application/problem+json` (RFC 9457). All other routes answer errors as FastAPI
//! does, `{"detail": …}`, since clients of such services expect that. Internal details go to the
//! log, never into an answer.

use std::borrow::Cow;
use std::fmt;

use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use kvstore_core::error::{Subject, Unit, in_one_line};
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::Failure;
use kvstore_core::{Entry, Error, Key, Version};
use serde::Serialize;

use crate::answer::field::{Field, Place};
use crate::answer::json::Object;
use crate::answer::problems::Kind;
use crate::answer::reply::{Body, JSON, NO_STORE, Reply};
use crate::request::conditions::etag_text;

/// The media type of RFC 7396.
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";

/// The result of a handler. The error is boxed so that the `Ok` path stays small.
pub(crate) type Result<T, E = Box<Problem>> = std::result::Result<T, E>;

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    /// FastAPI's format.
    Simple,
    /// The format of RFC 9457.
    Resource,
}

impl Face {
    /// Returns the face that `path` belongs to.
    pub(crate) fn of(path: &str) -> Self {
        match path.strip_prefix("/v1") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Self::Resource,
            _ => Self::Simple,
        }
    }
}

/// The reason why a request failed.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    /// Additional members of the answer.
    members: Object,
    /// The invalid parts of the request.
    fields: Vec<Field>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Written to the log only.
    cause: Option<Error>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Box<Self> {
        Box::new(Self {
            kind,
            detail: detail.into(),
            members: Object::new(),
            fields: Vec::new(),
            headers: Vec::new(),
            cause: None,
        })
    }

    /// Returns the problem's kind.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the problem's description, a sentence.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Reports syntax that cannot be parsed, as in a header or a sync token.
    pub(crate) fn malformed(detail: impl Into<Cow<'static, str>>) -> Box<Self> {
        Self::new(Kind::Malformed, detail)
    }

    /// Reports a body whose end other parties on the path might place elsewhere. The bytes after it
    /// cannot be trusted, so the connection closes.
    pub(crate) fn ambiguous_body() -> Box<Self> {
        Self::malformed("Transfer-Encoding must be chunked and nothing else").closing()
    }

    /// Reports that no route has this path.
    pub(crate) fn no_route() -> Box<Self> {
        Self::new(Kind::NotFound, "Not Found")
    }

    /// Reports a caller without a known token; the answer carries `challenge`.
    pub(crate) fn unauthorized(challenge: &'static str, detail: &'static str) -> Box<Self> {
        Self::new(Kind::Unauthorized, detail)
            .header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }

    /// Reports a known caller who lacks the right (RFC 6750 §3.1).
    pub(crate) fn forbidden(detail: impl Into<Cow<'static, str>>) -> Box<Self> {
        const CHALLENGE: HeaderValue =
            HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
        Self::new(Kind::Forbidden, detail).header(WWW_AUTHENTICATE, CHALLENGE)
    }

    /// Reports that the key is absent.
    pub(crate) fn no_key(key: &Key) -> Box<Self> {
        Self::new(Kind::NotFound, "Key not found").with("key", key)
    }

    /// Reports a job that is unknown or no longer kept.
    pub(crate) fn no_job() -> Box<Self> {
        Self::new(
            Kind::NotFound,
            "no such job is known: it was never accepted here, or its outcome is no longer kept",
        )
    }

    /// Reports a job that is not, or no longer, a dead letter.
    pub(crate) fn no_letter() -> Box<Self> {
        Self::new(
            Kind::NotFound,
            "no such dead letter: only a job that was given up can be tried again, and only once",
        )
    }

    /// Reports that the route does not support the method.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Box<Self> {
        Self::new(Kind::MethodNotAllowed, "Method Not Allowed")
            .header(ALLOW, HeaderValue::from_static(allow))
    }

    /// Reports a body of an unsupported type; `came` is its declared type.
    pub(crate) fn unsupported_media_type(came: Option<&str>, send: &str) -> Box<Self> {
        let came = match came {
            Some(came) => format!("the body is {}", came.chars().take(100).collect::<String>()),
            None => "a browser sent the body without a Content-Type".to_owned(),
        };
        Self::new(
            Kind::UnsupportedMediaType,
            format!("{came}: send Content-Type: {send}"),
        )
    }

    /// Reports a compressed body.
    pub(crate) fn encoded_body(encoding: &HeaderValue) -> Box<Self> {
        let encoding = encoding.to_str().unwrap_or_default();
        let encoding: String = encoding.chars().take(100).collect();
        Self::new(
            Kind::UnsupportedMediaType,
            format!("Content-Encoding: {encoding} is not taken: send the body as it is"),
        )
        .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
    }

    /// Adds the header that names the accepted patch format.
    pub(crate) fn patchable(self: Box<Self>) -> Box<Self> {
        self.header(
            HeaderName::from_static("accept-patch"),
            HeaderValue::from_static(MERGE_PATCH),
        )
    }

    /// Reports a body above the limit. The rest of it is not read, so the connection closes.
    pub(crate) fn body_too_large(limit_bytes: usize) -> Box<Self> {
        Self::too_large("body", limit_bytes as u64).closing()
    }

    /// Reports that the requested values exceed the limit of one answer.
    pub(crate) fn answer_too_large(limit_bytes: usize) -> Box<Self> {
        Self::new(
            Kind::TooLarge,
            format!("the values are more than the {limit_bytes} bytes that one answer holds: ask for fewer keys"),
        )
        .with("limit_bytes", limit_bytes)
    }

    fn too_large(subject: impl fmt::Display, limit_bytes: u64) -> Box<Self> {
        Self::new(
            Kind::TooLarge,
            format!("the {subject} is too large: the limit is {limit_bytes} bytes"),
        )
        .with("limit_bytes", limit_bytes)
    }

    /// Reports that the body did not arrive in time.
    pub(crate) fn body_timeout() -> Box<Self> {
        Self::new(Kind::RequestTimeout, "the body did not arrive in time").closing()
    }

    /// Reports one invalid part of the request.
    pub(crate) fn field(field: Field) -> Box<Self> {
        Self::invalid(vec![field])
    }

    /// Reports the invalid parts of the request, at least one.
    pub(crate) fn invalid(fields: Vec<Field>) -> Box<Self> {
        let detail = fields
            .iter()
            .map(|field| format!("{}: {}", field.place, field.message))
            .collect::<Vec<_>>()
            .join("; ");
        let mut problem = Self::new(Kind::Invalid, detail);
        problem.fields = fields;
        problem
    }

    /// Reports that a condition does not hold; the key has the version `current`.
    pub(crate) fn condition_failed(current: Option<Version>) -> Box<Self> {
        Self::precondition_failed().with("current_etag", current.map(etag_text))
    }

    /// Reports the same, with the current entry.
    pub(crate) fn condition_failed_with(current: Option<&Entry>) -> Box<Self> {
        let mut problem = Self::condition_failed(current.map(|entry| entry.version));
        if let Some(entry) = current {
            problem.members = problem.members.raw("current_value", entry.value.as_bytes());
        }
        problem
    }

    /// Reports that the requested change of `key` cannot be made.
    pub(crate) fn failed(reason: Failure, key: &Key) -> Box<Self> {
        match reason {
            Failure::NotFound => Self::no_key(key),
            Failure::TooLarge { limit_bytes } => {
                Self::too_large("result", limit_bytes).with("key", key)
            }
            _ => Self::new(Kind::of_failure(reason), reason.to_string()).with("key", key),
        }
    }

    fn precondition_failed() -> Box<Self> {
        Self::new(Kind::PreconditionFailed, "the condition did not hold")
    }

    /// Reports that a waited write became a dead letter.
    pub(crate) fn dead_lettered(job: &JobId) -> Box<Self> {
        Self::new(
            Kind::DeadLettered,
            "the write was accepted but could not be applied; its job says more",
        )
        .with("job_id", job)
    }

    /// Reports that the outcome of an accepted write is no longer known.
    pub(crate) fn outcome_unknown(job: &JobId) -> Box<Self> {
        Self::unknown("the write was accepted, but its outcome is not known").with("job_id", job)
    }

    /// Reports that the request may or may not have taken effect.
    pub(crate) fn unknown(detail: &'static str) -> Box<Self> {
        Self::new(Kind::OutcomeUnknown, detail)
    }

    /// Reports that no connections are left.
    pub(crate) fn no_connections() -> Box<Self> {
        let detail = "the server has no room for another connection";
        Self::unavailable(Kind::Overloaded, detail).closing()
    }

    /// Reports that no connections are left and that the token holds more than its share of them.
    pub(crate) fn too_many_connections() -> Box<Self> {
        let detail =
            "there is no room for another connection, and this token has more than half of them";
        Self::unavailable(Kind::Overloaded, detail).closing()
    }

    /// Reports a temporary failure.
    pub(crate) fn unavailable(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Box<Self> {
        Self::new(kind, detail).retry()
    }

    /// Reports an internal failure. The log holds its cause under the id of the request.
    pub(crate) fn internal() -> Box<Self> {
        Self::new(Kind::Internal, "Internal Server Error")
    }

    /// Adds a member to the answer.
    pub(crate) fn with(
        mut self: Box<Self>,
        name: &'static str,
        value: impl Serialize,
    ) -> Box<Self> {
        self.members = self.members.member(name, value);
        self
    }

    /// Adds a header to the answer.
    pub(crate) fn header(mut self: Box<Self>, name: HeaderName, value: HeaderValue) -> Box<Self> {
        self.headers.push((name, value));
        self
    }

    fn retry(self: Box<Self>) -> Box<Self> {
        let after = match self.kind {
            // Spread out, so that clients do not all return at once.
            Kind::Overloaded | Kind::Unavailable => HeaderValue::from(fastrand::u16(1..=3)),
            _ => RETRY_SOON,
        };
        self.header(RETRY_AFTER, after)
    }

    pub(crate) fn closing(self: Box<Self>) -> Box<Self> {
        self.header(CONNECTION, HeaderValue::from_static("close"))
    }

    fn because(mut self: Box<Self>, cause: Error) -> Box<Self> {
        self.cause = Some(cause);
        self
    }

    /// Builds the answer, and logs server-side failures.
    pub(crate) fn into_reply(self, face: Face, request_id: &HeaderValue) -> Reply {
        self.log(request_id);
        let mut members = self.members;
        let status = self.kind.status();
        if self.kind == Kind::Internal {
            members = members.member("request_id", request_id.to_str().unwrap_or_default());
        }
        let (body, content_type) = match face {
            Face::Simple => (simple_body(&self.detail, &self.fields, &members), JSON),
            Face::Resource => {
                let object = Object::new()
                    .member("type", self.kind.path())
                    .member("title", status.canonical_reason())
                    .member("status", status.as_u16())
                    .member("detail", &self.detail)
                    .and(&members);
                let errors: Vec<_> = self.fields.iter().map(Field::short).collect();
                let object = if errors.is_empty() {
                    object
                } else {
                    object.member("errors", errors)
                };
                (object, PROBLEM_JSON)
            }
        };
        let mut reply = Response::new(Body::whole(body.finish()));
        *reply.status_mut() = status;
        let headers = reply.headers_mut();
        headers.insert(CONTENT_TYPE, content_type);
        // Caches may store a 404 and some other statuses unless forbidden (RFC 9110 §15.1).
        headers.insert(CACHE_CONTROL, NO_STORE);
        headers.extend(
            self.headers
                .into_iter()
                .map(|(name, value)| (Some(name), value)),
        );
        reply
    }

    fn log(&self, request_id: &HeaderValue) {
        let request_id = request_id.to_str().unwrap_or_default();
        let cause = self.cause.as_ref().map(|cause| in_one_line(cause));
        let problem = self.kind.name();
        match self.kind.status() {
            StatusCode::INTERNAL_SERVER_ERROR => {
                tracing::error!(request_id, problem, cause, "a request failed");
            }
            // Frequent while the service is loaded or starts: a line each would drown the rest of
            // the log.
            StatusCode::SERVICE_UNAVAILABLE if self.kind != Kind::Unavailable => {
                tracing::debug!(request_id, problem, cause, "a request was put off");
            }
            status if status.is_server_error() => {
                if let Some(left_out) = self.kind.next_line() {
                    tracing::warn!(request_id, problem, cause, left_out, "a request failed");
                }
            }
            _ => tracing::debug!(request_id, problem, "a request was refused"),
        }
    }
}

/// `Retry-After` for conditions that usually pass within moments.
pub(crate) const RETRY_SOON: HeaderValue = HeaderValue::from_static("1");

/// `Retry-After` for a full disk: an operator must act first.
const RETRY_LATER: HeaderValue = HeaderValue::from_static("10");

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

fn simple_body(detail: &str, fields: &[Field], members: &Object) -> Object {
    let object = Object::new();
    let object = if fields.is_empty() {
        object.member("detail", detail)
    } else {
        let fields: Vec<_> = fields.iter().map(Field::long).collect();
        object.member("detail", fields)
    };
    object.and(members)
}

/// The one table from errors of the core to answers.
impl From<Error> for Box<Problem> {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Invalid { subject: Subject::SyncToken | Subject::JobId | Subject::ChangeId, .. } => Problem::malformed(text),
            Error::Invalid { subject, reason } => Problem::field(Field::value_error(Place::In("body", subject.as_str()), &reason, None)),
            Error::TooLarge { subject, limit, unit: Unit::Bytes } => Problem::too_large(subject, limit),
            Error::TooLarge { subject, limit, .. } => Problem::field(Field::value_error(Place::In("body", subject.as_str()), &text, None)).with("limit", limit),
            Error::CrossPartition { .. } => Problem::new(Kind::CrossPartition, text),
            Error::KeyReused => Problem::new(Kind::IdempotencyKeyReused, text),
            Error::Compacted => Problem::new(Kind::HistoryCompacted, text),
            Error::NotFound { .. } => Problem::new(Kind::NotFound, text),
            Error::Full { room_in: Some(room_in), .. } => Problem::new(Kind::Overloaded, text)
                .header(RETRY_AFTER, HeaderValue::from(room_in.as_millis().div_ceil(1000).max(1) as u64)),
            Error::Full { .. } => Problem::unavailable(Kind::Overloaded, text),
            Error::NotYetVisible { .. } => Problem::unavailable(Kind::NotYetVisible, text),
            // Only an operator can resolve these, such as another queue or a server with other
            // settings.
            Error::Unavailable { .. }
            | Error::Poisoned { .. }
            | Error::Locked { .. }
            | Error::WrongQueue { .. }
            | Error::Config(_) => {
                Problem::unavailable(Kind::Unavailable, "the service cannot do this now").because(error)
            }
            // The writer's address is none of the client's business.
            Error::ReadOnly { .. } => {
                Problem::unavailable(Kind::Unavailable, "this server only reads: write through the one that runs the worker")
            }
            Error::StorageFull { .. } => {
                Problem::new(Kind::StorageFull, "there is no room to store this")
                    .header(RETRY_AFTER, RETRY_LATER)
                    .because(error)
            }
            Error::Unknown { .. } => Problem::unknown(
                "it is not known whether this took effect: repeat it with the same Idempotency-Key, or read before repeating",
            )
            .because(error),
            _ => Problem::internal().because(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use kvstore_core::model::id::{Partition, Position, QueueId};

    use super::*;

    async fn sent(problem: Box<Problem>, face: Face) -> (u16, Option<String>, serde_json::Value) {
        let reply = problem.into_reply(face, &HeaderValue::from_static("id-1"));
        let retry = reply.headers().get(RETRY_AFTER);
        let retry = retry.map(|value| value.to_str().unwrap().to_owned());
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (status, retry, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn every_error_of_the_core_has_its_answer() {
        let job = JobId {
            queue: QueueId::random(),
            partition: Partition(0),
            position: Position::counted(1),
        };
        let key = |text| Key::new(text).unwrap();
        let invalid = |subject| Error::Invalid {
            subject,
            reason: "no".into(),
        };
        let gone = || "secret detail".to_owned();
        for (error, status, name, retry) in [
            (invalid(Subject::SyncToken), 400, "malformed", None),
            (invalid(Subject::Ttl), 422, "invalid", None),
            (
                Error::TooLarge {
                    subject: Subject::Value,
                    limit: 9,
                    unit: Unit::Bytes,
                },
                413,
                "too-large",
                None,
            ),
            (
                Error::TooLarge {
                    subject: Subject::Batch,
                    limit: 9,
                    unit: Unit::Operations,
                },
                422,
                "invalid",
                None,
            ),
            (Error::KeyReused, 422, "idempotency-key-reused", None),
            (
                Error::CrossPartition {
                    first: key("a"),
                    other: key("b"),
                },
                422,
                "cross-partition",
                None,
            ),
            (Error::Compacted, 410, "history-compacted", None),
            (
                Error::NotFound { what: "it".into() },
                404,
                "not-found",
                None,
            ),
            (
                Error::Full {
                    what: "the queue",
                    limit: 1,
                    room_in: Some(std::time::Duration::from_millis(59_001)),
                },
                503,
                "overloaded",
                Some("60"),
            ),
            (
                Error::NotYetVisible { job },
                503,
                "not-yet-visible",
                Some("1"),
            ),
            (
                Error::Unavailable {
                    what: gone(),
                    source: None,
                },
                503,
                "unavailable",
                Some("1"),
            ),
            (
                Error::ReadOnly { writer: gone() },
                503,
                "unavailable",
                Some("1"),
            ),
            (
                Error::Poisoned { reason: gone() },
                503,
                "unavailable",
                Some("1"),
            ),
            (
                Error::StorageFull { detail: gone() },
                507,
                "storage-full",
                Some("10"),
            ),
            (
                Error::Unknown {
                    what: gone(),
                    source: None,
                },
                504,
                "outcome-unknown",
                None,
            ),
            (
                Error::WrongQueue {
                    active: QueueId::random(),
                    queue: QueueId::random(),
                },
                503,
                "unavailable",
                Some("1"),
            ),
            (Error::Config(gone()), 503, "unavailable", Some("1")),
            (
                Error::Corrupt {
                    path: "/secret".into(),
                    line: None,
                    detail: gone(),
                },
                500,
                "internal",
                None,
            ),
        ] {
            let text = error.to_string();
            let (sent_status, sent_retry, body) = sent(error.into(), Face::Resource).await;
            // Overload answers spread their delay over a few seconds.
            let sent_retry = sent_retry.map(|after| match &*after {
                "2" | "3" => "1".to_owned(),
                _ => after,
            });
            assert_eq!(
                (sent_status, sent_retry.as_deref()),
                (status, retry),
                "{text}"
            );
            assert_eq!(body["type"], format!("/problems/{name}"), "{text}");
            assert_eq!(body["status"], status, "{text}");
            assert!(!body.to_string().contains("secret"), "{body}");
        }
    }

    #[tokio::test]
    async fn only_an_internal_error_names_the_request() {
        let (_, _, body) = sent(Problem::internal(), Face::Simple).await;
        assert_eq!(
            body,
            serde_json::json!({"detail": "Internal Server Error", "request_id": "id-1"})
        );
        let (_, _, body) = sent(Problem::no_route(), Face::Simple).await;
        assert_eq!(body, serde_json::json!({"detail": "Not Found"}));
    }
}
