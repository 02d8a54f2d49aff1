//! The HTTP server of kvstore: two faces over one [`Service`](kvstore_core::Service), on hyper.
//!
//! The *simple face* is three plain routes (`POST /set`, `GET /get/{key}`, `DELETE /delete/{key}`);
//! the *resource face* is for programs (`/v1/kv/{key}`, `/v1/jobs/{id}`). Both use the same queue,
//! so they make the same promises: 202 means that a write is durably queued, 200 and 201 that it is
//! applied and durable.
//!
//! ```no_run
//! # async fn example(service: kvstore_core::Service) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//! let stop = std::future::pending();
//! kvstore_http::serve(listener, service, kvstore_http::Options::default(), stop).await
//! # }
//! ```
//!
//! What is not here: applying writes. [`serve`] knows no worker; the binary runs one next to it.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout))]

mod access;
mod answer;
mod config;
mod console;
mod metrics;
mod openapi;
mod request;
mod routes;
mod server;

pub use access::cors::Cors;
pub use access::host::Hosts;
pub use access::token::{Tokens, token_line};
pub use config::{ENVELOPE_BYTES, Options};
pub use server::listen::{Endpoint, Listener, Listeners};
pub use server::tls::Tls;
pub use server::{serve, serve_when_open};
