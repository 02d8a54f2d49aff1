//! The client's preferences for the answer: the header `Prefer` (RFC 7240).

use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::answer::reply::PREFERENCE_APPLIED;

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The client's preferences. Unknown and malformed ones are ignored, as RFC 7240 requires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    /// `wait=N`.
    pub(crate) wait: Option<Duration>,
    /// `respond-async`.
    pub(crate) respond_async: bool,
    /// `return=representation`.
    pub(crate) representation: bool,
}

impl Prefer {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut prefer = Self::default();
        let lines = headers.get_all(PREFER).iter();
        for preference in lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| split_outside_quotes(line, b','))
        {
            // Parameters follow a semicolon, and no preference used here has any.
            let mut parts = split_outside_quotes(preference, b';');
            let preference = parts.next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let (name, value) = (name.trim(), unquoted(value.trim()));
            if name.eq_ignore_ascii_case("respond-async") {
                prefer.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") {
                // The first one applies (RFC 7240 §2).
                prefer.wait = prefer.wait.or_else(|| whole_seconds(value));
            } else if name.eq_ignore_ascii_case("return")
                && value.eq_ignore_ascii_case("representation")
            {
                prefer.representation = true;
            }
        }
        prefer
    }

    /// Returns how long to wait for a write: the preferred time, limited to `max`, or else
    /// `default`.
    ///
    /// `respond-async, wait=10` means: answer asynchronously if it takes longer than ten seconds
    /// (RFC 7240 §4.3).
    pub(crate) fn wait(self, default: Duration, max: Duration) -> Duration {
        match self.wait {
            Some(wait) => wait.min(max),
            None if self.respond_async => Duration::ZERO,
            None => default,
        }
    }
}

impl Prefer {
    /// Adds the header that names the applied preference to an answer.
    pub(crate) fn mark(self, headers: &mut HeaderMap) {
        let heeded = match self {
            Self { wait: Some(_), .. } => "wait",
            Self {
                respond_async: true,
                ..
            } => "respond-async",
            _ => return,
        };
        headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static(heeded));
    }
}

/// Splits at each `separator` that is not within a quoted string (RFC 9110 §5.6.4).
fn split_outside_quotes(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut is_quoted, mut is_escaped) = (false, false);
        let end = text.bytes().position(|byte| {
            let was_escaped = std::mem::take(&mut is_escaped);
            match byte {
                b'\\' => is_escaped = is_quoted && !was_escaped,
                b'"' if !was_escaped => is_quoted = !is_quoted,
                _ => {}
            }
            byte == separator && !is_quoted
        });
        rest = end.map(|end| &text[end + 1..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text)
}

/// Parses a number of seconds, in digits only. A number that overflows counts as the largest one,
/// since the caller has a limit anyway.
pub(crate) fn whole_seconds(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn preferences_are_read_and_unknown_ones_ignored() {
        let read = |lines: &[&'static str]| {
            let line = |text: &&'static str| (PREFER, HeaderValue::from_static(text));
            Prefer::of(&lines.iter().map(line).collect())
        };
        let seconds = |wait| Some(Duration::from_secs(wait));
        assert_eq!(read(&[]), Prefer::default());
        assert_eq!(read(&["wait=5"]).wait, seconds(5));
        assert_eq!(read(&["WAIT = \"5\"; foo=1"]).wait, seconds(5));
        assert_eq!(read(&["wait=5, wait=6"]).wait, seconds(5));
        assert_eq!(
            read(&["wait=99999999999999999999999"]).wait,
            seconds(u64::MAX)
        );
        for ignored in [
            "wait",
            "wait=",
            "wait=-1",
            "wait=+1",
            "wait=1.5",
            "wait=x",
            "waits=5",
            "foo=\"a, wait=5\"",
            "foo=\"a, wait=5, b\"",
            r#"foo="a\", wait=5, b""#,
            "foo=\"a, wait=5, b",
        ] {
            assert_eq!(read(&[ignored]).wait, None, "{ignored}");
        }
        assert_eq!(read(&[r#"foo="\\", wait=5"#]).wait, seconds(5));
        assert!(!read(&["foo=\"a, respond-async, b\""]).respond_async);
        let both = read(&["handling=lenient, Respond-Async", "return=representation"]);
        assert!(both.respond_async && both.representation);
        assert!(!read(&["return=minimal"]).representation);
    }

    #[test]
    fn wait_is_what_is_preferred_within_bounds() {
        let (default, max) = (Duration::from_secs(5), Duration::from_secs(60));
        let prefer = |wait: Option<u64>, respond_async| Prefer {
            wait: wait.map(Duration::from_secs),
            respond_async,
            ..Prefer::default()
        };
        for (prefer, seconds) in [
            (prefer(None, false), 5),
            (prefer(None, true), 0),
            (prefer(Some(10), false), 10),
            (prefer(Some(10), true), 10),
            (prefer(Some(0), false), 0),
            (prefer(Some(u64::MAX), false), 60),
        ] {
            assert_eq!(
                prefer.wait(default, max),
                Duration::from_secs(seconds),
                "{prefer:?}"
            );
        }
    }
}
