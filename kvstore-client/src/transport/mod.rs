//! Sends requests: reuse of connections, tokens, timeouts, and the one rule for retries.
//!
//! What is not here: the meaning of requests and answers.

mod connection;
#[cfg(feature = "tls")]
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    USER_AGENT,
};
use hyper::{Method, Request, Response, StatusCode};
use kvstore_core::error::Subject;
use kvstore_core::{Error, Result};
use tokio::time::{Instant, sleep, timeout};

pub(crate) use self::connection::Connection;
use self::connection::{Connector, Idle};
use crate::client::Options;
use crate::error::{ProblemReply, source};
use crate::url::ServerUrl;

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(crate) const SYNC_TOKEN: HeaderName = HeaderName::from_static("sync-token");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The first pause before a retry, doubled each time up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest pause that the client chooses by itself; a server may ask for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The clock difference allowed for between client and server while a write is retried.
const RETRY_MARGIN: Duration = Duration::from_secs(10);

/// A request that may be sent several times.
#[derive(Clone, Debug)]
pub(crate) struct ApiCall {
    pub(crate) method: Method,
    /// Path and query, starting with `/v1`.
    pub(crate) target: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    /// The subject of an answer that rejects the request.
    pub(crate) subject: Subject,
    /// How long the server may take in addition to the usual time.
    pub(crate) wait: Duration,
    pub(crate) effect: RepeatEffect,
}

/// The effect of sending a request twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepeatEffect {
    /// None: it changes nothing.
    None,
    /// None: the second is the same job, or finds nothing left to do.
    Once,
    /// The second is another job.
    EachTime,
}

impl ApiCall {
    pub(crate) fn read(method: Method, target: String, subject: Subject) -> Self {
        Self {
            method,
            target,
            headers: Vec::new(),
            body: Bytes::new(),
            subject,
            wait: Duration::ZERO,
            effect: RepeatEffect::None,
        }
    }

    pub(crate) fn get(target: String, subject: Subject) -> Self {
        Self::read(Method::GET, target, subject)
    }

    /// Adds a header. Returns `None` if `value` has a character that no header allows.
    pub(crate) fn header(&mut self, name: HeaderName, value: &str) -> Option<()> {
        let value = HeaderValue::from_str(value).ok()?;
        self.headers.push((name, value));
        Some(())
    }

    pub(crate) fn json(&mut self, media_type: &'static str, body: impl Into<Bytes>) {
        self.body = body.into();
        let media_type = HeaderValue::from_static(media_type);
        self.headers.push((CONTENT_TYPE, media_type));
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct ApiReply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why a try gave no result.
struct FailedTry {
    error: Error,
    /// True if the request may have taken effect all the same.
    is_unknown: bool,
    /// The minimum pause before the next try.
    pause: Duration,
}

impl FailedTry {
    fn not_sent(error: Error) -> Self {
        Self {
            error,
            is_unknown: false,
            pause: Duration::ZERO,
        }
    }

    fn unanswered(error: Error) -> Self {
        Self {
            is_unknown: true,
            ..Self::not_sent(error)
        }
    }
}

/// A server and the connections to it.
#[derive(Debug)]
pub(crate) struct Transport {
    url: ServerUrl,
    pub(crate) options: Options,
    connector: Connector,
    idle: Idle,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Transport {
    pub(crate) fn new(url: &ServerUrl, options: Options) -> Result<Self> {
        let unusable = |what: &str| {
            Error::Config(format!(
                "{what} contains a character that is not allowed in a header"
            ))
        };
        let authorization = match &options.token {
            None => None,
            Some(token) => {
                let value = HeaderValue::from_str(&format!("Bearer {token}"));
                let mut value = value.map_err(|_| unusable("the token"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            connector: Connector::new(url, &options)?,
            host: HeaderValue::from_str(&url.authority()).map_err(|_| unusable("the host"))?,
            idle: Idle::default(),
            authorization,
            url: url.clone(),
            options,
        })
    }

    /// Returns how long after acceptance a write may still be sent again: its own wait, the time
    /// for retries, and the duration of the last try.
    pub(crate) fn retry_window(&self, wait: Duration) -> Duration {
        let Options {
            connect_timeout,
            request_timeout,
            retry_for,
            ..
        } = &self.options;
        2 * wait + *retry_for + *connect_timeout + *request_timeout + RETRY_MARGIN
    }

    pub(crate) fn close_idle(&self) {
        self.idle.clear();
    }

    /// Sends `call` until there is a verdict: an answer that would not change if it were sent
    /// again.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no try reached a verdict and none had an effect;
    /// [`Error::Unknown`] if one may have had its effect.
    pub(crate) async fn send(&self, call: &ApiCall) -> Result<ApiReply> {
        let mut end = Instant::now() + self.options.retry_for;
        let mut backoff = RetryBackoff::default();
        let mut may_have_happened = false;
        loop {
            let begun = Instant::now();
            let failure = match self.attempt(call).await {
                Ok(reply) => match postponed(call, &reply) {
                    None => return Ok(reply),
                    Some(failure) => failure,
                },
                Err(failure) => failure,
            };
            if failure.is_unknown {
                // The wait that was asked of the server does not count against the time for
                // retries.
                end += begun.elapsed().min(call.wait);
            }
            may_have_happened |= failure.is_unknown && call.effect != RepeatEffect::None;
            let may_repeat = !(failure.is_unknown && call.effect == RepeatEffect::EachTime);
            let pause = backoff.next(failure.pause);
            if !may_repeat || Instant::now() + pause >= end {
                return Err(match may_have_happened {
                    true => unknown(failure.error),
                    false => failure.error,
                });
            }
            sleep(pause).await;
        }
    }

    /// Sends `call` once and reads the answer.
    async fn attempt(&self, call: &ApiCall) -> Result<ApiReply, FailedTry> {
        let limit = self.options.request_timeout + call.wait;
        let (response, connection) = self.open(call, limit).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, self.options.answer_bytes_max).collect();
        let body = match timeout(limit, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => {
                let what = "the answer broke off, or is larger than answer_bytes_max";
                return Err(FailedTry::unanswered(self.unavailable(what, error)));
            }
            Err(_) => return Err(FailedTry::unanswered(self.timed_out(limit))),
        };
        self.idle.put(connection);
        Ok(ApiReply {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// Sends `call` once and returns the head of the answer. Its body arrives while the connection
    /// is kept.
    async fn open(
        &self,
        call: &ApiCall,
        limit: Duration,
    ) -> Result<(Response<Incoming>, Connection), FailedTry> {
        let mut request = self.request(call);
        loop {
            let (mut connection, is_new) = match self.idle.take() {
                Some(connection) => (connection, false),
                None => (self.connect().await.map_err(FailedTry::not_sent)?, true),
            };
            match timeout(limit, connection.try_send_request(request)).await {
                Ok(Ok(response)) => return Ok((response, connection)),
                Ok(Err(mut error)) => match error.take_message() {
                    // It was closed while idle, and nothing was sent.
                    Some(unsent) if !is_new => request = unsent,
                    unsent => {
                        let error = self.unavailable("the connection broke", error.into_error());
                        return Err(match unsent {
                            Some(_) => FailedTry::not_sent(error),
                            None => FailedTry::unanswered(error),
                        });
                    }
                },
                Err(_) => return Err(FailedTry::unanswered(self.timed_out(limit))),
            }
        }
    }

    /// Sends a read once on a connection of its own, and returns the answer as it arrives.
    ///
    /// # Errors
    /// With true for transient ones: the same call may succeed later.
    pub(crate) async fn stream(
        &self,
        call: &ApiCall,
    ) -> Result<(Response<Incoming>, Connection), (Error, bool)> {
        let limit = self.options.request_timeout;
        let opened = self.open(call, limit).await;
        let (response, connection) = opened.map_err(|failure| (failure.error, true))?;
        if response.status() == StatusCode::OK {
            return Ok((response, connection));
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, self.options.answer_bytes_max).collect();
        let body = match timeout(limit, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            _ => Bytes::new(),
        };
        let reply = ApiReply {
            status: head.status,
            headers: head.headers,
            body,
        };
        let passes = postponed(call, &reply).is_some();
        Err((ProblemReply::of(&reply).into_error(call), passes))
    }

    async fn connect(&self) -> Result<Connection> {
        let limit = self.options.connect_timeout;
        match timeout(limit, self.connector.connect()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(Error::Unavailable {
                what: format!("{} cannot be reached", self.url),
                source: source(error),
            }),
            Err(_) => Err(Error::Unavailable {
                what: format!("{} cannot be reached within {limit:?}", self.url),
                source: None,
            }),
        }
    }

    fn request(&self, call: &ApiCall) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        let target = format!("{}{}", self.url.path, call.target);
        *request.uri_mut() = target.parse().expect("a path with its escapes is a URI");
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, AGENT);
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        for (name, value) in &call.headers {
            headers.append(name, value.clone());
        }
        request
    }

    fn unavailable(
        &self,
        what: &str,
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::Unavailable {
            what: format!("{} did not answer: {what}", self.url),
            source: source(error),
        }
    }

    fn timed_out(&self, limit: Duration) -> Error {
        Error::Unavailable {
            what: format!("{} did not answer within {limit:?}", self.url),
            source: None,
        }
    }
}

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("kvstore-client/", env!("CARGO_PKG_VERSION")));

/// Returns why `reply` is no verdict, if it is none.
///
/// A 503 from the server itself means that nothing was done; from a proxy it leaves that open, as
/// do a 504 and other errors of a proxy. A full disk is left to the caller.
fn postponed(call: &ApiCall, reply: &ApiReply) -> Option<FailedTry> {
    let problem = ProblemReply::of(reply);
    let is_unknown = match reply.status {
        StatusCode::SERVICE_UNAVAILABLE if problem.is("not-yet-visible") => return None,
        StatusCode::SERVICE_UNAVAILABLE => !problem.is_own(),
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => true,
        _ => return None,
    };
    let seconds = reply.headers.get(RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
    Some(FailedTry {
        error: problem.into_error(call),
        is_unknown,
        pause: Duration::from_secs(seconds.unwrap_or(0)),
    })
}

fn unknown(error: Error) -> Error {
    match error {
        Error::Unknown { .. } => error,
        error => Error::Unknown {
            what: "the write takes effect".to_owned(),
            source: Some(Arc::new(error)),
        },
    }
}

/// Pauses that double, each shortened at random, so that clients do not return together.
#[derive(Debug)]
pub(crate) struct RetryBackoff {
    pause: Duration,
}

impl Default for RetryBackoff {
    fn default() -> Self {
        Self { pause: PAUSE_MIN }
    }
}

impl RetryBackoff {
    /// Returns the next pause: `least`, plus a random part of the current one.
    pub(crate) fn next(&mut self, least: Duration) -> Duration {
        let pause = least + self.pause.mul_f64(fastrand::f64());
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        pause
    }
}
