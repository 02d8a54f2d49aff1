//! Answers: JSON in a body that is known whole.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::json::Object;

/// An answer on its way to the client.
pub(crate) type Reply = Response<Full<Bytes>>;

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
    let mut reply = Response::new(Full::new(body));
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
