//! One server behind one address. The connection is made on demand, and again after a break. Breaks
//! are counted, since another server may answer after each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisResult,
    ServerErrorKind, Value,
};

/// A server with its connection. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub(crate) struct ReconnectingServer(Arc<ServerInner>);

struct ServerInner {
    client: Client,
    settings: AsyncConnectionConfig,
    /// Accepts a replica, though its data is old and it refuses writes.
    replica_taken: bool,
    state: Mutex<ConnectionState>,
}

#[derive(Default)]
struct ConnectionState {
    current: Option<Connecting>,
    /// How many earlier connections broke.
    broken: u64,
}

/// A connection, or an attempt to make one that its callers drive together.
type Connecting = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

impl ReconnectingServer {
    pub(crate) fn new(
        client: Client,
        settings: AsyncConnectionConfig,
        replica_taken: bool,
    ) -> Self {
        Self(Arc::new(ServerInner {
            client,
            settings,
            replica_taken,
            state: Mutex::default(),
        }))
    }

    /// Returns how many connections broke. After one more, the next may lead to another server, or
    /// to one that restarted.
    pub(crate) fn breaks(&self) -> u64 {
        self.state().broken
    }

    /// Connects unless a connection exists.
    pub(crate) async fn connect(&self) -> RedisResult<()> {
        self.connection().await.map(drop)
    }

    pub(crate) fn db(&self) -> i64 {
        self.0.client.get_connection_info().redis_settings().db()
    }

    pub(crate) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let (mut connection, which) = self.connection().await?;
        let answer = connection.req_packed_command(command).await;
        self.judge(&which, answer.as_ref().map(std::slice::from_ref));
        answer
    }

    pub(crate) async fn commands(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let (mut connection, which) = self.connection().await?;
        let answers = connection.req_packed_commands(pipeline, offset, count);
        let answers = answers.await;
        self.judge(&which, answers.as_deref());
        answers
    }

    /// Drops a connection if its answers show that the next should come over a new one.
    fn judge(&self, which: &Connecting, answers: Result<&[Value], &RedisError>) {
        let is_over = match answers {
            Ok(answers) => answers.iter().any(is_read_only),
            Err(error) => is_over(error),
        };
        if is_over {
            self.forget(which);
        }
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self) -> RedisResult<(MultiplexedConnection, Connecting)> {
        let connecting = {
            let mut state = self.state();
            match &state.current {
                Some(current) => current.clone(),
                None => {
                    let inner = Arc::clone(&self.0);
                    let new = async move { inner.connect().await }.boxed().shared();
                    state.current.insert(new).clone()
                }
            }
        };
        match connecting.clone().await {
            Ok(connection) => Ok((connection, connecting)),
            Err(error) => {
                self.forget(&connecting);
                Err(error)
            }
        }
    }

    /// Drops `broken`, so that the next request connects again.
    fn forget(&self, broken: &Connecting) {
        let mut state = self.state();
        if state
            .current
            .as_ref()
            .is_some_and(|current| current.ptr_eq(broken))
        {
            state.current = None;
            state.broken += 1;
        }
    }
}

impl ServerInner {
    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&self.settings)
            .await?;
        if !self.replica_taken && is_replica(&mut connection).await? {
            return Err(RedisError::from((
                ErrorKind::Server(ServerErrorKind::ReadOnly),
                "it is a replica, give the address of its primary",
            )));
        }
        Ok(connection)
    }
}

async fn is_replica(connection: &mut MultiplexedConnection) -> RedisResult<bool> {
    let role: Vec<Value> = redis::cmd("ROLE").query_async(connection).await?;
    Ok(matches!(role.first(), Some(Value::BulkString(role)) if role != b"master"))
}

/// Returns true if the server has become a replica, so that the address may lead to another one
/// now.
fn is_read_only(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::ReadOnly))
}

fn is_over(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}
