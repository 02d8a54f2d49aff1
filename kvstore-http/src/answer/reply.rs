//! Answers: a body of JSON that is known in full, or an endless stream of events.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::answer::json::Object;
use crate::server::in_flight::UNCOUNTED_BYTES;

/// An answer to a client.
pub(crate) type Reply = Response<Body>;

/// The body of an answer.
pub(crate) enum Body {
    /// A complete body.
    Whole(Bytes),
    /// A complete body that is already counted among the bytes in flight.
    Counted(Bytes),
    /// A stream of pieces.
    Events(BoxStream<'static, Bytes>),
}

impl Body {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(bytes.into())
    }

    /// Returns the number of body bytes still to be counted among those in flight.
    pub(crate) fn uncounted_bytes(&self) -> usize {
        match self {
            Self::Whole(bytes) if bytes.len() > UNCOUNTED_BYTES => bytes.len(),
            _ => 0,
        }
    }

    pub(crate) fn events(pieces: BoxStream<'static, Bytes>) -> Self {
        Self::Events(pieces)
    }
}

impl Default for Body {
    /// Returns an empty body.
    fn default() -> Self {
        Self::Whole(Bytes::new())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole(_) | Self::Counted(_) => "Whole",
            Self::Events(_) => "Events",
        })
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) | Self::Counted(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Events(pieces) => pieces
                .poll_next_unpin(cx)
                .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) | Self::Counted(bytes) => bytes.is_empty(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) | Self::Counted(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// `Content-Type` of all answers except problems.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Caches must revalidate before each use.
pub(crate) const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// Caches must not store the answer.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

pub(crate) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
pub(crate) const SYNC_TOKEN: HeaderName = HeaderName::from_static("sync-token");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_TTL: HeaderName = HeaderName::from_static("x-ttl");

/// Builds an answer with a JSON body.
pub(crate) fn json(status: StatusCode, body: Bytes) -> Reply {
    let mut headers = HeaderMap::with_capacity(HEADERS_USUAL);
    headers.insert(CONTENT_TYPE, JSON);
    let mut reply = Response::new(Body::whole(body));
    *reply.status_mut() = status;
    *reply.headers_mut() = headers;
    reply
}

/// Builds an answer with one JSON object.
pub(crate) fn object(status: StatusCode, object: Object) -> Reply {
    json(status, object.finish())
}

/// Usual number of headers of an answer: the map is allocated once and does not grow.
const HEADERS_USUAL: usize = 6;

/// Converts `text`, which must be visible ASCII, to a header value.
pub(crate) fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("the text is visible ASCII")
}
