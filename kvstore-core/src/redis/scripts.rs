//! The scripts: one operation each. Loaded when a server does not know them yet; those that give out numbers only by `run.rs`.

use redis::Script;

/// The scripts of a store and its queue.
pub(super) struct Scripts {
    pub(super) activate: Script,
    pub(super) adopt: Script,
    pub(super) bind: Script,
    pub(super) changes: Script,
    pub(super) due: Script,
    pub(super) forget: Script,
    pub(super) get: Script,
    pub(super) letters: Script,
    pub(super) list: Script,
    pub(super) meta: Script,
    pub(super) outcome: Script,
    pub(super) attempt: Script,
    pub(super) claim: Script,
    pub(super) complete: Script,
    pub(super) depth: Script,
    pub(super) find: Script,
    pub(super) read: Script,
    pub(super) start_after: Script,
    pub(super) workers: Script,
}

/// A script with what all share before it. The flags say what Redis may let it do: `no-writes` also on a server that refuses
/// writes, `allow-oom` also on one that is full, so that what waits in it can drain.
macro_rules! script {
    ($flags:literal, $file:literal) => {
        Script::new(concat!(
            "#!lua flags=",
            $flags,
            "\n",
            include_str!("scripts/shared.lua"),
            include_str!(concat!("scripts/", $file))
        ))
    };
}

impl Scripts {
    pub(super) fn new() -> Self {
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
            attempt: script!("allow-oom", "attempt.lua"),
            claim: script!("allow-oom", "claim.lua"),
            complete: script!("allow-oom", "complete.lua"),
            depth: script!("no-writes", "depth.lua"),
            find: script!("no-writes", "find.lua"),
            read: script!("no-writes", "read.lua"),
            start_after: script!("allow-oom", "start_after.lua"),
            workers: script!("allow-oom", "workers.lua"),
        }
    }
}
