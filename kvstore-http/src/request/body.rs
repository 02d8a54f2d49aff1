//! Reads the body of a request: bounded in bytes and in time, whatever its headers say.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN};

use crate::answer::error::{MERGE_PATCH, Problem, Result};

/// The whole body, in memory of its own: what is stored must not keep a connection's read buffer alive.
///
/// A body that announces more than `bytes_max` is refused before any of it is read (and before `100 Continue` is sent), one that
/// announces nothing as soon as it has sent more.
pub(crate) async fn read(mut body: Incoming, bytes_max: usize, timeout: Duration) -> Result<Bytes> {
    let announced = body.size_hint().lower();
    if announced > bytes_max as u64 {
        return Err(Problem::body_too_large(bytes_max));
    }
    let reading = async {
        // No more than is allowed, as was just seen.
        let mut read = Vec::with_capacity(announced as usize);
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|_| Problem::malformed("the body could not be read to its end"))?;
            // What is not data are trailers, which mean nothing here.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if read.len() + data.len() > bytes_max {
                return Err(Problem::body_too_large(bytes_max));
            }
            read.extend_from_slice(&data);
        }
        read.shrink_to_fit();
        Ok(Bytes::from(read))
    };
    tokio::time::timeout(timeout, reading)
        .await
        .unwrap_or_else(|_| Err(Problem::body_timeout()))
}

/// Refuses a body that says it is something else than plain JSON. One that says nothing is taken for JSON, unless a browser
/// sends it for a page: any page of any site may make a browser post a body without a type, or with some others, to any
/// address, this machine's included, without asking first
/// (<https://fetch.spec.whatwg.org/#cors-safelisted-request-header>).
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<()> {
    match is_of_type(headers, "application/json") {
        true => Ok(()),
        false => Err(Problem::unsupported_media_type()),
    }
}

/// The same for a patch, which may also say what it is.
pub(crate) fn check_patch_type(headers: &HeaderMap) -> Result<()> {
    match is_of_type(headers, MERGE_PATCH) || is_of_type(headers, "application/json") {
        true => Ok(()),
        false => Err(Problem::unsupported_patch()),
    }
}

fn is_of_type(headers: &HeaderMap, media_type: &str) -> bool {
    let is_encoded =
        |encoding: &HeaderValue| !encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().any(is_encoded) {
        return false;
    }
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return !headers.contains_key(ORIGIN);
    };
    let essence = content_type
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    essence.eq_ignore_ascii_case(media_type)
}
