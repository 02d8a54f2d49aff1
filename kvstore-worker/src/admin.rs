//! Answers the questions of a supervisor: is the process alive, is it ready for work, and what are
//! its metrics?
//!
//! [`Health`] decides the answers and needs no socket, so a server can include them in its own
//! routes; [`serve`] is the small listener for a port of their own.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use kvstore_core::error::in_one_line;
use kvstore_core::open::Followed;
use kvstore_core::{JobQueue, Store};

use crate::Metrics;
use crate::figures::{self, Figures, ProcessMetrics};

/// The maximum number of connections: supervisors open one per probe and close it. One more closes
/// the oldest, so connections that stay open cannot keep a probe from its answer.
const CONNECTIONS_MAX: usize = 16;

/// How long a client may take to send the head of a request, and how long it may stay idle between
/// two.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long store and queue may take to answer before they count as down. Shorter than the timeouts
/// of common supervisors.
const PING_TIMEOUT: Duration = Duration::from_millis(800);

/// How long to wait after a failed accept: it fails when file descriptors run out, and retrying at
/// once would not free any.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The paths that [`Health::respond`] answers.
pub const PATHS: [&str; 3] = ["/livez", "/readyz", METRICS];

/// The path of the metrics, one of [`PATHS`].
pub const METRICS: &str = "/metrics";

/// The state of a process that has not opened its backends yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Start {
    /// It is opening them.
    #[default]
    Reading,
    /// It cannot reach them.
    Waiting,
    /// Another process holds the store, and this one takes over when it ends.
    StandingBy,
}

/// The health of a process. Cheap to clone; all clones share the state.
#[derive(Clone, Debug)]
pub struct Health {
    backends: Arc<OnceLock<Followed>>,
    start: Arc<Mutex<Start>>,
    draining: Arc<AtomicBool>,
    metrics: Arc<ProcessMetrics>,
    /// The metrics of the worker, in a process that is only a worker.
    worker: Arc<OnceLock<Metrics>>,
}

impl Health {
    /// Creates the health of a process that uses `store` and `queue`.
    pub fn new(store: Arc<dyn Store>, queue: Arc<dyn JobQueue>) -> Self {
        let health = Self::starting();
        health.opened(store, queue);
        health
    }

    /// Creates the health of a process that has neither yet: it is not ready until
    /// [`Health::opened`] or [`Health::stand_by`].
    pub fn starting() -> Self {
        Self {
            backends: Arc::default(),
            start: Arc::default(),
            draining: Arc::default(),
            metrics: Arc::new(ProcessMetrics::new()),
            worker: Arc::default(),
        }
    }

    /// Sets the store and queue to report on, unless they are set already.
    pub fn opened(&self, store: Arc<dyn Store>, queue: Arc<dyn JobQueue>) {
        let is_follower = store.lag().is_some();
        // The first backends are kept.
        if self.backends.set(Followed { store, queue }).is_ok() && is_follower {
            self.metrics.follow();
        }
    }

    /// Reports the process as standing by for another one, until [`Health::opened`]. That is all it
    /// has to do, so it is ready: a supervisor that replaces one process by another waits for the
    /// new one to be ready before it stops the old one.
    pub fn stand_by(&self) {
        *self.lock_start() = Start::StandingBy;
    }

    /// Reports that the process waits for its backends to be reachable, until [`Health::opened`].
    pub fn wait(&self) {
        *self.lock_start() = Start::Waiting;
    }

    fn lock_start(&self) -> MutexGuard<'_, Start> {
        self.start.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state of the start; `None` after [`Health::opened`].
    fn start(&self) -> Option<Start> {
        self.backends.get().is_none().then(|| *self.lock_start())
    }

    /// Registers further metrics, to be included in `/metrics` from now on.
    pub fn register<T>(&self, metrics: impl FnOnce(&mut Registry) -> T) -> T {
        self.metrics.register(metrics)
    }

    /// Reports the process as ready only while a partition of the worker that counts in `metrics`
    /// has not stopped: for a process that does nothing else.
    pub fn follow(&self, metrics: Metrics) {
        // The first one stays.
        let _ = self.worker.set(metrics);
    }

    /// Reports the process as not ready from now on: it finishes its work and ends.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns true after [`Health::drain`].
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Returns the answer to a request for `/livez`, `/readyz` or `/metrics`; `None` for any other
    /// path.
    ///
    /// The process is alive if it can answer at all, so that a database that is down does not get
    /// it restarted. It is ready if store and queue answer and it is not draining. The log, not the
    /// answer, says what is wrong.
    pub async fn respond(&self, method: &Method, path: &str) -> Option<Response<Bytes>> {
        if !PATHS.contains(&path) {
            return None;
        }
        if method != Method::GET && method != Method::HEAD {
            let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(response);
        }
        Some(if path == "/livez" {
            answer(StatusCode::OK, "alive")
        } else if path == METRICS {
            self.metrics().await
        } else if self.is_draining() {
            answer(StatusCode::SERVICE_UNAVAILABLE, "draining")
        } else if let Some(start) = self.start() {
            match start {
                Start::Reading => answer(StatusCode::SERVICE_UNAVAILABLE, "starting"),
                Start::Waiting => {
                    let word = "starting: the store or its queue cannot be reached yet";
                    answer(StatusCode::SERVICE_UNAVAILABLE, word)
                }
                Start::StandingBy => answer(StatusCode::OK, "standing by"),
            }
        } else if self.worker.get().is_some_and(Metrics::is_stopped) {
            answer(StatusCode::SERVICE_UNAVAILABLE, "stopped")
        } else if self.backends_answer().await {
            answer(StatusCode::OK, "ready")
        } else {
            answer(StatusCode::SERVICE_UNAVAILABLE, "unavailable")
        })
    }

    async fn metrics(&self) -> Response<Bytes> {
        let figures = match self.backends.get() {
            None => Figures {
                is_up: self.start() == Some(Start::StandingBy),
                ..Figures::default()
            },
            Some(Followed { store, queue }) => {
                let depth = timeout(PING_TIMEOUT, queue.depth());
                let (is_up, depth) = join(self.backends_answer(), depth).await;
                Figures {
                    is_up,
                    lag: store.lag(),
                    depth: depth.ok().and_then(Result::ok),
                }
            }
        };
        let mut response = Response::new(Bytes::from(self.metrics.text(figures)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(figures::MEDIA_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    async fn backends_answer(&self) -> bool {
        let Some(Followed { store, queue }) = self.backends.get() else {
            return false;
        };
        let pings = async {
            store.ping().await?;
            queue.ping().await
        };
        match timeout(PING_TIMEOUT, pings).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(error = %in_one_line(&error), "not ready");
                false
            }
            Err(_) => {
                tracing::warn!("not ready: store and queue do not answer in time");
                false
            }
        }
    }
}

/// Answers `GET` of [`PATHS`] on `listener`, until the future is dropped.
pub async fn serve(listener: TcpListener, health: Health) {
    let mut connections = tokio::task::JoinSet::new();
    let mut by_age = VecDeque::new();
    loop {
        while connections.try_join_next().is_some() {}
        by_age.retain(|connection: &AbortHandle| !connection.is_finished());
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for probes");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if by_age.len() >= CONNECTIONS_MAX
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        let health = health.clone();
        by_age.push_back(connections.spawn(async move {
            let service = service_fn(|request: Request<hyper::body::Incoming>| {
                let health = health.clone();
                async move {
                    let found = health.respond(request.method(), request.uri().path()).await;
                    let found = found.unwrap_or_else(|| answer(StatusCode::NOT_FOUND, "not found"));
                    Ok::<_, Infallible>(found.map(Full::new))
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection for probes ended");
            }
        }));
    }
}

fn answer(status: StatusCode, word: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{{\"status\":\"{word}\"}}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
