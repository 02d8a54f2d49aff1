//! The scripts: one operation each, with the keys that it takes. Scripts that give out numbers are
//! bound to a run of their server (`run/mod.rs`); the others are loaded when a server does not know
//! them yet.

use std::sync::LazyLock;

use redis::{Cmd, FromRedisValue, RedisResult, ToRedisArgs, Value};

use crate::model::id::Partition;
use crate::redis::keys::Keys;
use crate::redis::link::Servers;

/// What precedes every script's own text.
const SHARED: &str = include_str!("shared.lua");

/// The name of the layout of the keys. A store with another one needs another program.
pub(crate) const FORMAT: &str = "1";

/// How many scripts, from the first, are bound to a run.
const BOUND: usize = Script::Step as usize + 1;

/// The name of each script, its flags, its file, and the keys of a partition that it takes before
/// all others. With `no-writes`, a script also runs on a server that refuses writes; with
/// `allow-oom`, also on a full one, so that its queue can drain.
macro_rules! scripts {
    ($($name:ident $flags:literal $file:literal $($key:literal)*;)*) => {
        /// A script.
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Script { $($name),* }

        /// The flags, text and keys of each script.
        const ALL: &[(&str, &str, &[&str])] =
            &[$(($flags, include_str!($file), &[$($key),*])),*];
    };
}

scripts! {
    Enqueue "" "enqueue.lua" "queue" "jobs" "requests" "request-deadlines" "request-guarantees";
    Enter "allow-oom" "enter.lua" "state" "queue";
    Expire "allow-oom" "step.lua" "state" "keys" "deadlines" "changes" "letters" "letter-index" "queue" "jobs";
    Step "allow-oom" "step.lua" "state" "keys" "deadlines" "changes" "letters" "letter-index" "queue" "jobs";
    Activate "allow-oom" "activate.lua" "state";
    Adopt "allow-oom" "adopt.lua";
    Barrier "allow-oom" "barrier.lua" "barrier";
    Bind "allow-oom" "bind.lua";
    Changes "no-writes" "changes.lua" "state" "changes";
    Claim "allow-oom" "claim.lua" "claim" "requests" "request-deadlines" "request-guarantees" "queue" "jobs";
    Complete "allow-oom" "read.lua" "queue" "jobs" "state";
    Depth "no-writes" "depth.lua" "queue" "jobs" "requests";
    Due "no-writes" "due.lua" "state" "deadlines";
    Find "no-writes" "find.lua" "queue" "jobs";
    Forget "allow-oom" "forget.lua" "letters" "letter-index" "state";
    Get "no-writes" "get.lua" "state";
    Letters "no-writes" "letters.lua" "letters" "letter-index";
    List "no-writes" "list.lua" "state" "keys" "deadlines";
    Meta "allow-oom" "meta.lua";
    Outcome "no-writes" "outcome.lua" "state" "letters";
    Read "no-writes" "read.lua" "queue" "jobs" "state";
    Rights "no-writes" "rights.lua";
    StartAfter "allow-oom" "start_after.lua" "queue" "jobs" "state";
    Workers "allow-oom" "workers.lua";
}

/// A script with its keys and arguments.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) script: Script,
    /// The partition that it concerns, if it concerns one.
    pub(crate) partition: Option<Partition>,
    keys: Vec<Vec<u8>>,
    arguments: Vec<Vec<u8>>,
}

impl Call {
    pub(crate) fn new(script: Script) -> Self {
        Self {
            script,
            partition: None,
            keys: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// Returns a call with the keys of `partition` that the script takes first.
    pub(crate) fn of(script: Script, keys: &Keys, partition: Partition) -> Self {
        let (_, _, names) = ALL[script as usize];
        let keys = names.iter().map(|name| keys.of(partition, name));
        let mut call = Self::new(script);
        call.partition = Some(partition);
        call.key(keys.collect::<Vec<_>>())
    }

    pub(crate) fn key(mut self, key: impl ToRedisArgs) -> Self {
        key.write_redis_args(&mut self.keys);
        self
    }

    /// Adds arguments, a tuple for several.
    pub(crate) fn arg(mut self, arguments: impl ToRedisArgs) -> Self {
        self.add(arguments);
        self
    }

    pub(crate) fn add(&mut self, arguments: impl ToRedisArgs) {
        arguments.write_redis_args(&mut self.arguments);
    }

    /// Returns the command that makes a server know the script, which is not bound to a run.
    pub(crate) fn load(&self) -> Cmd {
        self.unbound().load()
    }

    /// Returns the command that runs the script, which is not bound to a run, on a server that
    /// knows it.
    pub(crate) fn command(&self) -> Cmd {
        self.unbound().command(self)
    }

    /// Runs the script, which is not bound to a run. Loads it first where it is not known.
    pub(crate) async fn invoke<T: FromRedisValue>(&self, link: &Servers) -> RedisResult<T> {
        let command = self.command();
        match link.command(&command).await {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                // All servers of a cluster receive it: the slot may be moving to any of them.
                let _: Value = link.command(&self.load()).await?;
                link.command(&command).await
            }
            answer => answer,
        }
    }

    fn unbound(&self) -> &'static ScriptText {
        static UNBOUND: LazyLock<Vec<ScriptText>> = LazyLock::new(|| texts(&ALL[BOUND..], SHARED));
        &UNBOUND[self.script as usize - BOUND]
    }
}

/// The text of a script, and the hash by which a server knows it.
#[derive(Debug)]
pub(crate) struct ScriptText {
    text: String,
    hash: String,
}

impl ScriptText {
    /// Returns the command that makes a server know the script.
    pub(crate) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(&self.text);
        command
    }

    /// Returns the command that runs the script on a server that knows it.
    pub(crate) fn command(&self, call: &Call) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash).arg(call.keys.len());
        command.arg(&call.keys).arg(&call.arguments);
        command
    }
}

/// Returns the scripts that are bound to a run, for run `name`, in the order of [`Script`].
pub(crate) fn bound(name: &str) -> Vec<ScriptText> {
    let numbering = include_str!("numbering.lua");
    let before = format!("local RUN = '{name}'\n{SHARED}{numbering}");
    texts(&ALL[..BOUND], &before)
}

fn texts(scripts: &[(&str, &str, &[&str])], before: &str) -> Vec<ScriptText> {
    let texts = scripts.iter().map(|(flags, own, _)| {
        let text = format!("#!lua flags={flags}\n{before}{own}");
        let hash = redis::Script::new(&text).get_hash().to_owned();
        ScriptText { text, hash }
    });
    texts.collect()
}
