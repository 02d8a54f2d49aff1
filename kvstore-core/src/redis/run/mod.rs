//! Runs of a server, each from a start, or from when it became a primary, to its end. Only a run
//! that was checked gives out numbers.
//!
//! A server can come back with less than it had: restored from a copy, or replaced by a replica
//! that lagged behind. It must not give out again the versions and job positions that it gave out
//! before. It can also come back with other settings, which lose data.
//!
//! So the scripts that give out numbers are bound to a run, whose name is part of their text. A
//! server forgets all scripts when it ends. One that does not know these scripts was therefore
//! never checked, however requests came to reach it: a restart, a failover, a slot that moves. Its
//! settings are read at that point, and it receives scripts with its own name only if it keeps what
//! it acknowledges. A server that was a replica meanwhile still knows them, so they compare its
//! history, too (`numbering.lua`). Each partition keeps the name of the run that changed it last;
//! if that is another run, its numbers are raised first (`enter.lua`).

pub(crate) mod look;
pub(crate) mod resend;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redis::{Cmd, Pipeline};

use crate::model::id::{Partition, PartitionCount, Position};
use crate::redis::per_partition::PerPartition;
use crate::redis::scripts::{Call, ScriptText, bound};

/// A run of a server that was checked, with the scripts that are bound to it.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: String,
    /// The scripts that give out numbers.
    scripts: Vec<ScriptText>,
}

impl Run {
    pub(crate) fn new(name: String) -> Self {
        let scripts = bound(&name);
        Self { name, scripts }
    }

    /// Returns the commands that load all scripts.
    pub(crate) fn load(&self) -> Pipeline {
        let mut pipeline = Pipeline::new();
        for script in &self.scripts {
            pipeline.add_command(script.load());
        }
        pipeline
    }

    pub(crate) fn command(&self, call: &Call) -> Cmd {
        self.scripts[call.script as usize].command(call)
    }
}

/// What a process knows of each partition's server.
#[derive(Debug)]
pub(crate) struct Runs {
    places: PerPartition<PartitionRun>,
    /// Runs in use by some partition, so that partitions share them.
    known: Mutex<Vec<Arc<Run>>>,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct PartitionRun {
    /// The run that was checked last, and how many connections had broken by then.
    met: Option<(Arc<Run>, u64)>,
    /// The last job that the server has acknowledged to this process.
    acknowledged: Position,
}

impl Runs {
    pub(crate) fn new(partitions: PartitionCount) -> Self {
        Self {
            places: PerPartition::new(partitions),
            known: Mutex::default(),
            lost: AtomicU64::new(0),
        }
    }

    /// Returns the run of the partition's server that was checked last, and how many connections
    /// had broken by then. After another break, another run may be at the end of the connection.
    pub(crate) fn met(&self, partition: Partition) -> Option<(Arc<Run>, u64)> {
        self.places.of(partition).met.clone()
    }

    /// Returns the run of that name.
    pub(crate) fn named(&self, name: String) -> Arc<Run> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = known.iter().find(|run| run.name == name) {
            return Arc::clone(run);
        }
        known.retain(|run| Arc::strong_count(run) > 1);
        let run = Arc::new(Run::new(name));
        known.push(Arc::clone(&run));
        run
    }

    pub(crate) fn meet(&self, partition: Partition, run: Arc<Run>, breaks: u64) {
        self.places.of(partition).met = Some((run, breaks));
    }

    /// Records that the server has acknowledged job `position`.
    pub(crate) fn acknowledge(&self, partition: Partition, position: Position) {
        let mut place = self.places.of(partition);
        place.acknowledged = place.acknowledged.max(position);
    }

    pub(crate) fn acknowledged(&self, partition: Partition) -> Position {
        self.places.of(partition).acknowledged
    }

    /// Records that the last job of the numbering `major` of the last acknowledged job is `minor`:
    /// later jobs are lost.
    pub(crate) fn ended(&self, partition: Partition, major: u64, minor: u64) {
        let acknowledged = std::mem::take(&mut self.places.of(partition).acknowledged);
        if acknowledged.major != major || acknowledged.minor <= minor {
            return;
        }
        self.lost
            .fetch_add(acknowledged.minor - minor, Ordering::Relaxed);
        tracing::error!(
            %partition, after = %Position { major, minor }, up_to = %acknowledged,
            "the Redis server has lost the jobs between these positions, which it had acknowledged: it came back from an older copy, or \
             a server that lagged took its place"
        );
    }

    /// Returns how many jobs acknowledged to this process are known to be lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
