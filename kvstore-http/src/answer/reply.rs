//! Answers: JSON in a body that is known whole, or events without end.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::answer::json::Object;

/// An answer on its way to the client.
pub(crate) type Reply = Response<Body>;

/// What an answer has behind its head.
pub(crate) enum Body {
    /// All of it.
    Whole(Full<Bytes>),
    /// As it comes, a piece at a time.
    Events(BoxStream<'static, Bytes>),
}

impl Body {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }

    pub(crate) fn events(pieces: BoxStream<'static, Bytes>) -> Self {
        Self::Events(pieces)
    }
}

impl Default for Body {
    /// Nothing.
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole(_) => "Whole",
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
            Self::Whole(bytes) => Pin::new(bytes).poll_frame(cx),
            Self::Events(pieces) => pieces
                .poll_next_unpin(cx)
                .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => bytes.size_hint(),
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
const HEADERS_USUAL: usize = 8;

/// `text` as the value of a header: it is made of digits, letters and punctuation of ours.
pub(crate) fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("the text is visible ASCII")
}
