//! The connection, what the store is on the other side of it, and what its errors mean to a caller.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use redis::{
    Client, ConnectionInfo, FromRedisValue, IntoConnectionInfo, RedisError, ScriptInvocation,
};

use super::keys::Keys;
use super::link::Link;
use super::scripts::Scripts;
use super::wake::Wake;
use super::{Options, PARTITIONS_DEFAULT, PARTITIONS_MAX, durability};
use crate::error::{Error, Result};
use crate::job::{Partition, PartitionCount, QueueId};

/// What the layout of the keys is called. Another one is another store.
const FORMAT: &str = "1";

/// A store's server, and what all of its parts share.
pub(super) struct Connection {
    /// Those that say what has moved: any of them does.
    clients: Vec<Client>,
    link: Link,
    /// The queue that was created with the store.
    pub(super) queue: QueueId,
    pub(super) keys: Keys,
    pub(super) partitions: PartitionCount,
    pub(super) scripts: Scripts,
    pub(super) wake: Wake,
    meta: String,
    skew_ms: Arc<AtomicI64>,
    closed: AtomicBool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("meta", &self.meta)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) async fn open(url: &str, options: &Options) -> Result<Arc<Self>> {
        let nodes = nodes(url, options)?;
        let clients = nodes.iter().cloned().map(Client::open);
        let clients: Vec<Client> = clients.collect::<Result<_, _>>().map_err(|_| wrong())?;
        let mut link = Link::open(&nodes, is_cluster(url))
            .await
            .map_err(not_reached)?;
        if !options.relaxed_durability {
            match link.primaries(&nodes[0]).await.map_err(not_reached)? {
                None => durability::check(&mut link).await?,
                Some(primaries) => {
                    for primary in primaries {
                        let mut alone = Link::open(&[primary], false).await.map_err(not_reached)?;
                        durability::check(&mut alone).await?;
                    }
                }
            }
        }
        let scripts = Scripts::new();
        let meta = Keys::meta(&options.prefix);
        let (format, partitions, queue): (String, u16, String) = scripts
            .meta
            .key(&meta)
            .arg(FORMAT)
            .arg(
                options
                    .partitions
                    .map_or(PARTITIONS_DEFAULT, PartitionCount::get),
            )
            .arg(QueueId::random().to_string())
            .invoke_async(&mut link)
            .await
            .map_err(not_reached)?;
        if format != FORMAT {
            return Err(Error::Config(format!(
                "the store under {meta} has format {format} and this program knows {FORMAT}: use the program that made it, or another prefix"
            )));
        }
        if let Some(wanted) = options.partitions
            && wanted.get() != partitions
        {
            return Err(Error::Config(format!(
                "the store under {meta} has {partitions} partitions, not {wanted}: they are fixed when it is created, so ask for {partitions} or leave it out, or use another prefix"
            )));
        }
        let partitions = PartitionCount::new(partitions)?;
        let keys = Keys::new(&options.prefix, partitions);
        Ok(Arc::new(Self {
            wake: Wake::new(clients.clone(), keys.channel(), partitions),
            clients,
            queue: queue.parse()?,
            link,
            keys,
            partitions,
            scripts,
            meta,
            skew_ms: Arc::clone(&options.skew_ms),
            closed: AtomicBool::new(false),
        }))
    }

    pub(super) fn meta(&self) -> &str {
        &self.meta
    }

    pub(super) fn link(&self) -> Link {
        self.link.clone()
    }

    /// Wakes who waits for something else than the store.
    pub(super) fn another_wake(&self, channel: String) -> Wake {
        Wake::new(self.clients.clone(), channel, self.partitions)
    }

    /// What a script adds to the server's time.
    pub(super) fn skew(&self) -> i64 {
        self.skew_ms.load(Ordering::Relaxed)
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(Error::unavailable("the Redis store"))
        } else {
            Ok(())
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whoever waits is told, too.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake.close();
    }

    /// Runs a script that only reads.
    pub(super) async fn read<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T> {
        self.check_open()?;
        script
            .invoke_async(&mut self.link())
            .await
            .map_err(not_reached)
    }

    /// Runs a script that changes something: `what` says what, for when nobody knows whether it has.
    pub(super) async fn change<T: FromRedisValue>(
        &self,
        what: &str,
        script: &ScriptInvocation<'_>,
    ) -> Result<T> {
        self.check_open()?;
        script
            .invoke_async(&mut self.link())
            .await
            .map_err(|error| not_changed(what, error))
    }

    /// # Errors
    /// [`Error::Invalid`] if there is no such partition.
    pub(super) fn check_partition(&self, partition: Partition) -> Result<()> {
        if partition.0 < self.partitions.get() {
            Ok(())
        } else {
            Err(Error::invalid(
                "partition",
                format!("the store has {}, from 0 on", self.partitions),
            ))
        }
    }
}

/// The servers that `url` names, with the password of `options`.
fn nodes(url: &str, options: &Options) -> Result<Vec<ConnectionInfo>> {
    if let Some(count) = options.partitions
        && count.get() > PARTITIONS_MAX
    {
        return Err(Error::Config(format!(
            "{count} partitions are more than the {PARTITIONS_MAX} that a store on Redis can have"
        )));
    }
    if options.prefix.is_empty() || options.prefix.contains(['{', '}']) {
        return Err(Error::Config(
            "the prefix of a store on Redis must not be empty nor hold a brace, which marks what a cluster places keys by".to_owned(),
        ));
    }
    let mut nodes = parse(url)?;
    for info in &mut nodes {
        let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        let mut login = info.redis_settings().clone();
        if let Some(password) = &options.password {
            login = login.set_password(password);
        }
        *info = info.clone().set_tcp_settings(tcp).set_redis_settings(login);
    }
    Ok(nodes)
}

/// What stands before the servers of a cluster.
const CLUSTER: &str = "redis+cluster://";

fn is_cluster(url: &str) -> bool {
    url.starts_with(CLUSTER)
}

/// # Errors
/// [`Error::Config`] if `url` is not of the form that is taken.
pub(super) fn parse(url: &str) -> Result<Vec<ConnectionInfo>> {
    // The reason is not handed on: it may hold the URL, and that a password.
    let parse = |url: &str| url.into_connection_info().map_err(|_| wrong());
    let Some(rest) = url.strip_prefix(CLUSTER) else {
        return Ok(vec![parse(url)?]);
    };
    // All of them have the same login, and a password may hold any character but these two.
    let (login, hosts) = match rest.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), rest),
    };
    if hosts.contains('/') {
        return Err(wrong());
    }
    let hosts = hosts
        .split(',')
        .map(|host| parse(&format!("redis://{login}{host}")));
    hosts.collect()
}

fn wrong() -> Error {
    Error::Config(
        "it is not of the form redis://[:password@]host[:port][/database], redis+unix:///path or \
         redis+cluster://[:password@]host[:port],host[:port]"
            .to_owned(),
    )
}

/// For what changes nothing, and for answers that say that nothing has changed.
pub(super) fn not_reached(error: RedisError) -> Error {
    Error::Unavailable {
        what: "the Redis server does not answer as it should".to_owned(),
        source: Some(Box::new(error)),
    }
}

/// An answer is a refusal: scripts judge before they write. Without one, nobody knows.
fn not_changed(what: &str, error: RedisError) -> Error {
    let answered = error.code().is_some();
    if answered || error.is_connection_refusal() {
        not_reached(error)
    } else {
        Error::Unknown {
            what: what.to_owned(),
            source: Some(Box::new(error)),
        }
    }
}
