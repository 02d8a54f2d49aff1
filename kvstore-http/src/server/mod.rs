//! The server: accepts connections up to their limit, serves HTTP/1.1 on each, and shuts down in
//! order.

mod backlog;
pub(crate) mod connection;
pub(crate) mod in_flight;
pub(crate) mod listen;
pub(crate) mod places;
pub(crate) mod timer;
pub(crate) mod tls;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kvstore_core::Service;
use kvstore_core::service::ServiceOptions;
use kvstore_worker::admin::Health;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::connection::{Guarded, Patience, Phase};
use self::listen::{Listeners, Stream};
use self::places::Places;
use crate::config::{HEADERS_ON_STACK, Options};
use crate::routes::context::App;
use crate::routes::dispatch::handle;

/// Serves `service` on `listeners`, one or several, until `shutdown` completes. Then it shuts down
/// in order:
///
/// 1. For [`Options::drain_delay`], serves as before but reports itself not ready.
/// 2. Accepts and answers the connections in the backlog, and no others.
/// 3. Gives requests in progress [`Options::drain_timeout`] to finish, at most half of it for
///    waits, and drops the rest.
///
/// The server knows no worker: accepted writes wait in the queue until a worker, in this process or
/// another, applies them.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if the options contradict each other. Once it serves, no error
/// ends it: a failure on one connection affects that connection alone, and a process without free
/// descriptors waits for some.
pub async fn serve(
    listeners: impl Into<Listeners>,
    service: Service,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let health = Health::new(Arc::clone(service.store()), Arc::clone(service.queue()));
    let limits = service.options().clone();
    let opening = std::future::ready(io::Result::Ok((service, || ())));
    serve_when_open(listeners, opening, &limits, options, health, shutdown).await
}

/// Serves the service that `opening` returns, like [`serve`]. Until then, `health` answers probes,
/// and all other requests are answered 503. Calls the function that comes with the service as soon
/// as requests reach the service: a program that reported it earlier would still answer 503. The
/// process may also answer probes with `health` on another listener. `limits` are the options of the
/// service.
///
/// # Errors
/// Those of [`serve`] and of `opening`.
pub async fn serve_when_open<E: From<io::Error>, F: FnOnce()>(
    listeners: impl Into<Listeners>,
    opening: impl Future<Output = Result<(Service, F), E>>,
    limits: &ServiceOptions,
    options: Options,
    health: Health,
    shutdown: impl Future<Output = ()>,
) -> Result<(), E> {
    options
        .check()
        .map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
    let mut listeners = listeners.into();
    let mut server = Server::new(App::new(limits, options, health));
    let drain_delay = server.app.options.drain_delay;
    let service = Arc::clone(&server.app.service);
    let opening = async {
        let (opened, on_serving) = opening.await?;
        // No other code sets it.
        let _ = service.set(opened);
        on_serving();
        Ok::<_, E>(())
    };
    let serving = async {
        let mut opening = pin!(opening);
        match timeout(BACKLOG_WAIT, &mut opening).await {
            Ok(opened) => opened?,
            Err(_) => {
                let address = listeners.address()?;
                tracing::info!(%address, "starting: requests are answered 503 for now");
                tokio::select! {
                    opened = opening => opened?,
                    () = server.accept(&mut listeners) => {}
                }
            }
        }
        server.accept(&mut listeners).await;
        Ok::<_, E>(())
    };
    tokio::select! {
        served = serving => served?,
        () = shutdown => {}
    }
    tracing::info!("draining: no longer ready");
    server.app.health.drain();
    server.app.watchers.end();
    if !drain_delay.is_zero() {
        // No longer ready, but still there for clients that have not noticed yet.
        let _ = timeout(drain_delay, server.accept(&mut listeners)).await;
    }
    for listener in listeners.listeners {
        let ip = listener.ip();
        backlog::empty(listener, |stream| server.spawn(stream, ip)).await;
    }
    server.drain().await;
    Ok(())
}

#[derive(Debug)]
struct Server {
    app: Arc<App>,
    http: http1::Builder,
    connections: JoinSet<()>,
    /// A permit for each connection that is being refused.
    free_for_refusal: Arc<Semaphore>,
}

impl Server {
    fn new(app: App) -> Self {
        let options = &app.options;
        let mut http = http1::Builder::new();
        http
            // A client may close its side after its request and is still answered.
            .half_close(true)
            // Each connection has timers of its own.
            .header_read_timeout(None)
            .max_header_size(options.head_bytes_max)
            // Limits unread input and unsent output, bodies aside.
            .max_buf_size(BUFFER_BYTES.max(options.head_bytes_max));
        if options.headers_max != HEADERS_ON_STACK {
            http.max_headers(options.headers_max);
        }
        Self {
            http,
            connections: JoinSet::new(),
            free_for_refusal: Arc::new(Semaphore::new(REFUSALS_MAX)),
            app: Arc::new(app),
        }
    }

    /// Accepts connections forever.
    async fn accept(&mut self, listeners: &mut Listeners) {
        loop {
            let accepted = tokio::select! {
                accepted = listeners.accept() => accepted,
                // Removes finished connections from the set.
                Some(ended) = self.connections.join_next() => {
                    if ended.is_err_and(|error| error.is_panic()) {
                        self.app.metrics.panics.inc();
                    }
                    continue;
                }
            };
            match accepted {
                Ok((stream, ip)) => self.spawn(stream, ip),
                Err(error) => recover(&error).await,
            }
        }
    }

    /// Serves a connection to the listener on `ip`, if the limit permits.
    fn spawn(&mut self, stream: Stream, ip: Option<IpAddr>) {
        if let Ok(permit) = Arc::clone(&self.app.places.free).try_acquire_owned() {
            let serving = self.serve(stream, ip, false);
            self.connections.spawn(async move {
                let _permit = permit;
                serving.await;
            });
            return;
        }
        if self.app.places.close_idle() {
            let free = Arc::clone(&self.app.places.free);
            let serving = self.serve(stream, ip, false);
            self.connections.spawn(async move {
                // If the idle connection takes too long to close, the new one is closed instead.
                if let Ok(Ok(_permit)) = timeout(ROOM_TIMEOUT, free.acquire_owned()).await {
                    serving.await;
                }
            });
            return;
        }
        self.app.metrics.refused.inc();
        if let Ok(permit) = Arc::clone(&self.free_for_refusal).try_acquire_owned() {
            let refusing = self.serve(stream, ip, true);
            self.connections.spawn(async move {
                let _permit = permit;
                // The client may take its answer or not.
                let _ = timeout(REFUSAL_TIMEOUT, refusing).await;
            });
        } else {
            // Above this number, connections are closed without an answer.
            drop(stream);
        }
    }

    /// Serves one connection until it ends. One that `is_refused` has no place: its request is
    /// answered 503.
    fn serve(
        &self,
        stream: Stream,
        ip: Option<IpAddr>,
        is_refused: bool,
    ) -> impl Future<Output = ()> + Send + 'static {
        let options = &self.app.options;
        let patience = Patience {
            head: options.head_timeout,
            idle: options.idle_timeout,
            write: options.write_timeout,
        };
        let phase = Arc::new(Phase::new(self.app.asked_by(ip), is_refused));
        let io = TokioIo::new(Guarded::new(stream, Arc::clone(&phase), patience));
        let app = Arc::clone(&self.app);
        let opened = (!is_refused).then(|| Places::add(&self.app.places, Arc::clone(&phase)));
        let answering = Arc::clone(&phase);
        let answerer = Arc::clone(&app);
        let serving = self.http.serve_connection(
            io,
            service_fn(move |request| {
                let (app, phase) = (Arc::clone(&answerer), Arc::clone(&answering));
                handle(app, phase, request).map(Ok::<_, Infallible>)
            }),
        );
        let counted = (!is_refused).then(|| self.app.metrics.connection());
        let health = self.app.health.clone();
        async move {
            let (_opened, _counted) = (opened, counted);
            let mut serving = pin!(serving);
            let closing = async {
                phase.closes().await;
                if health.is_draining() && phase.is_fresh() {
                    // Its first request may be on its way; the answer will close the connection.
                    tokio::time::sleep(FIRST_REQUEST).await;
                }
            };
            let ended = tokio::select! {
                biased;
                ended = &mut serving => ended,
                () = closing => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            };
            if let Err(error) = ended {
                if error.is_parse() {
                    app.metrics.unreadable.inc();
                }
                tracing::debug!(%error, "a connection ended early");
            }
        }
    }

    /// Waits for the requests in progress, up to their time limit.
    async fn drain(mut self) {
        let drain_timeout = self.app.options.drain_timeout;
        self.app.places.close_all();
        let service = Arc::clone(&self.app.service);
        let waits = async {
            tokio::time::sleep(drain_timeout / 2).await;
            if let Some(service) = service.get() {
                service.end_waits();
            }
        };
        let finish = async {
            let ended = async { while self.connections.join_next().await.is_some() {} };
            tokio::select! {
                () = ended => return,
                () = waits => {}
            }
            while self.connections.join_next().await.is_some() {}
        };
        if timeout(drain_timeout, finish).await.is_err() {
            tracing::warn!(
                connections = self.connections.len(),
                "dropping requests that did not finish in time"
            );
            self.connections.shutdown().await;
        }
    }
}

/// How long connections wait in the backlog while the store opens. After that, an immediate 503 is
/// the better answer.
const BACKLOG_WAIT: Duration = Duration::from_secs(1);

/// Maximum number of bytes read ahead of a handler on each connection.
const BUFFER_BYTES: usize = 64 << 10;

/// How long a connection without a request stays open during shutdown.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// How long an idle connection may take to close when another one needs its place.
const ROOM_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of refusals in progress; further connections are closed without an answer.
const REFUSALS_MAX: usize = 64;

/// Time limit for a refused connection to send its request and take its answer.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long nothing is accepted while the process lacks a resource. An immediate retry would only
/// spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn recover(error: &io::Error) {
    match error.kind() {
        // The client was gone before it was accepted.
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionRefused => {}
        // Most likely EMFILE or ENFILE: descriptors become free when connections end.
        _ => {
            tracing::error!(%error, "cannot accept connections");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}
