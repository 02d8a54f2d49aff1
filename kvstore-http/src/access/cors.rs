//! Which web pages of other origins may use the service in a browser
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! A browser sends a preflight request before any request that could change something, and shows an
//! answer to a page only if that answer allows the page's origin. This restricts browsers alone;
//! tokens protect against all other programs.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use crate::answer::reply::{Body, Reply};

/// The origins whose pages may use the service; empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors(Vec<HeaderValue>);

/// Request headers that a page may send besides the CORS-safelisted ones.
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, prefer, sync-token, traceparent, \
     x-request-id",
);

/// Response headers that a page may read besides the CORS-safelisted ones.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "allow, etag, idempotency-replayed, location, preference-applied, retry-after, sync-token, www-authenticate, x-request-id, x-ttl",
);

/// Seconds for which a browser may cache a preflight answer.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

const ANY: HeaderValue = HeaderValue::from_static("*");

impl Cors {
    /// Parses a comma-separated list of origins, or `*` for any origin.
    ///
    /// # Errors
    /// Describes the first origin that no browser would send.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(vec![ANY]));
        }
        text.split(',')
            .map(|origin| parse_origin(origin.trim()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Returns the value of `Access-Control-Allow-Origin` for the request's origin, if it is
    /// allowed.
    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        if self.0.contains(&ANY) {
            return Some(ANY);
        }
        self.0.iter().find(|allowed| *allowed == origin).cloned()
    }

    /// Answers a preflight request on a route with the methods `allow`. Returns `None` for any
    /// other request, and for an origin that is not allowed.
    pub(crate) fn preflight(&self, parts: &Parts, allow: &'static str) -> Option<Reply> {
        let asks = parts.method == Method::OPTIONS
            && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || self.allowed(&parts.headers).is_none() {
            return None;
        }
        let mut reply = Response::new(Body::default());
        *reply.status_mut() = StatusCode::NO_CONTENT;
        let headers = reply.headers_mut();
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static(allow),
        );
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Some(reply)
    }

    /// Adds the CORS headers to an answer to `request`.
    pub(crate) fn mark(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        // Vary is sent even if the origin is refused: otherwise a cache could serve that answer to
        // an allowed origin.
        answer.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.allowed(request) {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        }
    }
}

/// Parses an origin as browsers send it. Origins are compared as text, so a spelling that no
/// browser uses is an error here rather than an entry that never matches.
fn parse_origin(text: &str) -> Result<HeaderValue, String> {
    let refused = |why: &str| format!("{text:?} is no origin such as https://app.example: {why}");
    let (scheme, place) = text
        .split_once("://")
        .ok_or_else(|| refused("there is no scheme"))?;
    if scheme.is_empty() || place.is_empty() {
        return Err(refused("a part is missing"));
    }
    if place.contains(['/', '?', '#', '@', '*']) {
        return Err(refused("it is a scheme, a host and perhaps a port"));
    }
    if text
        .bytes()
        .any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii_graphic())
    {
        return Err(refused("browsers send it in lower case, and in ASCII"));
    }
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    if !default_port.is_empty() && place.ends_with(default_port) {
        return Err(refused("browsers leave out the usual port"));
    }
    HeaderValue::from_str(text).map_err(|_| refused("it cannot be sent in a header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_those_that_browsers_send() {
        for text in [
            "*",
            "https://app.example",
            "http://localhost:3000,https://b.example",
            "http://[::1]:8080, chrome-extension://abc",
        ] {
            assert!(Cors::parse(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://App.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://*.example",
            "https://user@app.example",
            "https://bücher.example",
            "https://a.example,",
            "*,https://a.example",
        ] {
            assert!(Cors::parse(text).is_err(), "{text}");
        }
    }
}
