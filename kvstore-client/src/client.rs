//! The handle to a server, and its settings.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvstore_core::Result;

use crate::service::RemoteService;
use crate::store::RemoteStore;
use crate::transport::Transport;
use crate::url::ServerUrl;
use crate::watch::Watching;

/// The settings of a [`Client`].
#[derive(Clone)]
pub struct Options {
    /// The bearer token, if the server requires one.
    pub token: Option<String>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long to wait for an answer, in addition to the time that the request itself waits for
    /// its outcome.
    pub request_timeout: Duration,
    /// How long to keep sending a request that may yet succeed, in addition to the time that the
    /// request itself waits for its outcome; zero disables retries.
    pub retry_for: Duration,
    /// Gives each write without an idempotency key a random one, so that it can be sent again when
    /// its answer is lost. The server remembers the key only for as long as that may happen.
    pub idempotency_keys: bool,
    /// How long a watch may be silent before it reconnects. The server's heartbeat is 15 seconds by
    /// default.
    pub watch_timeout: Duration,
    /// The largest answer, and the largest event of a watch, in bytes.
    pub answer_bytes_max: usize,
    /// A PEM file with the certificate authorities to trust, in place of the machine's (feature
    /// `tls`).
    pub ca_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            token: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(30),
            idempotency_keys: true,
            watch_timeout: Duration::from_secs(60),
            answer_bytes_max: 64 << 20,
            ca_file: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("retry_for", &self.retry_for)
            .field("idempotency_keys", &self.idempotency_keys)
            .field("watch_timeout", &self.watch_timeout)
            .field("answer_bytes_max", &self.answer_bytes_max)
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

/// A client of one server. Cheap to clone; clones share their connections.
///
/// ```no_run
/// # async fn program() -> kvstore_core::Result<()> {
/// use kvstore_client::{Client, Options};
///
/// let options = Options {
///     token: Some("secret".to_owned()),
///     ..Options::default()
/// };
/// let kv = Client::open_with(&"https://kv.example.org".parse()?, options)?;
/// kv.store().set("user:1", "Ada").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    store: RemoteStore,
    service: RemoteService,
}

impl Client {
    /// Returns a client of the server at `url` with the default [`Options`].
    ///
    /// The client connects when it is first used, so a server that is not running yet is no error
    /// here; [`RemoteService::ping`] checks that it is.
    ///
    /// # Errors
    /// Those of [`Client::open_with`].
    #[expect(
        clippy::unused_async,
        reason = "like `Embedded::open`, so that only the name changes"
    )]
    pub async fn open(url: &str) -> Result<Self> {
        Self::open_with(&url.parse()?, Options::default())
    }

    /// Returns a client of the server at `url`.
    ///
    /// # Errors
    /// [`Error::Config`](kvstore_core::Error::Config) for a URL or a token that cannot be used, or
    /// certificates that cannot be read.
    pub fn open_with(url: &ServerUrl, options: Options) -> Result<Self> {
        let transport = Arc::new(Transport::new(url, options)?);
        let service = RemoteService::new(transport);
        Ok(Self {
            store: RemoteStore::new(service.clone()),
            service,
        })
    }

    /// Returns the interface to the entries: reads, and writes that return once they are applied.
    pub fn store(&self) -> &RemoteStore {
        &self.store
    }

    /// Returns the interface to queued writes, jobs and the state of the queue.
    pub fn service(&self) -> &RemoteService {
        &self.service
    }

    /// Begins a watch of the keys that start with `prefix`.
    pub fn watch(&self, prefix: &str) -> Watching {
        Watching::new(self.service.transport().clone(), prefix)
    }

    /// Closes the idle connections.
    ///
    /// # Errors
    /// None: the signature is that of `Embedded::close`.
    #[expect(clippy::unused_async, reason = "like `Embedded::close`")]
    pub async fn close(self) -> Result<()> {
        self.service.transport().close_idle();
        Ok(())
    }
}
