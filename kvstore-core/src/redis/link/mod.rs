//! [`Servers`]: one server or the primaries of a cluster, behind one type that sends commands. It
//! knows nothing of partitions, scripts or the meaning of an answer; see `session.rs` for those.

pub(crate) mod breaker;
pub(crate) mod password;
mod server;
pub(crate) mod tls;
pub(crate) mod wake;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt;
use redis::aio::ConnectionLike;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, Pipeline, RedisFuture, RedisResult, Value,
};

use crate::redis::link::password::PasswordFile;
use crate::redis::link::server::ReconnectingServer;
use crate::redis::link::tls::Certificates;

/// How long a server may take to answer. A batch that waits for a slow disk needs time; past this
/// limit its result is unknown.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Most requests that wait for the socket.
const REQUESTS_WAITING: usize = 1024;

/// How often a cluster's client resends a command that was not answered, or that a server without
/// its slot refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resend {
    /// For commands that are harmless to repeat.
    Some = 3,
    /// For changes. The answer must be that of the single time that a change was sent: if the last
    /// of several copies was refused, an earlier one may still have been applied.
    Never = 0,
}

/// One server or a cluster. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub(crate) enum Servers {
    One(ReconnectingServer),
    Cluster(ClusterConnection),
}

impl Servers {
    /// Connects to the cluster that `nodes` are in.
    pub(crate) async fn cluster(
        nodes: &[ConnectionInfo],
        certificates: Option<&Certificates>,
        password: Option<&PasswordFile>,
        resend: Resend,
    ) -> RedisResult<Self> {
        let mut client = ClusterClient::builder(nodes.to_vec())
            .connection_timeout(CONNECT_MAX)
            .response_timeout(ANSWER_MAX)
            .retries(resend as u32);
        if let Some(file) = password {
            client = client.set_credentials_provider(file.clone());
        }
        let client = tls::cluster(client, certificates).build()?;
        client.get_async_connection().await.map(Self::Cluster)
    }

    /// Connects to a server.
    pub(crate) async fn one(
        client: &Client,
        password: Option<&PasswordFile>,
        replica_taken: bool,
    ) -> RedisResult<Self> {
        let mut settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(ANSWER_MAX))
            .set_pipeline_buffer_size(REQUESTS_WAITING);
        if let Some(file) = password {
            settings = settings.set_credentials_provider(file.clone());
        }
        let server = ReconnectingServer::new(client.clone(), settings, replica_taken);
        server.connect().await?;
        Ok(Self::One(server))
    }

    /// Returns one slot of each primary, so that a request for each slot reaches all of them.
    pub(crate) async fn slots(&mut self) -> RedisResult<Vec<u16>> {
        let Self::Cluster(cluster) = self else {
            return Ok(vec![0]);
        };
        let ranges: Vec<Vec<Value>> = redis::cmd("CLUSTER")
            .arg("SLOTS")
            .query_async(cluster)
            .await?;
        let first = |range: &Vec<Value>| {
            // The two ends, the primary (address, port, …), its replicas.
            let [Value::Int(first), _, primary, ..] = &range[..] else {
                return None;
            };
            Some((format!("{primary:?}"), u16::try_from(*first).ok()?))
        };
        let slots: BTreeMap<String, u16> = ranges.iter().filter_map(first).collect();
        Ok(slots.into_values().collect())
    }

    /// Sends `pipeline` to the server that has `slot`, over one connection, and returns its
    /// answers. An answer may be an error.
    pub(crate) async fn ask(&mut self, slot: u16, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let count = pipeline.len();
        match self {
            Self::One(server) => server.commands(pipeline, 0, count).await,
            Self::Cluster(cluster) => {
                let route = SingleNodeRoutingInfo::SpecificNode(Route::new(slot, SlotAddr::Master));
                cluster
                    .route_pipeline(pipeline.clone(), 0, count, route)
                    .await
            }
        }
    }

    /// Returns a count that grows whenever another server may be at the end of the connection. In a
    /// cluster it never does: only the servers themselves tell.
    pub(crate) fn breaks(&self) -> u64 {
        match self {
            Self::One(server) => server.breaks(),
            Self::Cluster(_) => 0,
        }
    }
}

impl ConnectionLike for Servers {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(server) => server.command(command).boxed(),
            Self::Cluster(cluster) => cluster.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(server) => server.commands(pipeline, offset, count).boxed(),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(server) => server.db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}
