//! The kinds of problems: one table supplies the type and status of answers, and a page for
//! readers.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use kvstore_core::model::job::Failure;

use crate::answer::reply::{Body, NO_CACHE, Reply};

/// A fault of the request, or of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Malformed,
    Unauthorized,
    Forbidden,
    NotFound,
    Misdirected,
    MethodNotAllowed,
    RequestTimeout,
    HistoryCompacted,
    PreconditionFailed,
    TooLarge,
    UnsupportedMediaType,
    Invalid,
    IdempotencyKeyReused,
    CrossPartition,
    NotAnInteger,
    Internal,
    DeadLettered,
    Unavailable,
    Overloaded,
    NotYetVisible,
    Draining,
    OutcomeUnknown,
    StorageFull,
}

/// Limits the log lines of one kind to one a second.
struct Lines {
    /// The second of the last line, counted from 1.
    second: AtomicU64,
    /// Lines left out since then.
    left_out: AtomicU64,
}

impl Lines {
    const fn new() -> Self {
        Self {
            second: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    fn next(&self, second: u64) -> Option<u64> {
        if self.second.swap(second, Ordering::Relaxed) == second {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}

/// A row of the table.
#[derive(Debug)]
struct ProblemRow {
    kind: Kind,
    name: &'static str,
    status: StatusCode,
    /// What happened.
    meaning: &'static str,
    /// What the sender of the request can do.
    remedy: &'static str,
}

/// One row for each kind, in the order of the kinds.
const TABLE: [ProblemRow; Kind::StorageFull as usize + 1] = [
    ProblemRow {
        kind: Kind::Malformed,
        name: "malformed",
        status: StatusCode::BAD_REQUEST,
        meaning: "A header, a cursor or a sync token cannot be parsed, or the body was cut off.",
        remedy: "Correct what the detail names. Send cursors and tokens back unchanged, and only to the service that created them.",
    },
    ProblemRow {
        kind: Kind::Unauthorized,
        name: "unauthorized",
        status: StatusCode::UNAUTHORIZED,
        meaning: "This needs a token, and the request had none, or an unknown one.",
        remedy: "Send the header Authorization: Bearer with the token that the operator of the service gave you.",
    },
    ProblemRow {
        kind: Kind::Forbidden,
        name: "forbidden",
        status: StatusCode::FORBIDDEN,
        meaning: "The token is known, but it does not allow this: it may only read, or only access keys with a certain prefix.",
        remedy: "Ask the operator of the service for a token that allows it. The answer does not reveal whether such a key exists.",
    },
    ProblemRow {
        kind: Kind::NotFound,
        name: "not-found",
        status: StatusCode::NOT_FOUND,
        meaning: "There is no such key, job or route; or the key has expired, or the job's outcome is no longer kept.",
        remedy: "Check the path. If the key was written a moment ago, read with the Sync-Token of that write.",
    },
    ProblemRow {
        kind: Kind::Misdirected,
        name: "misdirected",
        status: StatusCode::MISDIRECTED_REQUEST,
        meaning: "The request names a host that is not this machine, and the server serves only this machine.",
        remedy: "Ask for localhost, or have the operator of the service add the name with --allow-host.",
    },
    ProblemRow {
        kind: Kind::MethodNotAllowed,
        name: "method-not-allowed",
        status: StatusCode::METHOD_NOT_ALLOWED,
        meaning: "The route exists, but not with this method.",
        remedy: "Use one of the methods in the header Allow.",
    },
    ProblemRow {
        kind: Kind::RequestTimeout,
        name: "request-timeout",
        status: StatusCode::REQUEST_TIMEOUT,
        meaning: "The body of the request did not arrive in time. Nothing was written.",
        remedy: "Send it again, faster or in smaller parts.",
    },
    ProblemRow {
        kind: Kind::HistoryCompacted,
        name: "history-compacted",
        status: StatusCode::GONE,
        meaning: "The changes after the last one that you received are no longer kept, so the watch cannot resume without a gap.",
        remedy: "Read the current entries, and watch from here on: snapshot=1 does both.",
    },
    ProblemRow {
        kind: Kind::PreconditionFailed,
        name: "precondition-failed",
        status: StatusCode::PRECONDITION_FAILED,
        meaning: "The condition of the request (If-Match or If-None-Match) did not hold when its turn came, so nothing was written.",
        remedy: "Read the key again, decide again, and send the new ETag. current_etag is the one that the key had.",
    },
    ProblemRow {
        kind: Kind::TooLarge,
        name: "too-large",
        status: StatusCode::PAYLOAD_TOO_LARGE,
        meaning: "The value or the body has more bytes than allowed; limit_bytes has the limit.",
        remedy: "Store it in parts, or ask the operator of the service to raise the limit.",
    },
    ProblemRow {
        kind: Kind::UnsupportedMediaType,
        name: "unsupported-media-type",
        status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        meaning: "The body is declared as something other than plain JSON, or as compressed.",
        remedy: "Send JSON with Content-Type: application/json and without Content-Encoding; with curl, use --json.",
    },
    ProblemRow {
        kind: Kind::Invalid,
        name: "invalid",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        meaning: "Part of the request breaks a rule: a key, a parameter, or a body that is not JSON. Nothing was written.",
        remedy: "Correct each place that errors lists.",
    },
    ProblemRow {
        kind: Kind::IdempotencyKeyReused,
        name: "idempotency-key-reused",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        meaning: "The Idempotency-Key was used before, for another request. Nothing was written.",
        remedy: "Use a new key for each new request, and an old one only to repeat exactly the same request.",
    },
    ProblemRow {
        kind: Kind::CrossPartition,
        name: "cross-partition",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        meaning: "The keys of the batch are in different partitions, and only keys of one partition can be written together.",
        remedy: "Give the keys that belong together the same {tag}, as in {order:7}/head and {order:7}/items.",
    },
    ProblemRow {
        kind: Kind::NotAnInteger,
        name: "not-an-integer",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        meaning: "The value to add to is not a 64-bit integer, or the sum would not fit in one. Nothing was written.",
        remedy: "Read the key, and write a whole number from -2^63 to 2^63-1 without fraction or exponent before you add to it.",
    },
    ProblemRow {
        kind: Kind::Internal,
        name: "internal",
        status: StatusCode::INTERNAL_SERVER_ERROR,
        meaning: "Something is wrong in the service; its log has the cause, under the id of the request.",
        remedy: "Give the request id to its operator. It is unknown whether a write took effect: read before you repeat it.",
    },
    ProblemRow {
        kind: Kind::DeadLettered,
        name: "dead-lettered",
        status: StatusCode::INTERNAL_SERVER_ERROR,
        meaning: "The write was accepted, but the store rejected it repeatedly, so it became a dead letter.",
        remedy: "Its job has the reason. The operator of the service can retry it once the cause is gone.",
    },
    ProblemRow {
        kind: Kind::Unavailable,
        name: "unavailable",
        status: StatusCode::SERVICE_UNAVAILABLE,
        meaning: "The store or the queue does not answer now, or this server only reads. Nothing was written.",
        remedy: "Try again after the seconds that Retry-After gives.",
    },
    ProblemRow {
        kind: Kind::Overloaded,
        name: "overloaded",
        status: StatusCode::SERVICE_UNAVAILABLE,
        meaning: "The maximum number of writes wait, or of connections are open. Nothing was written.",
        remedy: "Try again after the seconds that Retry-After gives, and wait longer each time.",
    },
    ProblemRow {
        kind: Kind::NotYetVisible,
        name: "not-yet-visible",
        status: StatusCode::SERVICE_UNAVAILABLE,
        meaning: "The write that the sync token names has not been applied yet, so this read could not show it.",
        remedy: "Try again after the seconds that Retry-After gives, or read without the token and get the current state.",
    },
    ProblemRow {
        kind: Kind::Draining,
        name: "draining",
        status: StatusCode::SERVICE_UNAVAILABLE,
        meaning: "This server is shutting down and accepts nothing new.",
        remedy: "Reconnect: another server takes over.",
    },
    ProblemRow {
        kind: Kind::OutcomeUnknown,
        name: "outcome-unknown",
        status: StatusCode::GATEWAY_TIMEOUT,
        meaning: "Something broke while the write was in progress, and it is unknown whether it took effect.",
        remedy: "Repeat it with the same Idempotency-Key, which is always safe, or read the key before you repeat it.",
    },
    ProblemRow {
        kind: Kind::StorageFull,
        name: "storage-full",
        status: StatusCode::INSUFFICIENT_STORAGE,
        meaning: "There is no room to store this. Nothing was written, and reads continue.",
        remedy: "Delete something, or ask the operator of the service for room.",
    },
];

impl Kind {
    /// Returns the kind for a write that fails for `reason`.
    pub(crate) fn of_failure(reason: Failure) -> Self {
        match reason {
            Failure::NotInteger | Failure::Overflow => Self::NotAnInteger,
            Failure::NotFound => Self::NotFound,
            Failure::TooLarge { .. } => Self::TooLarge,
            _ => Self::PreconditionFailed,
        }
    }

    fn row(self) -> &'static ProblemRow {
        let row = &TABLE[self as usize];
        debug_assert_eq!(row.kind, self, "the table is in the order of the kinds");
        row
    }

    /// Returns the last segment of the problem's type.
    pub(crate) fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns the problem's type, which is also the path of its page.
    pub(crate) fn path(self) -> String {
        format!("/problems/{}", self.name())
    }

    /// Returns the number of lines left out since the last one if a line of this kind may be logged
    /// now, and `None` otherwise. Each second allows one line, since every request fails while a
    /// store is down.
    pub(crate) fn next_line(self) -> Option<u64> {
        static LINES: [Lines; TABLE.len()] = [const { Lines::new() }; TABLE.len()];
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        LINES[self as usize].next(BEGINNING.elapsed().as_secs() + 1)
    }

    /// Returns the status of answers of this kind.
    pub(crate) fn status(self) -> StatusCode {
        self.row().status
    }
}

/// Returns the statuses of all kinds.
pub(crate) fn statuses() -> impl Iterator<Item = u16> {
    TABLE.iter().map(|row| row.status.as_u16())
}

/// Returns the meanings of all kinds with `status`.
pub(crate) fn meanings(status: u16) -> Vec<&'static str> {
    let rows = TABLE.iter().filter(|row| row.status.as_u16() == status);
    rows.map(|row| row.meaning).collect()
}

/// Answers `GET /problems/{name}`.
pub(crate) fn page(name: &str) -> Option<Reply> {
    let row = TABLE.iter().find(|row| row.name == name)?;
    let ProblemRow {
        name,
        status,
        meaning,
        remedy,
        ..
    } = row;
    Some(html(
        name,
        &format!(
            "<h1>{name}</h1>\n<p>Status {status}</p>\n<h2>What has happened</h2>\n<p>{meaning}</p>\n\
             <h2>What you can do</h2>\n<p>{remedy}</p>\n<p><a href=\"/problems\">All problems</a></p>\n"
        ),
    ))
}

/// Answers `GET /problems`.
pub(crate) fn index() -> Reply {
    let items: String = TABLE
        .iter()
        .map(|ProblemRow { name, status, .. }| {
            format!(
                "<li><a href=\"/problems/{name}\">{name}</a> ({})</li>\n",
                status.as_u16()
            )
        })
        .collect();
    html(
        "problems",
        &format!("<h1>Why a request may fail</h1>\n<ul>\n{items}</ul>\n"),
    )
}

/// Builds a page without scripts and external resources. `body` needs no escaping.
fn html(title: &str, body: &str) -> Reply {
    let text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>kvstore: {title}</title></head>\n\
         <body>\n{body}</body>\n</html>\n"
    );
    let mut reply = Response::new(Body::whole(text));
    let headers = reply.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'"),
    );
    headers.insert(CACHE_CONTROL, NO_CACHE);
    reply
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_second_has_one_line_and_the_next_one_counts_the_others() {
        let lines = Lines::new();
        let seconds = [1, 1, 1, 2, 3, 3, 5];
        let logged = seconds.map(|second| lines.next(second));
        assert_eq!(
            logged,
            [Some(0), None, None, Some(2), Some(0), None, Some(1)]
        );
    }

    #[test]
    fn each_kind_has_its_row_and_each_row_its_page() {
        let mut names = HashSet::new();
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.kind as usize, at, "{}", row.name);
            assert!(names.insert(row.name), "{} occurs twice", row.name);
            assert!(
                row.status.is_client_error() || row.status.is_server_error(),
                "{}",
                row.name
            );
            assert!(page(row.name).is_some(), "{}", row.name);
            let text = format!("{}{}", row.meaning, row.remedy);
            assert!(
                !text.contains(['<', '>', '&']),
                "{}: {text:?} needs escaping",
                row.name
            );
        }
        assert!(page("nothing").is_none());
    }
}
