//! One server behind one address. The connection is made on demand, and again after a break. Breaks
//! are counted, since another server may answer after each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisResult,
    ServerErrorKind, Value,
};

/// A server with its connection.
pub(crate) struct ReconnectingServer {
    client: Client,
    settings: AsyncConnectionConfig,
    /// Accepts a replica, though its data is old and it refuses writes.
    replica_taken: bool,
    state: Mutex<ConnectionState>,
}

#[derive(Default)]
struct ConnectionState {
    /// The connection, or an attempt to make one that its callers drive together.
    current: Option<Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>>,
    /// How many earlier connections broke, which is also the number of the current one.
    broken: u64,
}

impl ReconnectingServer {
    /// Connects to a server.
    pub(crate) async fn open(
        client: Client,
        settings: AsyncConnectionConfig,
        replica_taken: bool,
    ) -> RedisResult<Arc<Self>> {
        let server = Arc::new(Self {
            client,
            settings,
            replica_taken,
            state: Mutex::default(),
        });
        server.connection().await?;
        Ok(server)
    }

    /// Returns how many connections broke. After one more, the next may lead to another server, or
    /// to one that restarted.
    pub(crate) fn breaks(&self) -> u64 {
        self.state().broken
    }

    /// Returns the connection with its number, and connects first if there is none.
    async fn connection(self: &Arc<Self>) -> RedisResult<(MultiplexedConnection, u64)> {
        let (connecting, number) = {
            let mut state = self.state();
            let new = || Arc::clone(self).connect().boxed().shared();
            (state.current.get_or_insert_with(new).clone(), state.broken)
        };
        let connection = connecting.await.inspect_err(|_| self.forget(number))?;
        Ok((connection, number))
    }

    async fn connect(self: Arc<Self>) -> RedisResult<MultiplexedConnection> {
        let (client, settings) = (&self.client, &self.settings);
        let connecting = client.get_multiplexed_async_connection_with_config(settings);
        let mut connection = connecting.await?;
        if !self.replica_taken {
            let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
            if matches!(role.first(), Some(Value::BulkString(role)) if role != b"master") {
                let kind = ErrorKind::Server(ServerErrorKind::ReadOnly);
                return Err((kind, "it is a replica, give the address of its primary").into());
            }
        }
        Ok(connection)
    }

    pub(crate) async fn command(self: &Arc<Self>, command: &Cmd) -> RedisResult<Value> {
        let (mut connection, number) = self.connection().await?;
        let answer = connection.send_packed_command(command).await;
        self.judge(number, answer.as_ref().map(std::slice::from_ref));
        answer
    }

    pub(crate) async fn commands(self: &Arc<Self>, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let (mut connection, number) = self.connection().await?;
        let answers = connection.send_packed_commands(pipeline, 0, pipeline.len());
        let answers = answers.await;
        self.judge(number, answers.as_deref());
        answers
    }

    /// Drops a connection if its answers show that the next should come over a new one.
    fn judge(&self, number: u64, answers: Result<&[Value], &RedisError>) {
        let is_over = match answers {
            // The server has become a replica, and the address may lead to another one now.
            Ok(answers) => answers.iter().any(is_read_only),
            Err(error) => error.is_unrecoverable_error(),
        };
        if is_over {
            self.forget(number);
        }
    }

    /// Drops connection `number`, so that the next request connects again.
    fn forget(&self, number: u64) {
        let mut state = self.state();
        if state.broken == number {
            state.current = None;
            state.broken += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_read_only(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::ReadOnly))
}
