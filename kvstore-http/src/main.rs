//! The server as a process: settings, open, serve with a worker beside it, close.

mod descriptors;
mod reload;
mod settings;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use kvstore_core::open::{Followed, Opened};
use kvstore_core::worker;
use kvstore_core::{Error, Service};
use kvstore_http::{Endpoint, Listener, Listeners, Tls, Tokens, serve_with_health};
use kvstore_process::{Failure, SharedSettings, Shutdown};
use kvstore_worker::admin::{self, Health};
use tokio::sync::oneshot;

use crate::settings::{Own, PROGRAM, Role, read, read_tokens};

/// A request allocates some dozens of times, and this allocator needs half as many instructions for
/// it as the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

async fn run(shared: SharedSettings, own: Own, shutdown: Shutdown) -> Result<(), Failure> {
    descriptors::raise(own.options.connections_max);
    // First what can fail without having touched any data.
    let mut listeners = Vec::new();
    for endpoint in &own.listen {
        let listener = endpoint.bind(own.socket_mode).await?;
        listeners.push(match &own.tls {
            Some(tls) => listener.with_tls(Arc::clone(tls)),
            None => listener,
        });
    }
    let admin_listener = match shared.admin_listen {
        Some(address) => Some(kvstore_process::bind(address).await?),
        None => None,
    };
    // It answers while the data is read, too.
    let health = Health::starting();
    if let Some(listener) = admin_listener {
        tracing::info!(address = %listener.local_addr()?, "answering probes");
        tokio::spawn(admin::serve(listener, health.clone()));
    }
    let opening = async {
        Ok::<_, Failure>(match own.role {
            Role::Worker | Role::Acceptor => {
                let opened = shared.open().await.map_err(beside)?;
                let working = (own.role == Role::Worker).then(|| opened.clone());
                (Followed::from(opened), working)
            }
            Role::Reader => (shared.follow().await?, None),
        })
    };
    let (opened, working) = tokio::select! {
        () = shutdown.clone().requested() => {
            tracing::info!("stopped before the store was open");
            return Ok(());
        }
        opened = opening => opened?,
    };
    health.opened(Arc::clone(&opened.store), Arc::clone(&opened.queue));
    let until = async {
        shutdown.requested().await;
        health.drain();
    };
    let ended = serve_and_work(
        listeners,
        opened.clone(),
        working,
        &shared,
        own,
        &health,
        until,
    )
    .await;
    // However it ended: this brings files up to date and lets go of the folder.
    let closed = opened.close().await;
    ended?;
    Ok(closed?)
}

/// Serves until `shutdown`, and only then stops the worker, so that requests under way see their writes applied.
async fn serve_and_work(
    listeners: Vec<Listener>,
    opened: Followed,
    working: Option<Opened>,
    shared: &SharedSettings,
    own: Own,
    health: &Health,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let service = match own.role {
        Role::Worker | Role::Acceptor => {
            Service::open(opened.store, opened.queue, own.service).await?
        }
        Role::Reader => Service::reading(opened, own.service),
    };
    let has_worker = working.is_some();
    let endpoints = listeners.iter().map(Listener::endpoint);
    let endpoints = endpoints.collect::<std::io::Result<Vec<_>>>()?;
    let scheme = if own.tls.is_some() { "https" } else { "http" };
    let url = endpoints
        .iter()
        .find_map(|endpoint| console_url(scheme, endpoint));
    let address = endpoints.iter().map(Endpoint::to_string);
    let address = address.collect::<Vec<_>>().join(", ");
    tracing::info!(%address, url, store = %shared.store, worker = own.role.worker(), "serving");
    kvstore_process::notify_ready(&format!("serving on {address}"));
    for endpoint in endpoints.iter().filter(|endpoint| !endpoint.is_local()) {
        if own.options.tokens.is_none() {
            tracing::warn!(address = %endpoint, "whoever reaches this address may read and write everything");
        }
    }

    // Each end is told by dropping a sender: ours stops the worker, and the worker's says that it has ended.
    let (stop, stopped) = oneshot::channel::<()>();
    let (alive, ended) = oneshot::channel::<()>();
    if let (Some(path), Some(tokens)) = (own.tokens_file, &own.options.tokens) {
        tracing::info!(path = %path.display(), tokens = tokens.count(), "only these tokens are let in");
        let tokens = Arc::clone(tokens);
        tokio::spawn(reload::watch(path, move |path| read_again(path, &tokens)));
    }
    if let Some(tls) = own.tls {
        for path in tls.files().map(Path::to_owned) {
            let tls = Arc::clone(&tls);
            tokio::spawn(reload::watch(path, move |path| {
                certificate_again(path, &tls)
            }));
        }
    }
    let worker = working.map(|Opened { store, queue }| {
        let metrics = health.register(kvstore_worker::Metrics::new);
        let options = worker::Options {
            on_event: Some(metrics.listener()),
            ..worker::Options::default()
        };
        tokio::spawn(async move {
            let _alive = alive;
            let until = async { drop(stopped.await) };
            worker::run(store, queue, options, until).await
        })
    });
    let until = async {
        tokio::select! {
            () = shutdown => {}
            // It ends by itself only if it can never go on, and then nothing would be applied any more.
            _ = ended, if has_worker => {}
        }
    };
    let served = serve_with_health(
        Listeners::new(listeners),
        service,
        own.options,
        health.clone(),
        until,
    )
    .await;
    drop(stop);
    if let Some(worker) = worker {
        worker.await??;
    }
    Ok(served?)
}

/// Returns what to open in a browser, which reaches no Unix socket. One on this machine reaches a
/// server on all addresses by the loopback one.
fn console_url(scheme: &str, endpoint: &Endpoint) -> Option<String> {
    let Endpoint::Tcp(mut address) = *endpoint else {
        return None;
    };
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(format!("{scheme}://{address}/"))
}

/// Says what else can be done if another process holds the folder.
fn beside(error: Error) -> Failure {
    match error {
        Error::Locked { .. } => {
            format!("{error}: to read what it writes, start this one with --worker none").into()
        }
        error => error.into(),
    }
}

/// A file that cannot be read, or holds a bad line, changes nothing: better the tokens of before than none.
fn read_again(path: &Path, tokens: &Tokens) {
    match read_tokens(path) {
        Ok(newer) => {
            tokens.replace_by(newer);
            tracing::info!(path = %path.display(), tokens = tokens.count(), "the tokens were read again");
        }
        Err(reason) => {
            tracing::error!(path = %path.display(), reason, "the tokens stay as they were");
        }
    }
}

/// Of two files that are replaced one after the other the first may not go with what the other one
/// still is.
fn certificate_again(path: &Path, tls: &Tls) {
    match tls.read_again() {
        Ok(()) => tracing::info!(path = %path.display(), "the certificate was read again"),
        Err(reason) => tracing::error!(reason, "the certificate stays as it was"),
    }
}

fn main() -> ExitCode {
    kvstore_process::main(&PROGRAM, read, run)
}
