//! The scripts: one operation each. Loaded when a server does not know them yet; those that give out numbers only by `run.rs`.

use redis::{RedisResult, Script};

use crate::model::id::{PartitionCount, QueueId};
use crate::redis::link::Servers;

/// What the layout of the keys is called. Another one is another store.
pub(crate) const FORMAT: &str = "1";

/// The scripts of a store and its queue.
pub(crate) struct Scripts {
    pub(crate) activate: Script,
    pub(crate) adopt: Script,
    pub(crate) bind: Script,
    pub(crate) changes: Script,
    pub(crate) due: Script,
    pub(crate) forget: Script,
    pub(crate) get: Script,
    pub(crate) letters: Script,
    pub(crate) list: Script,
    meta: Script,
    pub(crate) outcome: Script,
    pub(crate) claim: Script,
    pub(crate) complete: Script,
    pub(crate) depth: Script,
    pub(crate) find: Script,
    pub(crate) read: Script,
    pub(crate) start_after: Script,
    pub(crate) workers: Script,
}

/// A script with what all share before it. The flags say what Redis may let it do: `no-writes` also on a server that refuses
/// writes, `allow-oom` also on one that is full, so that what waits in it can drain.
macro_rules! script {
    ($flags:literal, $file:literal) => {
        Script::new(concat!(
            "#!lua flags=",
            $flags,
            "\n",
            include_str!("shared.lua"),
            include_str!($file)
        ))
    };
}

impl Scripts {
    pub(crate) fn new() -> Self {
        Self {
            activate: script!("allow-oom", "activate.lua"),
            adopt: script!("allow-oom", "adopt.lua"),
            bind: script!("allow-oom", "bind.lua"),
            changes: script!("no-writes", "changes.lua"),
            due: script!("no-writes", "due.lua"),
            forget: script!("allow-oom", "forget.lua"),
            get: script!("no-writes", "get.lua"),
            letters: script!("no-writes", "letters.lua"),
            list: script!("no-writes", "list.lua"),
            meta: script!("allow-oom", "meta.lua"),
            outcome: script!("no-writes", "outcome.lua"),
            claim: script!("allow-oom", "claim.lua"),
            complete: script!("allow-oom", "read.lua"),
            depth: script!("no-writes", "depth.lua"),
            find: script!("no-writes", "find.lua"),
            read: script!("no-writes", "read.lua"),
            start_after: script!("allow-oom", "start_after.lua"),
            workers: script!("allow-oom", "workers.lua"),
        }
    }

    /// Creates the store under `meta` if it is not there. Returns its format, partitions and queue.
    pub(crate) async fn meta(
        &self,
        link: &mut Servers,
        meta: &str,
        partitions: PartitionCount,
        queue: QueueId,
    ) -> RedisResult<(String, u16, String)> {
        let mut script = self.meta.key(meta);
        script
            .arg(FORMAT)
            .arg(partitions.get())
            .arg(queue.to_string());
        script.invoke_async(link).await
    }
}
