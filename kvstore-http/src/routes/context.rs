//! What all requests share, and the context of one request's handler.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::future::try_join_all;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use kvstore_core::Service;
use kvstore_core::service::ServiceOptions;
use kvstore_worker::admin::Health;

use super::watch::WatchSlots;
use crate::access::token::Access;
use crate::answer::error::Result;
use crate::config::{ENVELOPE_BYTES, Options};
use crate::metrics::ServerMetrics;
use crate::openapi;
use crate::request::body;
use crate::request::headers::sync_tokens;
use crate::request::target::Query;
use crate::server::connection::Phase;
use crate::server::in_flight::InFlight;
use crate::server::places::Places;

/// Maximum size of a body about several keys, in bytes, unless a single value may be larger.
pub(crate) const BODIES_BYTES_MAX: usize = 8 << 20;

/// State that all requests share.
#[derive(Debug)]
pub(crate) struct App {
    /// Set once the store is open.
    pub(crate) service: Arc<OnceLock<Service>>,
    pub(crate) options: Options,
    pub(crate) health: Health,
    pub(crate) metrics: ServerMetrics,
    pub(crate) watchers: WatchSlots,
    /// Limits the number of connections.
    pub(crate) places: Arc<Places>,
    /// Limits the bytes of bodies and answers in memory.
    pub(crate) in_flight: InFlight,
    /// The text of the OpenAPI document.
    openapi: Bytes,
    /// The limits of the service, as JSON text.
    limits: Bytes,
}

impl App {
    /// Creates the shared state for a service with the options `limits`, before it is open.
    pub(crate) fn new(limits: &ServiceOptions, mut options: Options, health: Health) -> Self {
        let in_flight_bytes = InFlight::bytes_max(options.in_flight_bytes_max);
        options.in_flight_bytes_max = Some(in_flight_bytes);
        let in_flight = InFlight::new(in_flight_bytes);
        Self {
            metrics: health.register(|registry| ServerMetrics::new(registry, &in_flight)),
            in_flight,
            watchers: WatchSlots::new(options.watchers_max),
            places: Places::new(options.connections_max),
            openapi: openapi::document(&options, limits).to_string().into(),
            limits: openapi::limits(&options, limits).to_string().into(),
            service: Arc::default(),
            options,
            health,
        }
    }

    /// Returns the address that requests to a listener must name in `Host`, as an alternative to
    /// the server's names: the listener's own, if it has one. Returns `None` if they may name any
    /// host.
    pub(crate) fn asked_by(&self, listener: Option<IpAddr>) -> Option<IpAddr> {
        let is_loopback = listener.is_some_and(|ip| ip.to_canonical().is_loopback());
        let must = !self.options.hosts.is_empty() || is_loopback && self.options.tokens.is_none();
        must.then_some(listener.unwrap_or(Ipv4Addr::LOCALHOST.into()))
    }
}

/// The context of one request's handler.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) service: &'a Service,
    pub(crate) options: &'a Options,
    pub(crate) health: &'a Health,
    pub(crate) watchers: &'a WatchSlots,
    pub(crate) in_flight: &'a InFlight,
    /// The request's connection.
    pub(crate) phase: &'a Arc<Phase>,
    pub(super) openapi: &'a Bytes,
    /// The request's headers, for looking up the rarer ones (see
    /// [`rare`](crate::request::headers::rare)).
    pub(crate) rare: &'a HeaderMap,
    pub(super) limits: &'a Bytes,
    /// What the request may touch: checked before anything is touched.
    pub(crate) access: Access,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        app: &'a App,
        service: &'a Service,
        phase: &'a Arc<Phase>,
        rare: &'a HeaderMap,
        access: Access,
    ) -> Self {
        Self {
            service,
            options: &app.options,
            health: &app.health,
            watchers: &app.watchers,
            in_flight: &app.in_flight,
            phase,
            openapi: &app.openapi,
            rare,
            limits: &app.limits,
            access,
        }
    }

    /// Reads a body with one value.
    pub(super) async fn body(&self, body: Incoming) -> Result<Bytes> {
        self.read(body, self.body_bytes_max()).await
    }

    /// Reads a body about several keys.
    pub(super) async fn bodies(&self, body: Incoming) -> Result<Bytes> {
        self.read(body, self.bodies_bytes_max()).await
    }

    async fn read(&self, body: Incoming, bytes_max: usize) -> Result<Bytes> {
        let (timeout, timer) = (self.options.body_timeout, &self.phase.timer);
        body::read(body, bytes_max, timeout, timer, self.in_flight).await
    }

    /// Returns the maximum size of a body with one value.
    fn body_bytes_max(&self) -> usize {
        self.options
            .body_bytes_max
            .unwrap_or(self.service.options().value_bytes_max + ENVELOPE_BYTES)
    }

    /// Returns the maximum size of a body about several keys.
    fn bodies_bytes_max(&self) -> usize {
        self.options
            .body_bytes_max
            .unwrap_or_else(|| self.body_bytes_max().max(BODIES_BYTES_MAX))
    }

    /// Waits until the writes that the read must show are applied. The waits run concurrently, so
    /// several take no longer than one.
    pub(super) async fn wait_visible(&self, query: Query<'_>) -> Result<()> {
        let tokens = sync_tokens(self.rare, query)?;
        if tokens.is_empty() {
            return Ok(());
        }
        let waits = tokens.iter().map(|token| self.service.wait_visible(token));
        try_join_all(waits).await?;
        Ok(())
    }
}
