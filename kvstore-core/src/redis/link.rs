//! The way to the data: one server, or the primaries of a cluster, each with the slots of some partitions.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, RedisConnectionInfo, RedisFuture,
    RedisResult, Value,
};

/// How long a server may take to answer. A batch that waits for a slow disk takes its time; past this nobody knows.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long it may take to be reached.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Requests that wait for the socket, in front of it.
const REQUESTS_WAITING: usize = 1024;

/// How often a cluster's client asks again where a slot is, or connects again, for one command. Whoever sends a change sees to it
/// that it is made once, however often it is sent.
const TRIES: u32 = 3;

/// Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub(super) enum Link {
    One(ConnectionManager),
    Cluster(ClusterConnection),
}

impl Link {
    /// Connects to the one server in `nodes`, or to the cluster that some of them are in.
    pub(super) async fn open(nodes: &[ConnectionInfo], is_cluster: bool) -> RedisResult<Self> {
        if is_cluster {
            let client = ClusterClient::builder(nodes.to_vec())
                .connection_timeout(CONNECT_MAX)
                .response_timeout(ANSWER_MAX)
                .retries(TRIES)
                .build()?;
            return client.get_async_connection().await.map(Self::Cluster);
        }
        let first = nodes.first().cloned();
        let client = Client::open(first.expect("a URL has an address"))?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(ANSWER_MAX))
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_secs(1))
            .set_pipeline_buffer_size(REQUESTS_WAITING);
        let manager = ConnectionManager::new_with_config(client, config).await?;
        Ok(Self::One(manager))
    }

    /// Where the primaries of the cluster are, to be asked one by one; `None` if it is one server.
    pub(super) async fn primaries(
        &mut self,
        like: &ConnectionInfo,
    ) -> RedisResult<Option<Vec<ConnectionInfo>>> {
        let Self::Cluster(cluster) = self else {
            return Ok(None);
        };
        let ranges: Vec<Vec<Value>> = redis::cmd("CLUSTER")
            .arg("SLOTS")
            .query_async(cluster)
            .await?;
        let place = |range: &Vec<Value>| {
            // Behind the two ends stands the primary, and then its replicas.
            let Value::Array(primary) = range.get(2)? else {
                return None;
            };
            let host: String = redis::from_redis_value(primary.first()?.clone()).ok()?;
            let port: u16 = redis::from_redis_value(primary.get(1)?.clone()).ok()?;
            Some((host, port))
        };
        let places: BTreeSet<(String, u16)> = ranges.iter().filter_map(place).collect();
        let login: &RedisConnectionInfo = like.redis_settings();
        let info = |(host, port)| {
            let address = ConnectionAddr::Tcp(host, port);
            let info = redis::IntoConnectionInfo::into_connection_info(address)?;
            Ok(info.set_redis_settings(login.clone()))
        };
        places
            .into_iter()
            .map(info)
            .collect::<RedisResult<_>>()
            .map(Some)
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(server) => server.req_packed_command(command),
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
            Self::One(server) => server.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(server) => server.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}
