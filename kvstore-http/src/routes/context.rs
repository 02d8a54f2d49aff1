//! What all requests share, and what one request's handler works with.

use bytes::Bytes;
use kvstore_core::Service;
use kvstore_worker::admin::Health;

use super::watch::Watchers;
use crate::access::token::Access;
use crate::config::{ENVELOPE_BYTES, Options};
use crate::metrics::Metrics;
use crate::openapi;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) service: Service,
    pub(crate) options: Options,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) watchers: Watchers,
    /// The text of the OpenAPI document.
    openapi: Bytes,
}

impl App {
    pub(crate) fn new(service: Service, options: Options, health: Health) -> Self {
        Self {
            metrics: health.register(Metrics::new),
            watchers: Watchers::new(options.watchers_max),
            openapi: openapi::document(&options, service.options())
                .to_string()
                .into(),
            service,
            options,
            health,
        }
    }
}

/// What a handler works with: it is one request's.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) service: &'a Service,
    pub(crate) options: &'a Options,
    pub(crate) health: &'a Health,
    pub(crate) watchers: &'a Watchers,
    pub(super) openapi: &'a Bytes,
    /// What the request may touch: to be asked before anything is touched.
    pub(crate) access: Access,
}

impl<'a> Context<'a> {
    pub(super) fn new(app: &'a App, access: Access) -> Self {
        Self {
            service: &app.service,
            options: &app.options,
            health: &app.health,
            watchers: &app.watchers,
            openapi: &app.openapi,
            access,
        }
    }

    /// The largest body that a request with one value may have.
    pub(super) fn body_bytes_max(&self) -> usize {
        self.options
            .body_bytes_max
            .unwrap_or(self.service.options().value_bytes_max + ENVELOPE_BYTES)
    }
}
