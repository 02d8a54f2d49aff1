//! Other request headers: request ids, sync tokens, idempotency keys and trace contexts.

use std::sync::LazyLock;
use std::time::Duration;

use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST,
    HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use kvstore_core::model::id::JobId;

use crate::answer::error::{Problem, Result};
use crate::answer::reply::{SYNC_TOKEN, X_REQUEST_ID};
use crate::request::target::Query;

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Maximum length of an `X-Request-Id` from a client, in characters.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// Headers that most requests carry and that no function here looks up.
const USUAL: [HeaderName; 8] = [
    HOST,
    CONTENT_TYPE,
    CONTENT_LENGTH,
    USER_AGENT,
    ACCEPT,
    ACCEPT_ENCODING,
    CONNECTION,
    AUTHORIZATION,
];

/// Returns the headers in which to look up the rarer ones. If there are only usual headers, returns
/// an empty map, which makes each lookup free.
pub(crate) fn rare(headers: &HeaderMap) -> &HeaderMap {
    static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
    match headers.keys().all(|name| USUAL.contains(name)) {
        true => &NONE,
        false => headers,
    }
}

/// Returns the client's own request id if it is short and readable, and a new one otherwise.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_usable = |id: &&HeaderValue| {
        let text = id.as_bytes();
        (1..=REQUEST_ID_CHARS_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
    };
    headers
        .get(X_REQUEST_ID)
        .filter(is_usable)
        .cloned()
        .unwrap_or_else(new_request_id)
}

/// Generates an id of 16 hexadecimal digits.
fn new_request_id() -> HeaderValue {
    let number = fastrand::u64(..);
    let digit = |place: usize| b"0123456789abcdef"[(number >> (4 * place) & 15) as usize];
    let digits: [u8; 16] = std::array::from_fn(digit);
    HeaderValue::from_bytes(&digits).expect("digits are visible ASCII")
}

/// Maximum number of sync tokens of a read: the limit in `docs/http-api.md` §5.
pub(crate) const SYNC_TOKENS_MAX: usize = 16;

/// Returns the writes that a read must show, from all lines of `Sync-Token` and from each
/// `?after=`. Each of these may hold several, separated by commas.
pub(crate) fn sync_tokens(headers: &HeaderMap, query: Query<'_>) -> Result<Vec<JobId>> {
    let mut tokens = Vec::new();
    for line in headers.get_all(SYNC_TOKEN) {
        let before = tokens.len();
        parse_tokens(line.to_str().unwrap_or("not visible"), &mut tokens)?;
        if tokens.len() == before {
            return Err(Problem::malformed("Sync-Token must not be empty"));
        }
    }
    for parameter in query.all("after") {
        parse_tokens(&parameter?, &mut tokens)?;
    }
    if tokens.len() > SYNC_TOKENS_MAX {
        return Err(Problem::malformed(format!(
            "a read takes at most {SYNC_TOKENS_MAX} sync tokens, and these are {}",
            tokens.len()
        )));
    }
    Ok(tokens)
}

fn parse_tokens(text: &str, tokens: &mut Vec<JobId>) -> Result<()> {
    for token in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        tokens.push(token.parse().map_err(|_| {
            Problem::malformed("the sync token is not one that this service hands out")
        })?);
    }
    Ok(())
}

/// Maximum length of an idempotency key, in characters: the limit in `docs/http-api.md` §6.
const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;

/// An idempotency key, with the time for which it must be remembered if that is shorter than usual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdempotencyKey {
    pub(crate) text: String,
    pub(crate) window: Option<Duration>,
}

/// Returns the idempotency key of a write: a structured field string (`"…"`, RFC 9651 §3.3.3) with
/// an optional parameter `;window=SECONDS`, or the same text without quotes and parameter.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>> {
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    line.to_str()
        .ok()
        .filter(|_| lines.next().is_none())
        .and_then(structured_string)
        .filter(|key| (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.text.len()))
        .filter(|key| {
            let mut bytes = key.text.bytes();
            bytes.all(|byte| byte == b' ' || byte.is_ascii_graphic())
        })
        .map(Some)
        .ok_or_else(|| {
            Problem::malformed(
                "Idempotency-Key must be one string of 1 to 255 visible ASCII characters; \
                 in quotes it can have ;window=SECONDS behind it",
            )
        })
}

fn structured_string(text: &str) -> Option<IdempotencyKey> {
    let text = text.trim();
    let Some(quoted) = text.strip_prefix('"') else {
        let text = text.to_owned();
        return Some(IdempotencyKey { text, window: None });
    };
    let mut characters = quoted.chars();
    let mut string = String::with_capacity(quoted.len());
    loop {
        match characters.next()? {
            '\\' => string.push(
                characters
                    .next()
                    .filter(|escaped| matches!(escaped, '"' | '\\'))?,
            ),
            '"' => break,
            plain => string.push(plain),
        }
    }
    let window = match characters.as_str().trim_start() {
        "" => None,
        parameter => Some(window(parameter)?),
    };
    Some(IdempotencyKey {
        text: string,
        window,
    })
}

/// Parses `;window=SECONDS`.
fn window(parameter: &str) -> Option<Duration> {
    let digits = parameter
        .strip_prefix(';')?
        .trim_start()
        .strip_prefix("window=")?;
    let seconds: u64 = digits.parse().ok().filter(|seconds| *seconds > 0)?;
    // `parse` also accepts a sign.
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| Duration::from_secs(seconds))
}

/// Maximum length of a `traceparent` that is passed on. Version 00 has 55 characters; later
/// versions may append more.
const TRACEPARENT_CHARS_MAX: usize = 128;

/// Returns the W3C `traceparent` if it is plausible: the worker logs it unchanged.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    let is_plausible = (55..=TRACEPARENT_CHARS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_plausible.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn idempotency_keys_are_strings_with_or_without_quotes() {
        let read = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            idempotency_key(&HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)]))
                .ok()
                .flatten()
                .map(|key| key.text)
        };
        for (text, key) in [
            ("abc", Some("abc")),
            ("\"abc\"", Some("abc")),
            (r#""a\"b\\c""#, Some(r#"a"b\c"#)),
            ("\"\"", None),
            ("\"a", None),
            ("a b", Some("a b")),
            ("a\tb", None),
            ("\"a\"b\"", None),
            (r#""a\b""#, None),
        ] {
            assert_eq!(read(text).as_deref(), key, "{text}");
        }
        for (text, seconds) in [
            ("\"a\";window=60", Some(60)),
            ("\"a\" ; window=1", Some(1)),
            ("\"a\"", None),
            ("a;window=60", None),
        ] {
            let value = HeaderValue::from_str(text).unwrap();
            let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)]);
            let key = idempotency_key(&headers).unwrap().unwrap();
            assert_eq!(key.window, seconds.map(Duration::from_secs), "{text}");
        }
        for text in [
            "\"a\";window=0",
            "\"a\";window=+1",
            "\"a\";window=",
            "\"a\";ttl=60",
            "\"a\"window=60",
            "\"a\";window=60;x=1",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read(&"k".repeat(255)), Some("k".repeat(255)));
        assert_eq!(read(&"k".repeat(256)), None);
        assert_eq!(read("é"), None);
        assert!(
            idempotency_key(&headers(&[(IDEMPOTENCY_KEY, "a"), (IDEMPOTENCY_KEY, "b")])).is_err()
        );
    }

    #[test]
    fn a_trace_context_is_passed_on_only_if_it_is_plausible() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (text, is_plausible) in [
            (trace.to_owned(), true),
            // A later version may append more, up to a limit.
            (format!("{trace}{}", "-0".repeat(36)), true),
            (format!("{trace}{}", "-0".repeat(37)), false),
            (trace[1..].to_owned(), false),
            ("00-01".to_owned(), false),
            (trace.replace('7', " "), false),
            (trace.replace('7', "g"), false),
        ] {
            let value = HeaderValue::from_str(&text).unwrap();
            let headers = HeaderMap::from_iter([(TRACEPARENT, value)]);
            let kept = is_plausible.then_some(text);
            assert_eq!(traceparent(&headers), kept);
        }
    }
}
