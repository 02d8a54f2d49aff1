//! The server as a process: settings, open, serve with a worker beside it, close.

mod settings;

use std::process::ExitCode;
use std::sync::Arc;

use kvstore_core::Service;
use kvstore_core::process::{self, Failure, Shared, Shutdown, hide_secrets};
use kvstore_http::serve;
use kvstore_worker::admin::{self, Health};
use tokio::sync::oneshot;

use crate::settings::{Own, PROGRAM, is_local, read};

async fn run(shared: Shared, own: Own, shutdown: Shutdown) -> Result<(), Failure> {
    // First what can fail without having touched any data.
    let listener = process::bind(own.listen).await?;
    let admin_listener = match shared.admin_listen {
        Some(address) => Some(process::bind(address).await?),
        None => None,
    };
    let opened = shared.open().await?;
    let (store, queue) = (Arc::clone(&opened.store), Arc::clone(&opened.queue));
    let service = Service::open(store, queue, own.service).await?;
    let address = listener.local_addr()?;
    tracing::info!(%address, store = hide_secrets(&shared.store), worker = own.has_worker, "serving");
    if !is_local(address) {
        tracing::warn!(%address, "whoever reaches this address may read and write everything");
    }

    let health = Health::new(Arc::clone(&opened.store), Arc::clone(&opened.queue));
    if let Some(listener) = admin_listener {
        tracing::info!(address = %listener.local_addr()?, "answering probes");
        tokio::spawn(admin::serve(listener, health.clone()));
    }
    // Dropping the one tells the worker to stop, the worker dropping the other that it has.
    let (stop_worker, worker_stop) = oneshot::channel::<()>();
    let (worker_alive, worker_ended) = oneshot::channel::<()>();
    let worker = own.has_worker.then(|| {
        let (store, queue) = (Arc::clone(&opened.store), Arc::clone(&opened.queue));
        tokio::spawn(async move {
            let _alive = worker_alive;
            let until = async { drop(worker_stop.await) };
            kvstore_worker::run(store, queue, kvstore_worker::Options::default(), until).await
        })
    });
    let until = async {
        tokio::select! {
            () = shutdown.requested() => {}
            // It ends by itself only when it can never go on, and then nothing would be applied any more.
            _ = worker_ended, if own.has_worker => {}
        }
        health.drain();
    };

    let served = serve(listener, service, own.options, until).await;
    drop(stop_worker);
    let worked = match worker {
        Some(worker) => worker.await?,
        None => Ok(()),
    };
    let closed = opened.close().await;
    served?;
    Ok(worked.and(closed)?)
}

fn main() -> ExitCode {
    process::main(&PROGRAM, read, run)
}
