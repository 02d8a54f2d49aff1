//! Answers: JSON in a body that is known whole, or events without end.

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

/// An answer on its way to the client.
pub(crate) type Reply = Response<Body>;

/// What an answer has behind its head.
pub(crate) enum Body {
    /// All of it.
    Whole(Bytes),
    /// All of it, which has room among the bytes in flight.
    Counted(Bytes),
    /// As it comes, a piece at a time.
    Events(BoxStream<'static, Bytes>),
}

impl Body {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(bytes.into())
    }

    /// Returns how many bytes it has that take room among those in flight, and have none yet.
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
    /// Nothing.
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

/// `Content-Type` of everything but problems.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Whoever kept a copy asks first whether it still holds.
pub(crate) const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// Nobody keeps a copy.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

pub(crate) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
pub(crate) const SYNC_TOKEN: HeaderName = HeaderName::from_static("sync-token");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_TTL: HeaderName = HeaderName::from_static("x-ttl");

/// An answer of JSON text.
pub(crate) fn json(status: StatusCode, body: Bytes) -> Reply {
    let mut headers = HeaderMap::with_capacity(HEADERS_USUAL);
    headers.insert(CONTENT_TYPE, JSON);
    let mut reply = Response::new(Body::whole(body));
    *reply.status_mut() = status;
    *reply.headers_mut() = headers;
    reply
}

/// An answer of one object.
pub(crate) fn object(status: StatusCode, object: Object) -> Reply {
    json(status, object.finish())
}

/// Room for as many headers as an answer usually has, so that the map does not grow while it is filled.
const HEADERS_USUAL: usize = 6;

/// `text` as the value of a header: it is made of digits, letters and punctuation of ours.
pub(crate) fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("the text is visible ASCII")
}
