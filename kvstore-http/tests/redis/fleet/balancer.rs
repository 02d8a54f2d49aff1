//! A load balancer in front of the servers: each connection goes to one of the ready servers, as in
//! a Kubernetes service.
//!
//! As in the manifests, a server becomes ready when `/readyz` says so, and stays ready as long as
//! `/livez` answers: an outage of a resource that all servers share must not leave clients without
//! a server. A server that is asked to end is taken out of rotation.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::seq::IndexedRandom;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use kvstore_testing::client::{Connection, request};

/// Interval of the readiness probes. A server that is not ready gets no new connections; existing
/// ones remain.
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// Time until a server that is asked to end is taken out.
const TAKEN_OUT_AFTER: Duration = Duration::from_millis(200);

/// Time limit for a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A balancer, which ends with the runtime.
#[derive(Debug)]
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    servers: Arc<Mutex<Vec<Backend>>>,
}

#[derive(Clone, Copy, Debug)]
struct Backend {
    address: SocketAddr,
    is_ready: bool,
    /// True once the server has been ready.
    has_started: bool,
    is_ending: bool,
}

impl Balancer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let servers = Arc::default();
        tokio::spawn(accept(listener, Arc::clone(&servers)));
        tokio::spawn(probe(Arc::clone(&servers)));
        Self { address, servers }
    }

    /// Adds a server that has been started.
    pub(crate) fn add(&self, address: SocketAddr) {
        self.servers.lock().unwrap().push(Backend {
            address,
            is_ready: false,
            has_started: false,
            is_ending: false,
        });
    }

    /// Takes out a server that is asked to end: after a delay, it gets no new connections.
    pub(crate) fn take_out(&self, address: SocketAddr) {
        let servers = Arc::clone(&self.servers);
        tokio::spawn(async move {
            tokio::time::sleep(TAKEN_OUT_AFTER).await;
            for server in &mut *servers.lock().unwrap() {
                server.is_ending |= server.address == address;
            }
        });
    }

    /// Removes a server that is gone.
    pub(crate) fn remove(&self, address: SocketAddr) {
        self.servers
            .lock()
            .unwrap()
            .retain(|server| server.address != address);
    }

    pub(crate) fn is_ready(&self, address: SocketAddr) -> bool {
        ready(&self.servers).contains(&address)
    }
}

fn ready(servers: &Mutex<Vec<Backend>>) -> Vec<SocketAddr> {
    let servers = servers.lock().unwrap();
    let ready = servers.iter().filter(|it| it.is_ready && !it.is_ending);
    ready.map(|server| server.address).collect()
}

async fn accept(listener: TcpListener, servers: Arc<Mutex<Vec<Backend>>>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let Some(address) = ready(&servers).choose(&mut rand::rng()).copied() else {
            continue;
        };
        tokio::spawn(async move {
            let mut server = TcpStream::connect(address).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut server).await
        });
    }
}

async fn probe(servers: Arc<Mutex<Vec<Backend>>>) {
    loop {
        let known = servers.lock().unwrap().clone();
        for server in known {
            let address = server.address;
            let path = if server.has_started {
                "/livez"
            } else {
                "/readyz"
            };
            let answer = async {
                let mut connection = Connection::try_open(address).await?;
                connection.try_ask(&request("GET", path)).await
            };
            let answer = tokio::time::timeout(PROBE_TIMEOUT, answer).await;
            let is_ready = matches!(answer, Ok(Some(reply)) if reply.status == 200);
            for server in &mut *servers.lock().unwrap() {
                if server.address == address {
                    server.is_ready = is_ready;
                    server.has_started |= is_ready;
                }
            }
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}
