//! [`Session`]: what the store and the queue of one process share. It runs their scripts on servers
//! that were checked first, and translates errors for callers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::TryFutureExt;
use futures_util::future::try_join_all;
use redis::cluster_routing::Route;
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind, Value,
};
use tokio::task::AbortHandle;

use crate::error::{Error, Result, source};
use crate::limits::RENUMBER_GAP;
use crate::model::id::{Partition, PartitionCount, QueueId};
use crate::redis::address::Address;
use crate::redis::keys::Keys;
use crate::redis::link::Servers;
use crate::redis::link::breaker::{Breakers, Unanswered};
use crate::redis::link::connect::{Connector, RESENDS_MAX};
use crate::redis::link::wake::Wake;
use crate::redis::log::Log;
use crate::redis::options::{Options, PARTITIONS_DEFAULT, PARTITIONS_MAX};
use crate::redis::per_partition::PerPartition;
use crate::redis::run::look::Look;
use crate::redis::run::{Run, Runs};
use crate::redis::scripts::{Call, FORMAT, Script};

/// Connections for changes that wait for replicas: a wait holds up the requests behind it.
const WAITING_LINKS: usize = 8;

/// How long replicas have to acknowledge a change, each time it is sent.
const REPLICAS_WAIT: Duration = Duration::from_secs(1);

/// How often a change is sent that was not made because the server does not know its script, the
/// partition is not open to the server's run, or the cluster is not in order. Three times suffice,
/// except for a slot that is moving to another server.
const MEETINGS_MAX: u32 = 8;

/// The pause before the third time; it doubles with each.
const MEETING_PAUSE: Duration = Duration::from_millis(10);

/// A store's server, and what all parts of the store share.
pub(crate) struct Session {
    link: Servers,
    /// For changes that give out numbers, each link for some of the partitions. There are several
    /// where changes wait for replicas. A change is sent over its link once.
    numbering: Vec<Servers>,
    breakers: Breakers,
    pub(crate) options: Options,
    pub(crate) runs: Runs,
    pub(crate) logs: PerPartition<Log>,
    /// The queue that was created with the store.
    pub(crate) queue: QueueId,
    pub(crate) keys: Keys,
    pub(crate) partitions: PartitionCount,
    pub(crate) wake: Wake,
    /// The task that receives messages.
    listener: AbortHandle,
    /// Set once the store on the same server is known to apply this queue's jobs.
    applies_own_queue: AtomicBool,
    /// The name of the key that all partitions share.
    pub(crate) meta: String,
    closed: AtomicBool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("meta", &self.meta)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) async fn open(address: &Address, options: Options) -> Result<Arc<Self>> {
        check(&options)?;
        let connector = Connector::new(address, &options)?;
        let failed = |error| not_opened(&connector, error);
        let link = connector.connect(RESENDS_MAX).await.map_err(failed)?;
        let mut met = Vec::new();
        for route in link.routes().await.map_err(failed)? {
            let look = Look::at(&link, route, &options).await.map_err(failed)?;
            if let Some(refusal) = look.refusal {
                return Err(Error::Config(refusal));
            }
            if look.replicas < options.wait_replicas {
                tracing::warn!(
                    connected = look.replicas,
                    wanted = options.wait_replicas,
                    "the Redis server has too few replicas: until they connect, no write is acknowledged (wait_replicas)"
                );
            }
            let run = Arc::new(Run::new(look.run));
            load(&link, route, &run, &options).await.map_err(failed)?;
            met.push(run);
        }
        let numbering = match (&link, options.wait_replicas) {
            (Servers::One(_), 0) => vec![link.clone()],
            (_, replicas) => {
                let count = if replicas == 0 { 1 } else { WAITING_LINKS };
                // The answer must be that of the single time that a change was sent: if the last of
                // several copies was refused, an earlier one may still have been applied.
                let links = (0..count).map(|_| connector.connect(0));
                try_join_all(links).await.map_err(failed)?
            }
        };
        let meta = Keys::meta(&options.prefix);
        let default = PartitionCount::new(PARTITIONS_DEFAULT)?;
        let wanted = options.partitions.unwrap_or(default);
        let found = create(&link, &meta, wanted, QueueId::random());
        let (format, partitions, queue) = found.await.map_err(failed)?;
        if format != FORMAT {
            return Err(Error::Config(format!(
                "the store under {meta} has format {format} and this program knows {FORMAT}: use the program that made it, or another prefix"
            )));
        }
        if options.partitions.is_some() && wanted.get() != partitions {
            return Err(Error::Config(format!(
                "the store under {meta} has {partitions} partitions, not {wanted}: they are fixed when it is created, so ask for {partitions} or leave it out, or use another prefix"
            )));
        }
        let partitions = PartitionCount::new(partitions)?;
        let keys = Keys::new(&options.prefix, partitions);
        let runs = Runs::new(partitions);
        if let [run] = &met[..] {
            for (partition, link) in partitions.iter().zip(numbering.iter().cycle()) {
                runs.meet(partition, Arc::clone(run), link.breaks());
            }
        }
        let wake = Wake::new(partitions);
        let channels = [keys.channel(), keys.jobs_channel()];
        let listening = wake.clone().listen(connector, channels);
        Ok(Arc::new(Self {
            queue: queue.parse()?,
            breakers: Breakers::new(&link, &keys, partitions),
            numbering,
            runs,
            logs: PerPartition::new(partitions),
            listener: tokio::spawn(listening).abort_handle(),
            wake,
            options,
            link,
            keys,
            partitions,
            applies_own_queue: AtomicBool::new(false),
            meta,
            closed: AtomicBool::new(false),
        }))
    }

    /// Remembers that `active` is the queue whose jobs the store applies.
    pub(crate) fn applies(&self, active: QueueId) {
        let is_own = active == self.queue;
        self.applies_own_queue.store(is_own, Ordering::Relaxed);
    }

    /// Returns the field of a partition's state that says how far the store on the same server has
    /// applied this queue's jobs; an empty text while it applies none. If a replica that lagged
    /// behind takes over and has lost that the queue is active, this process still remembers it.
    pub(crate) async fn applied_field(&self) -> Result<String> {
        if !self.applies_own_queue.load(Ordering::Relaxed) {
            match self.active_queue().await? {
                Some(active) if active == self.queue => self.applies(active),
                _ => return Ok(String::new()),
            }
        }
        Ok(format!("applied:{}", self.queue))
    }

    /// Returns the queue whose jobs the store on the same server applies.
    pub(crate) async fn active_queue(&self) -> Result<Option<QueueId>> {
        let active = self.field(&self.meta, "active").await?;
        active.map(|active| active.parse()).transpose()
    }

    /// Returns a field of the hash under `key`.
    pub(crate) async fn field(&self, key: &str, field: &str) -> Result<Option<String>> {
        self.ask(redis::cmd("HGET").arg(key).arg(field)).await
    }

    /// Returns the milliseconds that a script adds to the server's time.
    pub(crate) fn skew(&self) -> i64 {
        self.options.skew_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(Error::unavailable("the Redis store"))
        } else {
            Ok(())
        }
    }

    /// Closes the session and wakes all waiters.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.listener.abort();
        self.wake.missed();
    }

    /// Returns a call of a script for `partition`.
    pub(crate) fn call(&self, script: Script, partition: Partition) -> Call {
        Call::of(script, &self.keys, partition)
    }

    /// Runs a command that only reads, or that is harmless to repeat.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.ask_again(None, || self.link.command(command)).await
    }

    /// Runs a script that only reads.
    pub(crate) async fn read<T: FromRedisValue>(&self, call: &Call) -> Result<T> {
        let asking = || call.invoke(&self.link);
        self.ask_again(call.partition, asking).await
    }

    /// Runs what only reads, or is harmless to repeat; twice if the connection turns out to be
    /// broken, perhaps for a long time: a new one may work.
    async fn ask_again<T, F: Future<Output = RedisResult<T>>>(
        &self,
        partition: Option<Partition>,
        asking: impl Fn() -> F,
    ) -> Result<T> {
        self.check_open()?;
        let asked = async {
            let mut answer = asking().await;
            if let Err(error) = &answer
                && error.is_connection_dropped()
                && !error.is_connection_refusal()
            {
                answer = asking().await;
            }
            answer.map_err(not_reached)
        };
        self.breakers
            .pass(partition, Unanswered::Fails, asked)
            .await
    }

    /// Runs a script that changes something. `what` names the change, for an error that leaves its
    /// result unknown.
    pub(crate) async fn change<T: FromRedisValue>(&self, what: &str, call: &Call) -> Result<T> {
        self.check_open()?;
        let changed = call
            .invoke(&self.link)
            .map_err(|error| not_changed(what, error));
        self.breakers
            .pass(call.partition, Unanswered::Waits, changed)
            .await
    }

    /// Runs a script that gives out numbers, on a server that was checked since it started. Returns
    /// only once the required replicas have the change, too, unless it only removes what has
    /// expired.
    pub(crate) async fn number<T: FromRedisValue>(&self, what: &str, call: &Call) -> Result<T> {
        let replicas = match call.script {
            Script::Expire => 0,
            _ => self.options.wait_replicas,
        };
        let numbered = self.number_on(what, call, replicas);
        let (answer, count) = self
            .breakers
            .pass(call.partition, Unanswered::Waits, numbered)
            .await?;
        if count < replicas && is_change(&answer) {
            let what = format!("{what}: {count} replicas have it, and wait_replicas is {replicas}");
            return Err(Error::Unknown { what, source: None });
        }
        redis::from_redis_value(answer).map_err(|error| not_changed(what, error.into()))
    }

    /// Returns the answer, and how many replicas have the change.
    async fn number_on(&self, what: &str, call: &Call, replicas: usize) -> Result<(Value, usize)> {
        let partition = call.partition.unwrap_or_default();
        let mut pause = MEETING_PAUSE;
        for meeting in 0..MEETINGS_MAX {
            self.check_open()?;
            if meeting > 1 {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            let breaks = self.numbering(partition).breaks();
            let run = match self.runs.met(partition) {
                Some((run, at)) if at == breaks => run,
                _ => self.meet(partition, None).await?,
            };
            match self.send(&run, call, replicas).await {
                Ok(sent) => return Ok(sent),
                Err(error) if error.code() == Some("NOSCRIPT") => {
                    self.meet(partition, Some(&run)).await?;
                }
                Err(error) if error.code() == Some("ENTER") => {
                    self.enter(partition, &run).await?;
                }
                Err(error) if is_passing(&error) && meeting + 1 < MEETINGS_MAX => {}
                Err(error) => return Err(not_changed(what, error)),
            }
        }
        Err(Error::unavailable(
            "the partition's Redis server (the partition is moving to another one)",
        ))
    }

    /// Sends a call once. Returns its answer, and how many replicas have its change.
    async fn send(&self, run: &Run, call: &Call, replicas: usize) -> RedisResult<(Value, usize)> {
        let partition = call.partition.unwrap_or_default();
        let mut pipeline = Pipeline::new();
        pipeline.add_command(run.command(call));
        if replicas > 0 {
            pipeline.add_command(wait(replicas));
        }
        let route = self.keys.route(partition);
        let answers = self.numbering(partition).ask(route, &pipeline).await?;
        let mut answers = answers.into_iter();
        let answer = answers.next().unwrap_or(Value::Nil).extract_error()?;
        // The change is made. An error of the wait (the server has become a replica meanwhile) only
        // means that no replica is known to have it.
        let count = answers.next().map(redis::from_redis_value);
        Ok((answer, count.and_then(Result::ok).unwrap_or(0)))
    }

    /// Runs a script that only reads and that its server knows, and returns its answer once the
    /// required replicas have all that it saw; `None` if they do not within [`REPLICAS_WAIT`].
    pub(crate) async fn replicated<T: FromRedisValue>(&self, call: &Call) -> Result<Option<T>> {
        let partition = call.partition.unwrap_or_default();
        let barrier = self.call(Script::Barrier, partition);
        let barrier = barrier.arg(REPLICAS_WAIT.as_millis() as u64);
        let mut pipeline = Pipeline::new();
        pipeline.add_command(call.command());
        // The wait covers the connection's own last write, so one must follow what the script saw.
        pipeline.add_command(barrier.load());
        pipeline.add_command(barrier.command());
        pipeline.add_command(wait(self.options.wait_replicas));
        let (link, route) = (self.numbering(partition), self.keys.route(partition));
        let asking = || link.ask(route, &pipeline);
        let answers = self.ask_again(Some(partition), asking).await?.into_iter();
        let Ok(answers) = answers
            .map(Value::extract_error)
            .collect::<RedisResult<_>>()
        else {
            return Ok(None);
        };
        let (answer, _, _, count): (T, Value, Value, usize) =
            redis::from_redis_value(Value::Array(answers))
                .map_err(|error| not_reached(error.into()))?;
        Ok((count >= self.options.wait_replicas).then_some(answer))
    }

    /// Returns the connection for a partition's changes that give out numbers.
    fn numbering(&self, partition: Partition) -> &Servers {
        &self.numbering[usize::from(partition.0) % self.numbering.len()]
    }

    /// Returns the connection over which to check a partition's server, and to send it commands
    /// that are harmless to repeat.
    fn checking(&self, partition: Partition) -> &Servers {
        match &self.link {
            // Its breaks are the ones that count.
            Servers::One(_) => self.numbering(partition),
            Servers::Cluster(_) => &self.link,
        }
    }

    /// Checks the partition's server. Gives it the scripts that are bound to its run if that is
    /// another run than before, or if it does not know them (`unknown`).
    async fn meet(&self, partition: Partition, unknown: Option<&Run>) -> Result<Arc<Run>> {
        let breaks = self.numbering(partition).breaks();
        let (link, route) = (self.checking(partition), self.keys.route(partition));
        let look = Look::at(link, route, &self.options).await;
        let look = look.map_err(not_reached)?;
        if let Some(what) = look.refusal {
            return Err(Error::Unavailable { what, source: None });
        }
        let run = self.runs.named(look.run);
        let before = self.runs.met(partition);
        let is_other = before.is_some_and(|(before, _)| before.name != run.name);
        if is_other || unknown.is_some_and(|unknown| unknown.name == run.name) {
            let loaded = load(link, route, &run, &self.options).await;
            loaded.map_err(not_reached)?;
        }
        if is_other {
            // Another process may have opened it already, and then the server would not ask this
            // one to.
            self.enter(partition, &run).await?;
        }
        self.runs.meet(partition, Arc::clone(&run), breaks);
        Ok(run)
    }

    /// Opens the partition to a run of its server, and detects whether an earlier run has lost what
    /// it acknowledged.
    async fn enter(&self, partition: Partition, run: &Run) -> Result<()> {
        let acknowledged = self.runs.acknowledged(partition);
        let raise = fastrand::u64(RENUMBER_GAP..2 * RENUMBER_GAP);
        let call = self.call(Script::Enter, partition);
        let call = call.arg((acknowledged.major, raise, self.skew()));
        let link = self.checking(partition);
        let entered = link.command(&run.command(&call)).await;
        let ended: String = entered.map_err(not_reached)?;
        self.check_store(link).await?;
        if let Ok(minor) = ended.parse() {
            self.runs.ended(partition, acknowledged.major, minor);
        }
        Ok(())
    }

    /// Creates the store again, with the same queue, on a server that has lost everything.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the server has another store now.
    async fn check_store(&self, link: &Servers) -> Result<()> {
        let found = create(link, &self.meta, self.partitions, self.queue);
        let (_, partitions, queue) = found.await.map_err(not_reached)?;
        if queue == self.queue.to_string() && partitions == self.partitions.get() {
            return Ok(());
        }
        Err(Error::Unavailable {
            what: format!(
                "the store under {} was created again, with queue {queue} in place of {}: restart this \
                 program to use that one",
                self.meta, self.queue
            ),
            source: None,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Checks what the options say of the store's keys.
fn check(options: &Options) -> Result<()> {
    if let Some(count) = options.partitions
        && count.get() > PARTITIONS_MAX
    {
        return Err(Error::Config(format!(
            "{count} partitions are more than the {PARTITIONS_MAX} that a store on Redis can have"
        )));
    }
    if options.prefix.is_empty() || options.prefix.contains(['{', '}']) {
        return Err(Error::Config(
            "the prefix of a store on Redis must not be empty or contain a brace, which marks the part of a key that a cluster places it by".to_owned(),
        ));
    }
    Ok(())
}

/// Creates the store under `meta` if it does not exist. Returns its format, partitions and queue.
async fn create(
    link: &Servers,
    meta: &str,
    partitions: PartitionCount,
    queue: QueueId,
) -> RedisResult<(String, u16, String)> {
    let call = Call::new(Script::Meta).key(meta);
    let call = call.arg((FORMAT, partitions.get(), queue.to_string()));
    call.invoke(link).await
}

/// Gives the server at the end of `route` the scripts that are bound to a run. Another server may
/// have taken its place since it was asked for its run. Then that one has received them, and is
/// made to forget them.
async fn load(link: &Servers, route: Route, run: &Run, options: &Options) -> RedisResult<()> {
    for answer in link.ask(route, &run.load()).await? {
        answer.extract_error()?;
    }
    if Look::at(link, route, options).await?.run != run.name {
        link.ask(route, redis::pipe().cmd("SCRIPT").arg("FLUSH"))
            .await?;
    }
    Ok(())
}

/// Returns the command that waits until replicas have the last write of the connection.
fn wait(replicas: usize) -> Cmd {
    let mut command = redis::cmd("WAIT");
    command.arg(replicas).arg(REPLICAS_WAIT.as_millis() as u64);
    command
}

/// Returns false if a script answers that it has changed nothing, which needs no replica.
fn is_change(answer: &Value) -> bool {
    match answer {
        Value::Array(words) => words.first() == Some(&Value::BulkString(b"ok".to_vec())),
        _ => true,
    }
}

/// Returns the error of a first connection that failed.
fn not_opened(connector: &Connector, error: RedisError) -> Error {
    // The client's error repeats its cause as its source. That of a cluster is only text.
    let (redis, text) = (connector.endpoints(), error.to_string());
    let refuses = |word| text.to_ascii_lowercase().contains(word);
    let detail = |other| error.detail().unwrap_or(other);
    Error::Config(match error.code() {
        Some("NOPERM") => format!("the Redis user lacks a right: {}", detail("NOPERM")),
        Some("READONLY") => format!(
            "the Redis server refuses writes: {}",
            detail("it is a replica, give the address of its primary")
        ),
        _ if REFUSALS.into_iter().any(refuses) || !error.is_io_error() && !is_passing(&error) => {
            format!("Redis at {redis} cannot be used: {text}")
        }
        _ => {
            return Error::Unavailable {
                what: format!("Redis at {redis} cannot be reached"),
                source: source(text),
            };
        }
    })
}

/// Parts of error messages that no wait puts right: the login, the certificates or the permissions
/// of a socket are wrong.
const REFUSALS: [&str; 3] = ["authentication failed", "certificate", "permission denied"];

/// Returns true if a change was not made but may succeed when resent: the cluster is about to be in
/// order.
fn is_passing(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, TryAgain};
    matches!(
        error.kind(),
        ErrorKind::ClusterConnectionNotFound
            | ErrorKind::Server(Ask | BusyLoading | ClusterDown | MasterDown | Moved | TryAgain)
    )
}

/// Returns the error for a request that changed nothing, and for an answer that says so.
pub(crate) fn not_reached(error: RedisError) -> Error {
    Error::Unavailable {
        what: "the Redis server does not answer as it should".to_owned(),
        source: source(error.to_string()),
    }
}

/// Converts the error of a change: without a server's answer it is unknown whether the change was
/// made.
fn not_changed(what: &str, error: RedisError) -> Error {
    // Scripts judge before they write. An error from within a script may come after a write, unless
    // it is about the type of a key, which is judged first.
    let is_refusal = match error.code() {
        Some("WRONGTYPE") => true,
        Some(_) => !error.to_string().contains(" script: "),
        None => error.is_connection_refusal(),
    };
    if is_refusal || is_passing(&error) {
        return not_reached(error);
    }
    Error::Unknown {
        what: what.to_owned(),
        source: source(error.to_string()),
    }
}
