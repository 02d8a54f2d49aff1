//! Which web pages of other origins may use the service in a browser (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! A browser asks before it sends what could change something, and shows a page an answer only if that answer allows its origin.
//! So nothing here protects against programs other than browsers: tokens do.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use crate::answer::reply::{Body, Reply};

/// The origins whose pages may use the service; none unless they are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors(Vec<HeaderValue>);

/// What a page may send besides what every page may.
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, prefer, sync-token, traceparent, \
     x-request-id",
);

/// What a page may see of an answer besides what every page may.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "allow, etag, idempotency-replayed, location, preference-applied, retry-after, sync-token, www-authenticate, x-request-id, x-ttl",
);

/// How long a browser need not ask again, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

const ANY: HeaderValue = HeaderValue::from_static("*");

impl Cors {
    /// Reads origins with commas between them, or `*` for any.
    ///
    /// # Errors
    /// What is wrong with the first that no browser would send.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(vec![ANY]));
        }
        text.split(',')
            .map(|origin| parse_origin(origin.trim()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// What the answer to a page of the request's origin says.
    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        if self.0.contains(&ANY) {
            return Some(ANY);
        }
        self.0.iter().find(|allowed| *allowed == origin).cloned()
    }

    /// The answer to a browser that asks first, on a route that has the methods `allow`.
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

    /// Says in an answer to `request` whose pages may see it.
    pub(crate) fn mark(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        // Also where none may: a cache must not give that answer to a page that may.
        answer.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.allowed(request) {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        }
    }
}

/// An origin as browsers send it: compared as text, so what they would write otherwise is refused rather than never met.
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
