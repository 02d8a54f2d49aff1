//! [`Session`]: what the store and the queue of one process share. It runs their scripts on servers
//! that were checked first, and translates errors for callers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{
    Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult,
    ServerErrorKind, Value,
};
use socket2::TcpKeepalive;

use crate::error::{Error, Result, source};
use crate::limits::RENUMBER_GAP;
use crate::model::id::{Partition, PartitionCount, Position, QueueId};
use crate::redis::address::Address;
use crate::redis::keys::Keys;
use crate::redis::link::breaker::{Breakers, Unanswered};
use crate::redis::link::password::PasswordFile;
use crate::redis::link::tls;
use crate::redis::link::wake::Wake;
use crate::redis::link::{ANSWER_MAX, Resend, Servers};
use crate::redis::log::Logs;
use crate::redis::options::{Options, PARTITIONS_DEFAULT, PARTITIONS_MAX};
use crate::redis::run::look::Look;
use crate::redis::run::{Run, Runs};
use crate::redis::scripts::{Call, FORMAT, Script, Scripts};

/// Connections for changes that wait for replicas: a wait holds up the requests behind it.
const WAITING_LINKS: usize = 8;

/// How long replicas have to acknowledge a change, each time it is sent.
const REPLICAS_WAIT: Duration = Duration::from_secs(1);

/// Writes, also on a full server: its queue drains only through jobs that replicas have.
const BARRIER: &str = "#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], '', 'PX', ARGV[1])";

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
    pub(crate) logs: Logs,
    /// The queue that was created with the store.
    pub(crate) queue: QueueId,
    pub(crate) keys: Keys,
    pub(crate) partitions: PartitionCount,
    pub(crate) scripts: Scripts,
    pub(crate) wake: Wake,
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
        let nodes = nodes(address, &options)?;
        let certificates = tls::certificates(address, &options);
        let password = PasswordFile::of(&options, &nodes[0])?;
        let clients = nodes.iter().cloned();
        let clients = clients.map(|node| tls::client(node, certificates.as_ref()));
        let clients: Vec<Client> = clients.collect::<RedisResult<_>>().map_err(tls::refused)?;
        let open = async |resend| match address.is_cluster {
            true => {
                Servers::cluster(&nodes, certificates.as_ref(), password.as_ref(), resend).await
            }
            false => Servers::one(&clients[0], password.as_ref(), options.relaxed_durability).await,
        };
        let failed = |error| not_opened(address, error);
        let mut link = open(Resend::Some).await.map_err(failed)?;
        let met = look_at_all(address, &mut link, &options).await?;
        let mut numbering = Vec::new();
        let links = match (&link, options.wait_replicas) {
            (Servers::One(_), 0) => {
                numbering.push(link.clone());
                1
            }
            (Servers::Cluster(_), 0) => 1,
            _ => WAITING_LINKS,
        };
        while numbering.len() < links {
            numbering.push(open(Resend::Never).await.map_err(failed)?);
        }
        let scripts = Scripts::new();
        let meta = Keys::meta(&options.prefix);
        let wanted = PartitionCount::new(PARTITIONS_DEFAULT)?;
        let wanted = options.partitions.unwrap_or(wanted);
        let found = scripts.meta(&mut link, &meta, wanted, QueueId::random());
        let (format, partitions, queue) = found.await.map_err(failed)?;
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
        let runs = Runs::new(partitions);
        if let (Servers::One(_), [run]) = (&link, &met[..]) {
            for (partition, link) in partitions.iter().zip(numbering.iter().cycle()) {
                runs.meet(partition, Arc::clone(run), link.breaks());
            }
        }
        Ok(Arc::new(Self {
            breakers: Breakers::new(&link, partitions),
            numbering,
            runs,
            logs: Logs::new(partitions),
            // Each server announces everything.
            wake: Wake::new(clients, password, &keys, partitions),
            options,
            queue: queue.parse()?,
            link,
            keys,
            partitions,
            scripts,
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

    pub(crate) fn link(&self) -> Servers {
        self.link.clone()
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
        self.wake.close();
    }

    /// Runs a command that only reads, or that is harmless to repeat.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.check_open()?;
        let asking = |mut link| async move { command.query_async(&mut link).await };
        self.ask_again(None, self.link(), asking).await
    }

    /// Runs what only reads, or is harmless to repeat; twice if the connection turns out to be
    /// broken.
    async fn ask_again<T, F: Future<Output = RedisResult<T>>>(
        &self,
        partition: Option<Partition>,
        link: Servers,
        asking: impl Fn(Servers) -> F,
    ) -> Result<T> {
        let asked = async {
            let mut answer = asking(link.clone()).await;
            if is_broken(&answer) {
                answer = asking(link).await;
            }
            answer.map_err(not_reached)
        };
        self.pass(partition, Unanswered::Fails, asked).await
    }

    /// Waits for the answer of `call`, unless the partition's server is known to be silent.
    async fn pass<T>(
        &self,
        partition: Option<Partition>,
        unanswered: Unanswered,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let slot = partition.map_or(0, |partition| self.keys.slot(partition));
        self.breakers
            .pass(partition, (&self.link, slot), unanswered, call)
            .await
    }

    /// Returns a call of a script for `partition`.
    pub(crate) fn call(&self, script: Script, partition: Partition) -> Call {
        Call::of(script, &self.keys, partition)
    }

    /// Runs a script that only reads.
    pub(crate) async fn read<T: FromRedisValue>(&self, call: &Call) -> Result<T> {
        self.check_open()?;
        let script = &self.scripts.of(call);
        let asking = |mut link| async move { script.invoke_async(&mut link).await };
        self.ask_again(call.partition, self.link(), asking).await
    }

    /// Runs a script that changes something. `what` names the change, for an error that leaves its
    /// result unknown.
    pub(crate) async fn change<T: FromRedisValue>(&self, what: &str, call: &Call) -> Result<T> {
        self.check_open()?;
        let script = self.scripts.of(call);
        let asking = async {
            let answer = script.invoke_async(&mut self.link()).await;
            answer.map_err(|error| not_changed(what, error))
        };
        self.pass(call.partition, Unanswered::Waits, asking).await
    }

    /// Runs a script that gives out numbers, on a server that was checked since it started. Returns
    /// only once the required replicas have the change, too, unless it only removes what has
    /// expired.
    pub(crate) async fn number<T: FromRedisValue>(&self, what: &str, call: &Call) -> Result<T> {
        let numbering = self.number_on(what, call);
        self.pass(call.partition, Unanswered::Waits, numbering)
            .await
    }

    async fn number_on<T: FromRedisValue>(&self, what: &str, call: &Call) -> Result<T> {
        let partition = call.partition.unwrap_or_default();
        let replicas = match call.script {
            Script::Expire => 0,
            _ => self.options.wait_replicas,
        };
        let mut pause = MEETING_PAUSE;
        for meeting in 0..MEETINGS_MAX {
            self.check_open()?;
            if meeting > 1 {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            let mut link = self.link_of(partition);
            let run = match self.runs.met(partition, link.breaks()) {
                Some(run) => run,
                None => self.meet(partition, &link, None).await?,
            };
            let sent = send(&mut link, self.keys.slot(partition), &run, call, replicas).await;
            match sent {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.meet(partition, &link, Some(&run)).await?;
                }
                Err(error) if error.code() == Some("ENTER") => {
                    self.enter(partition, &link, &run).await?;
                }
                Err(error) if is_passing(&error) && meeting + 1 < MEETINGS_MAX => {}
                Err(error) => return Err(not_changed(what, error)),
                Ok((answer, count)) if count < replicas && is_change(&answer) => {
                    return Err(Error::Unknown {
                        what: format!(
                            "{what}: {count} replicas have it, and wait_replicas is {replicas}"
                        ),
                        source: None,
                    });
                }
                Ok((answer, _)) => {
                    return redis::from_redis_value(answer)
                        .map_err(|error| not_changed(what, error.into()));
                }
            }
        }
        Err(Error::unavailable(
            "the partition's Redis server (the partition is moving to another one)",
        ))
    }

    /// Runs a script that only reads and that its server knows, and returns its answer once the
    /// required replicas have all that it saw; `None` if they do not within [`REPLICAS_WAIT`].
    pub(crate) async fn replicated<T: FromRedisValue>(&self, call: &Call) -> Result<Option<T>> {
        self.check_open()?;
        let partition = call.partition.unwrap_or_default();
        let wait = REPLICAS_WAIT.as_millis() as u64;
        let replicas = self.options.wait_replicas;
        let mut pipeline = Pipeline::new();
        pipeline.add_command(call.command(self.scripts.hash(call.script)));
        // WAIT covers the connection's own last write, so one must follow what the script saw.
        pipeline.cmd("SCRIPT").arg("LOAD").arg(BARRIER);
        let barrier = pipeline
            .cmd("EVALSHA")
            .arg(redis::Script::new(BARRIER).get_hash());
        barrier
            .arg(1)
            .arg(self.keys.of(partition, "barrier"))
            .arg(wait);
        pipeline.cmd("WAIT").arg(replicas).arg(wait);
        let (slot, pipeline) = (self.keys.slot(partition), &pipeline);
        let asking = |mut link: Servers| async move { link.ask(slot, pipeline).await };
        let link = self.link_of(partition);
        let answers = self.ask_again(Some(partition), link, asking).await?;
        let Ok([answer, _, set, count]) = <[Value; 4]>::try_from(answers) else {
            return Ok(None);
        };
        let count: usize = match (set.extract_error(), count.extract_error()) {
            (Ok(_), Ok(count)) => redis::from_redis_value(count).unwrap_or(0),
            _ => 0,
        };
        match answer.extract_error() {
            Ok(answer) if count >= replicas => redis::from_redis_value(answer)
                .map(Some)
                .map_err(|error| not_reached(error.into())),
            _ => Ok(None),
        }
    }

    /// Returns the connection over which to check the server at the end of `link`, and to send it
    /// commands that are harmless to repeat.
    fn to_look_over(&self, link: &Servers) -> Servers {
        match link {
            // The connection itself, since its breaks are the ones that count.
            Servers::One(_) => link.clone(),
            Servers::Cluster(_) => self.link(),
        }
    }

    /// Returns the connection for a partition's changes that give out numbers.
    fn link_of(&self, partition: Partition) -> Servers {
        self.numbering[usize::from(partition.0) % self.numbering.len()].clone()
    }

    /// Checks the partition's server. Gives it the scripts that are bound to its run if that is
    /// another run than before, or if it does not know them (`unknown`).
    async fn meet(
        &self,
        partition: Partition,
        link: &Servers,
        unknown: Option<&Run>,
    ) -> Result<Arc<Run>> {
        let (slot, breaks) = (self.keys.slot(partition), link.breaks());
        let link = &mut self.to_look_over(link);
        let look = Look::at(link, slot, &self.options).await;
        let look = look.map_err(not_reached)?;
        if let Some(what) = look.refusal {
            return Err(Error::Unavailable { what, source: None });
        }
        let run = self.runs.named(look.run.as_deref());
        let is_other = self.runs.is_other(partition, &run);
        if is_other || unknown.is_some_and(|unknown| unknown.name == run.name) {
            let loaded = load(link, slot, &run, &self.options).await;
            loaded.map_err(not_reached)?;
        }
        if is_other {
            // Another process may have opened it already, and then the server would not ask this
            // one to.
            self.enter(partition, link, &run).await?;
        }
        self.runs.meet(partition, Arc::clone(&run), breaks);
        Ok(run)
    }

    /// Opens the partition to a run of its server, and detects whether an earlier run has lost what
    /// it acknowledged.
    async fn enter(&self, partition: Partition, link: &Servers, run: &Run) -> Result<()> {
        let acknowledged = self.runs.acknowledged(partition);
        let link = &mut self.to_look_over(link);
        let raise = fastrand::u64(RENUMBER_GAP..2 * RENUMBER_GAP);
        let call = self.call(Script::Enter, partition);
        let call = call.arg((acknowledged.major, raise, self.skew()));
        let ended: String = send(link, self.keys.slot(partition), run, &call, 0)
            .await
            .and_then(|(answer, _)| Ok(redis::from_redis_value(answer)?))
            .map_err(not_reached)?;
        self.check_store(link).await?;
        if let Ok(minor) = ended.parse() {
            let end = Position {
                minor,
                ..acknowledged
            };
            self.runs.ended(partition, end);
        }
        Ok(())
    }

    /// Creates the store again, with the same queue, on a server that has lost everything.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the server has another store now.
    async fn check_store(&self, link: &mut Servers) -> Result<()> {
        let found = self
            .scripts
            .meta(link, &self.meta, self.partitions, self.queue);
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

/// Returns the servers at `address`, with the password of `options`.
fn nodes(address: &Address, options: &Options) -> Result<Vec<ConnectionInfo>> {
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
    let mut nodes = address.nodes.clone();
    for info in &mut nodes {
        // A server whose machine has failed closes no connection. The next connection may lead to
        // another server. Probes find that out on a connection that only receives messages.
        let probes = TcpKeepalive::new().with_time(ANSWER_MAX);
        let tcp = TcpSettings::default().set_nodelay(true);
        let tcp = tcp.set_keepalive(probes.with_interval(ANSWER_MAX / 3));
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(ANSWER_MAX);
        let mut login = info.redis_settings().clone();
        if let Some(password) = &options.password {
            login = login.set_password(password);
        }
        *info = info.clone().set_tcp_settings(tcp).set_redis_settings(login);
    }
    Ok(nodes)
}

/// Checks each server and the user's rights there, and gives it the scripts that are bound to its
/// run.
async fn look_at_all(
    address: &Address,
    link: &mut Servers,
    options: &Options,
) -> Result<Vec<Arc<Run>>> {
    let failed = |error| not_opened(address, error);
    let mut runs = Vec::new();
    for slot in link.slots().await.map_err(failed)? {
        let look = Look::at(link, slot, options).await.map_err(failed)?;
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
        let run = Arc::new(Run::new(look.run.as_deref()));
        load(link, slot, &run, options).await.map_err(failed)?;
        runs.push(run);
    }
    Ok(runs)
}

/// Gives the server that has `slot` the scripts that are bound to a run. The slot may have moved
/// since its server was asked for its run. Then another server has received them, and is made to
/// forget them.
async fn load(link: &mut Servers, slot: u16, run: &Run, options: &Options) -> RedisResult<()> {
    let answers = link.ask(slot, &run.load()).await?;
    for answer in answers {
        answer.extract_error()?;
    }
    let look = Look::at(link, slot, options).await?;
    if look.run.is_some_and(|there| there != run.name) {
        let mut flush = Pipeline::new();
        flush.cmd("SCRIPT").arg("FLUSH");
        link.ask(slot, &flush).await?;
    }
    Ok(())
}

/// Returns a call's answer, and how many replicas have its change.
async fn send(
    link: &mut Servers,
    slot: u16,
    run: &Run,
    call: &Call,
    replicas: usize,
) -> RedisResult<(Value, usize)> {
    let command = run.command(call);
    if replicas == 0 {
        return Ok((command.query_async(link).await?, 0));
    }
    let mut pipeline = Pipeline::new();
    pipeline.add_command(command);
    pipeline
        .cmd("WAIT")
        .arg(replicas)
        .arg(REPLICAS_WAIT.as_millis() as u64);
    let mut answers = link.ask(slot, &pipeline).await?.into_iter();
    let mut next = || answers.next().unwrap_or(Value::Nil).extract_error();
    let answer = next()?;
    // The change is made. An error of the wait (the server has become a replica meanwhile) only
    // means that no replica is known to have it.
    let count = next().and_then(|count| Ok(redis::from_redis_value(count)?));
    Ok((answer, count.unwrap_or(0)))
}

/// Returns false if a script answers that it has changed nothing, which needs no replica.
fn is_change(answer: &Value) -> bool {
    match answer {
        Value::Array(words) => words.first() == Some(&Value::BulkString(b"ok".to_vec())),
        _ => true,
    }
}

/// Returns the error of a first connection that failed.
fn not_opened(address: &Address, error: RedisError) -> Error {
    if error.code() == Some("NOPERM") {
        return Error::Config(format!(
            "the Redis user lacks a right: {}",
            error.detail().unwrap_or("NOPERM")
        ));
    }
    if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
        return Error::Config(format!(
            "the Redis server refuses writes: {}",
            error
                .detail()
                .unwrap_or("it is a replica, give the address of its primary")
        ));
    }
    // The client's error repeats its cause as its source. That of a cluster is only text.
    let (redis, text) = (address.endpoints(), error.to_string());
    let refuses = |word| text.to_ascii_lowercase().contains(word);
    if REFUSALS.into_iter().any(refuses) || !error.is_io_error() && !is_passing(&error) {
        return Error::Config(format!("Redis at {redis} cannot be used: {text}"));
    }
    Error::Unavailable {
        what: format!("Redis at {redis} cannot be reached"),
        source: source(text),
    }
}

/// Parts of error messages that no wait puts right: the login, the certificates or the permissions
/// of a socket are wrong.
const REFUSALS: [&str; 3] = ["authentication failed", "certificate", "permission denied"];

/// Returns true if the connection was broken, perhaps for a long time: a new one may work.
fn is_broken<T>(answer: &RedisResult<T>) -> bool {
    answer
        .as_ref()
        .is_err_and(|error| error.is_connection_dropped() && !error.is_connection_refusal())
}

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

/// Returns true if an error is a server's answer that nothing was changed: scripts judge before
/// they write. An error from within a script may come after a write, unless it is about the type of
/// a key, which is judged first.
fn is_refusal(error: &RedisError) -> bool {
    let is_from_within = || error.to_string().contains(" script: ");
    error
        .code()
        .is_some_and(|code| code == "WRONGTYPE" || !is_from_within())
}

/// Converts the error of a change: without a server's answer it is unknown whether the change was
/// made.
fn not_changed(what: &str, error: RedisError) -> Error {
    if is_refusal(&error) || error.is_connection_refusal() || is_passing(&error) {
        not_reached(error)
    } else {
        Error::Unknown {
            what: what.to_owned(),
            source: source(error.to_string()),
        }
    }
}
