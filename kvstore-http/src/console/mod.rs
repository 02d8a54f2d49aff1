//! The console: a page at `/` for browsing and editing data, and for watching changes and jobs.
//!
//! It consists of the files in this folder, unchanged. They call the API like any other client,
//! with the token that the visitor enters, so nothing here knows stores or queues.

use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue,
};
use hyper::{Response, StatusCode};

use crate::answer::reply::{Body, NO_CACHE, Reply};

/// The files of the page, with their types.
pub(crate) const FILES: [(&str, &str, &[u8]); 10] = [
    ("style.css", CSS, include_bytes!("style.css")),
    ("icon.svg", SVG, include_bytes!("icon.svg")),
    ("main.js", JAVASCRIPT, include_bytes!("main.js")),
    ("api.js", JAVASCRIPT, include_bytes!("api.js")),
    ("json.js", JAVASCRIPT, include_bytes!("json.js")),
    ("dom.js", JAVASCRIPT, include_bytes!("dom.js")),
    ("tree.js", JAVASCRIPT, include_bytes!("tree.js")),
    ("entry.js", JAVASCRIPT, include_bytes!("entry.js")),
    ("changes.js", JAVASCRIPT, include_bytes!("changes.js")),
    ("jobs.js", JAVASCRIPT, include_bytes!("jobs.js")),
];

const PAGE: &[u8] = include_bytes!("index.html");

const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// All resources come from this server, scripts and styles are separate files, and stored values
/// are never parsed as markup.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'",
);

/// Returns the page.
pub(crate) fn page() -> Reply {
    let mut reply = reply_of(HTML, PAGE);
    reply.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    reply
}

/// Returns one of [`FILES`], or `None` if `name` is not among them.
pub(crate) fn file(name: &str) -> Option<Reply> {
    let mut files = FILES.iter();
    let (_, media_type, bytes) = files.find(|(known, ..)| *known == name)?;
    Some(reply_of(media_type, bytes))
}

fn reply_of(media_type: &'static str, bytes: &'static [u8]) -> Reply {
    let mut reply = Response::new(Body::whole(bytes));
    *reply.status_mut() = StatusCode::OK;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, NO_CACHE);
    reply
}

/// Returns true if the client prefers HTML to JSON (RFC 9110 §12.5.1), as browsers do. A client
/// without a preference gets JSON.
pub(crate) fn prefers_html(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT).iter();
    let ranges: Vec<(&str, u16)> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(range)
        .collect();
    quality(&ranges, "text/html") > quality(&ranges, "application/json")
}

/// Parses a media range and its weight in thousandths.
fn range(text: &str) -> (&str, u16) {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
    let weight = weight.map_or(Some(1.0), |weight| weight.parse::<f32>().ok());
    // An invalid weight counts as 0.
    let weight = weight.unwrap_or(0.0).clamp(0.0, 1.0);
    (name, (weight * 1000.0) as u16)
}

/// Returns the weight of `media_type`, that of the most specific matching range.
fn quality(ranges: &[(&str, u16)], media_type: &str) -> u16 {
    let (kind, _) = media_type
        .split_once('/')
        .expect("a media type has a slash");
    let any_of_kind = format!("{kind}/*");
    [media_type, &any_of_kind, "*/*"]
        .iter()
        .find_map(|wanted| {
            let mut ranges = ranges.iter();
            ranges.find(|(name, _)| name.eq_ignore_ascii_case(wanted))
        })
        .map_or(0, |(_, weight)| *weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_for_those_who_prefer_html() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, expected) in [
            (browser, true),
            ("text/html", true),
            ("TEXT/HTML; q=0.5", true),
            ("text/*", true),
            ("text/html;q=0.4, application/json;q=0.5", false),
            ("text/html, application/json", false),
            ("text/html;q=0, */*", false),
            ("text/html;q=x", false),
            ("application/json", false),
            ("*/*", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(prefers_html(&headers), expected, "{accept}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }
}
