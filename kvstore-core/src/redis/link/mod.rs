//! [`Servers`]: one server or the primaries of a cluster, behind one type that sends commands. It
//! knows nothing of partitions, scripts or the meaning of an answer; see `session.rs` for those.

pub(crate) mod breaker;
pub(crate) mod connect;
mod password;
mod server;
pub(crate) mod wake;

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::aio::ConnectionLike;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr};
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, Value};

use crate::redis::link::server::ReconnectingServer;

/// One server or a cluster. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub(crate) enum Servers {
    One(Arc<ReconnectingServer>),
    Cluster(ClusterConnection),
}

impl Servers {
    /// Returns a route to each primary.
    pub(crate) async fn routes(&self) -> RedisResult<Vec<Route>> {
        if let Self::One(_) = self {
            return Ok(vec![Route::new(0, SlotAddr::Master)]);
        }
        let ranges: Vec<Vec<Value>> = self.command(redis::cmd("CLUSTER").arg("SLOTS")).await?;
        let first = |range: &Vec<Value>| {
            // The two ends, the primary (address, port, …), its replicas.
            let [Value::Int(first), _, primary, ..] = &range[..] else {
                return None;
            };
            let route = Route::new(u16::try_from(*first).ok()?, SlotAddr::Master);
            Some((format!("{primary:?}"), route))
        };
        let routes: BTreeMap<_, _> = ranges.iter().filter_map(first).collect();
        Ok(routes.into_values().collect())
    }

    /// Sends `command`, in a cluster to the servers that it concerns.
    pub(crate) async fn command<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let answer = match self {
            Self::One(server) => server.command(command).await,
            Self::Cluster(cluster) => cluster.clone().req_packed_command(command).await,
        };
        Ok(redis::from_redis_value(answer?.extract_error()?)?)
    }

    /// Sends `pipeline` over one connection, in a cluster to the server at the end of `route`, and
    /// returns its answers. An answer may be an error.
    pub(crate) async fn ask(&self, route: Route, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        match self {
            Self::One(server) => server.commands(pipeline).await,
            Self::Cluster(cluster) => {
                let (mut cluster, count) = (cluster.clone(), pipeline.len());
                let route = SingleNodeRoutingInfo::SpecificNode(route);
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
