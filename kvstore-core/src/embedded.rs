//! Everything in one handle: a store, its queue, the service in front of both and a running worker.
//!
//! Not here: HTTP (`kvstore-http`), and processes that share a store, which combine
//! [`open`](mod@crate::open), [`Service`] and [`worker::run`] as they need.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::open::{Opened, StoreUrl, open};
use crate::service::{Service, ServiceOptions};
use crate::store::Store;
use crate::worker;

/// A store, its queue, a [`Service`] and a worker that applies what is queued.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let url = format!("file:{}", folder.path().display());
/// use kvstore_core::{Embedded, StoreExt};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let embedded = Embedded::open(&url).await?; // such as "file:database"
/// embedded.service().set("user:1", "Ada").await?; // queued, applied, durable
/// assert_eq!(embedded.store().get_as("user:1").await?, Some("Ada".to_owned()));
/// embedded.close().await?;
/// # Ok::<(), kvstore_core::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropping it stops the worker after its current batch; store and queue live as long as other
/// handles to them. Nothing that was accepted is lost.
#[derive(Debug)]
pub struct Embedded {
    opened: Opened,
    service: Service,
    /// Stops the worker when dropped.
    stop: oneshot::Sender<()>,
    worker: JoinHandle<Result<()>>,
}

impl Embedded {
    /// Opens the store at `url` with its own queue, and starts a worker on the current tokio
    /// runtime.
    ///
    /// [`StoreUrl`] documents the forms of `url`; `file:database` and `memory:` are the usual ones.
    ///
    /// # Errors
    /// Those of [`open`] and [`Service::open`].
    pub async fn open(url: &str) -> Result<Self> {
        let url: StoreUrl = url.parse()?;
        let options = (ServiceOptions::default(), worker::Options::default());
        Self::open_with(&url, None, options.0, options.1).await
    }

    /// Opens the store at `store` with the queue at `queue`, or with its own, and starts a worker.
    ///
    /// # Errors
    /// Those of [`open`] and [`Service::open`].
    pub async fn open_with(
        store: &StoreUrl,
        queue: Option<&StoreUrl>,
        service: ServiceOptions,
        worker: worker::Options,
    ) -> Result<Self> {
        let opened = open(store, queue).await?;
        let service = match Service::open(opened.store.clone(), opened.queue.clone(), service).await
        {
            Ok(service) => service,
            Err(error) => {
                // An error of closing would say less than the one that led here.
                let _ = opened.close().await;
                return Err(error);
            }
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (store, queue) = (opened.store.clone(), opened.queue.clone());
        let worker = tokio::spawn(async move {
            let until_stopped = async { drop(stopped.await) };
            let ended = worker::run(store, queue, worker, until_stopped).await;
            if let Err(error) = &ended {
                tracing::error!(%error, "the worker stopped: queued writes wait for the next start");
            }
            ended
        });
        Ok(Self {
            opened,
            service,
            stop,
            worker,
        })
    }

    /// Returns the store, for reads and direct commits.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.opened.store
    }

    /// Returns the service, for queued writes. It is cheap to clone.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Applies what waits (unless other processes share the queue), stops the worker, and closes
    /// queue and store.
    ///
    /// # Errors
    /// The error that ended the worker early, or else the first error of closing. Everything is
    /// closed in any case.
    pub async fn close(self) -> Result<()> {
        drop(self.stop);
        let worked = self.worker.await.unwrap_or_else(|ended| {
            Err(Error::Unavailable {
                what: "the worker panicked".to_owned(),
                source: Some(Arc::new(ended)),
            })
        });
        let closed = self.opened.close().await;
        worked.and(closed)
    }
}
