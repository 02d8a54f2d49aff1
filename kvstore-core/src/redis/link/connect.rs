//! [`Connector`]: makes connections to the servers at an address.

use std::time::Duration;

use redis::aio::PubSub;
use redis::cluster::ClusterClient;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, RedisResult};
use socket2::TcpKeepalive;

use crate::error::{Error, Result};
use crate::redis::address::Address;
use crate::redis::link::Servers;
use crate::redis::link::password::PasswordFile;
use crate::redis::link::server::ReconnectingServer;
use crate::redis::options::Options;

/// How long a server may take to answer. A batch that waits for a slow disk needs time; past this
/// limit its result is unknown.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Most requests that wait for the socket.
const REQUESTS_WAITING: usize = 1024;

/// How often a cluster's client resends a command that is harmless to repeat, if it was not
/// answered or a server without its slot refused it.
pub(crate) const RESENDS_MAX: u32 = 3;

/// Where the servers are and how to log in.
pub(crate) struct Connector {
    /// The server, or some servers of a cluster.
    clients: Vec<Client>,
    is_cluster: bool,
    password: Option<PasswordFile>,
    /// Accepts a replica, though its data is old and it refuses writes.
    replica_taken: bool,
    /// The certificates for connections by TLS.
    #[cfg(feature = "redis-tls")]
    certificates: Option<redis::TlsCertificates>,
}

impl Connector {
    pub(crate) fn new(address: &Address, options: &Options) -> Result<Self> {
        let nodes = address.nodes()?.into_iter();
        let nodes: Vec<_> = nodes.map(|node| with_settings(node, options)).collect();
        let password = PasswordFile::of(options, &nodes[0])?;
        #[cfg(feature = "redis-tls")]
        let certificates = address.is_tls().then(|| certificates(options));
        let client = |node| {
            #[cfg(feature = "redis-tls")]
            if let Some(certificates) = &certificates {
                return Client::build_with_tls(node, certificates.clone());
            }
            Client::open(node)
        };
        let clients = nodes.into_iter().map(client).collect::<RedisResult<_>>();
        let clients = clients.map_err(|error| {
            Error::Config(format!(
                "the certificates of its parameters (ca_file, cert_file, key_file) cannot be used: {error}"
            ))
        })?;
        Ok(Self {
            clients,
            is_cluster: address.is_cluster(),
            password,
            replica_taken: options.relaxed_durability,
            #[cfg(feature = "redis-tls")]
            certificates,
        })
    }

    /// Returns the servers' addresses, for messages.
    pub(crate) fn endpoints(&self) -> String {
        let infos = self.clients.iter().map(Client::get_connection_info);
        let endpoints = infos.map(|info| info.addr().to_string());
        endpoints.collect::<Vec<_>>().join(", ")
    }

    /// Connects to the server, or to the cluster; its client then resends a command up to `resends`
    /// times.
    pub(crate) async fn connect(&self, resends: u32) -> RedisResult<Servers> {
        if !self.is_cluster {
            let mut settings = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(CONNECT_MAX))
                .set_response_timeout(Some(ANSWER_MAX))
                .set_pipeline_buffer_size(REQUESTS_WAITING);
            if let Some(file) = &self.password {
                settings = settings.set_credentials_provider(file.clone());
            }
            let client = self.clients[0].clone();
            let server = ReconnectingServer::open(client, settings, self.replica_taken);
            return server.await.map(Servers::One);
        }
        let infos = self.clients.iter().map(Client::get_connection_info);
        let mut client = ClusterClient::builder(infos.cloned())
            .connection_timeout(CONNECT_MAX)
            .response_timeout(ANSWER_MAX)
            .tcp_settings(tcp())
            .retries(resends);
        if let Some(file) = &self.password {
            client = client.set_credentials_provider(file.clone());
        }
        #[cfg(feature = "redis-tls")]
        if let Some(certificates) = &self.certificates {
            client = client.certs(certificates.clone());
        }
        let client = client.build()?;
        client.get_async_connection().await.map(Servers::Cluster)
    }

    /// Subscribes to `channels` at the server, or at one of the known servers of a cluster: another
    /// one at each turn.
    pub(crate) async fn subscribe(&self, channels: &[String], turn: usize) -> RedisResult<PubSub> {
        let client = &self.clients[turn % self.clients.len()];
        let mut messages = match &self.password {
            None => client.get_async_pubsub().await?,
            Some(file) => file.log_in(client)?.get_async_pubsub().await?,
        };
        messages.subscribe(channels).await?;
        Ok(messages)
    }
}

fn tcp() -> TcpSettings {
    // A server whose machine has failed closes no connection. The next connection may lead to
    // another server. Probes find that out on a connection that only receives messages.
    let probes = TcpKeepalive::new().with_time(ANSWER_MAX);
    let tcp = TcpSettings::default().set_nodelay(true);
    let tcp = tcp.set_keepalive(probes.with_interval(ANSWER_MAX / 3));
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(ANSWER_MAX);
    tcp
}

/// Returns `node` with the password of `options`, and with timeouts.
fn with_settings(node: ConnectionInfo, options: &Options) -> ConnectionInfo {
    let mut login = node.redis_settings().clone();
    if let Some(password) = &options.password {
        login = login.set_password(password);
    }
    node.set_tcp_settings(tcp()).set_redis_settings(login)
}

/// Returns the certificates of `options`.
#[cfg(feature = "redis-tls")]
fn certificates(options: &Options) -> redis::TlsCertificates {
    use rustls::crypto::{CryptoProvider, ring};

    if CryptoProvider::get_default().is_none() {
        // Another thread may install one first; then that one is used.
        let _ = ring::default_provider().install_default();
    }
    let client = options.client_certificate.as_ref();
    redis::TlsCertificates {
        client_tls: client.map(|client| redis::ClientTlsConfig {
            client_cert: client.chain.clone(),
            client_key: client.key.clone(),
        }),
        root_cert: options.ca.clone(),
    }
}
