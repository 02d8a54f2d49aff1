//! The scripts: one operation each, with the keys that it takes. Scripts that give out numbers are
//! bound to a run of their server (`run/mod.rs`); the others are loaded when a server does not know
//! them yet.

use redis::{Cmd, RedisResult, ScriptInvocation, ToRedisArgs};

use crate::model::id::{Partition, PartitionCount, QueueId};
use crate::redis::keys::Keys;
use crate::redis::link::Servers;

/// The name of the layout of the keys. A store with another one needs another program.
pub(crate) const FORMAT: &str = "1";

/// How many scripts, from the first, are bound to a run.
pub(crate) const BOUND: usize = Script::Step as usize + 1;

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
    Expire "allow-oom" "expire.lua" "state" "keys" "deadlines" "changes";
    Step "allow-oom" "step.lua" "state" "keys" "deadlines" "changes" "letters" "letter-index" "queue" "jobs";
    Activate "allow-oom" "activate.lua" "state";
    Adopt "allow-oom" "adopt.lua";
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
    StartAfter "allow-oom" "start_after.lua" "queue" "jobs" "state";
    Workers "allow-oom" "workers.lua";
}

/// A script with its keys and arguments.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) script: Script,
    /// The partition that it concerns, if it concerns one.
    pub(crate) partition: Option<Partition>,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) arguments: Vec<Vec<u8>>,
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
        let call = Self {
            partition: Some(partition),
            ..Self::new(script)
        };
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

    /// Returns the command that runs the script, given its hash, on a server that knows it.
    pub(crate) fn command(&self, hash: &str) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(hash).arg(self.keys.len());
        command.arg(&self.keys).arg(&self.arguments);
        command
    }
}

/// Returns the text of a script that is bound to run `name`.
pub(crate) fn bound(script: usize, name: &str) -> String {
    let (flags, own, _) = ALL[script];
    let shared = include_str!("shared.lua");
    let numbering = include_str!("numbering.lua");
    format!("#!lua flags={flags}\nlocal RUN = '{name}'\n{shared}{numbering}{own}")
}

/// The scripts that are not bound to a run.
pub(crate) struct Scripts(Vec<redis::Script>);

impl Scripts {
    pub(crate) fn new() -> Self {
        let script = |(flags, own, _): &(&str, &str, &[&str])| {
            let shared = include_str!("shared.lua");
            redis::Script::new(&format!("#!lua flags={flags}\n{shared}{own}"))
        };
        Self(ALL[BOUND..].iter().map(script).collect())
    }

    pub(crate) fn of(&self, call: &Call) -> ScriptInvocation<'_> {
        let mut script = self.0[call.script as usize - BOUND].prepare_invoke();
        script.key(&call.keys).arg(&call.arguments);
        script
    }

    pub(crate) fn hash(&self, script: Script) -> &str {
        self.0[script as usize - BOUND].get_hash()
    }

    /// Creates the store under `meta` if it does not exist. Returns its format, partitions and
    /// queue.
    pub(crate) async fn meta(
        &self,
        link: &mut Servers,
        meta: &str,
        partitions: PartitionCount,
        queue: QueueId,
    ) -> RedisResult<(String, u16, String)> {
        let call = Call::new(Script::Meta).key(meta);
        let call = call.arg((FORMAT, partitions.get(), queue.to_string()));
        self.of(&call).invoke_async(link).await
    }
}
