//! Reads request bodies, with limits on their size and duration that hold whatever the headers say.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use serde::Deserialize;
use serde::de::Error as _;

use crate::answer::error::{MERGE_PATCH, Problem, Result};
use crate::server::in_flight::{InFlight, UNCOUNTED_BYTES};
use crate::server::timer::ConnectionTimer;

/// Reads the whole body into memory of its own, so that a stored value does not keep a connection's
/// read buffer alive.
///
/// A body that announces more than `bytes_max` is refused before any of it is read (and before `100
/// Continue` is sent). Any other body is refused as soon as it exceeds the limit.
pub(crate) async fn read(
    mut body: Incoming,
    bytes_max: usize,
    timeout: Duration,
    timer: &ConnectionTimer,
    in_flight: &InFlight,
) -> Result<Bytes> {
    let announced = body.size_hint().lower();
    if announced > bytes_max as u64 {
        return Err(Problem::body_too_large(bytes_max));
    }
    let announced = announced as usize;
    let reading = async {
        let mut hold = None;
        let mut held = UNCOUNTED_BYTES;
        if announced > held {
            hold = Some(in_flight.hold(announced).await.map_err(Problem::closing)?);
            held = announced;
        }
        // Bounded by `bytes_max`, as checked above.
        let mut read = Vec::with_capacity(announced);
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|_| Problem::malformed("the body could not be read to its end"))?;
            // Frames other than data are trailers, which are ignored.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if read.len() + data.len() > bytes_max {
                return Err(Problem::body_too_large(bytes_max));
            }
            if read.len() + data.len() > held {
                let more = held.max(data.len());
                let room = in_flight.hold(more).await.map_err(Problem::closing)?;
                match &mut hold {
                    Some(hold) => hold.add(room),
                    None => hold = Some(room),
                }
                held += more;
            }
            read.extend_from_slice(&data);
        }
        read.shrink_to_fit();
        let read = Bytes::from(read);
        Ok(match hold {
            Some(hold) => hold.carried(read),
            None => read,
        })
    };
    timer
        .within(timeout, reading)
        .await
        .unwrap_or_else(|| Err(Problem::body_timeout()))
}

/// Parses a JSON object. A derived struct alone would also take an array of its members.
///
/// # Errors
/// If it is not an object, or not this one.
pub(crate) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    match json.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(json),
        _ => Err(serde_json::Error::custom("it must be an object")),
    }
}

/// Refuses a body of a type other than JSON. A missing type, or a default one of common programs
/// (`curl -d` a form, `fetch` of a string text), counts as JSON, unless the request comes from a
/// browser: a page of any site can make a browser post such a body to any address, including this
/// machine's, without a preflight request
/// (<https://fetch.spec.whatwg.org/#cors-safelisted-request-header>).
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<()> {
    check_type(headers, &["application/json"])
}

/// Refuses a patch of a type other than JSON or JSON merge patch, like [`check_content_type`].
pub(crate) fn check_patch_type(headers: &HeaderMap) -> Result<()> {
    check_type(headers, &[MERGE_PATCH, "application/json"]).map_err(Problem::patchable)
}

/// Types that programs send by default, whatever the body is.
const DEFAULTS: [&str; 2] = ["application/x-www-form-urlencoded", "text/plain"];

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses a body of a type outside `taken`; the first of these is the one that the error suggests.
fn check_type(headers: &HeaderMap, taken: &[&str]) -> Result<()> {
    let is_encoded =
        |encoding: &&HeaderValue| !encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    if let Some(encoding) = headers.get_all(CONTENT_ENCODING).iter().find(is_encoded) {
        return Err(Problem::encoded_body(encoding));
    }
    let content_type = headers.get(CONTENT_TYPE);
    if content_type.is_some_and(|it| it == taken[taken.len() - 1]) {
        return Ok(());
    }
    let is_of_browser = headers.contains_key(ORIGIN) || headers.contains_key(SEC_FETCH_SITE);
    let text = content_type.map(|it| it.to_str().unwrap_or_default());
    let is_one_of = |types: &[&str]| {
        let essence = text.and_then(|text| text.split(';').next()).map(str::trim);
        let is = |known: &&str| essence.is_some_and(|essence| essence.eq_ignore_ascii_case(known));
        types.iter().any(is)
    };
    let is_default = text.is_none() || is_one_of(&DEFAULTS);
    if is_one_of(taken) || (is_default && !is_of_browser) {
        return Ok(());
    }
    Err(Problem::unsupported_media_type(text, taken[0]))
}
