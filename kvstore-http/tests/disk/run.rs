//! The real program under load on one folder, start after start, and the checks after each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvstore_core::json_file::Inspection;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::value::RawValue;
use tokio::task::JoinHandle;

use crate::load::{Client, Tally};
use kvstore_testing::client::{Connection, request};
use kvstore_testing::process::{Process, server_command_by};

const CLIENTS: usize = 24;

/// Small, so that snapshots are frequent: each round writes several times as much.
const SNAPSHOT_BYTES: &str = "16KiB";

/// A parameter in the URL of the store.
const LEFT_TO_WORKER: &str = "&apply_on_acceptance=false";

/// How long a write waits to be applied; a server that can no longer apply anything then answers
/// 202.
const RESOURCE_WAIT: &str = "300ms";

/// Longer than a load takes to meet any of the conditions here.
const PATIENCE: Duration = Duration::from_secs(30);

/// The key whose writes mark that everything before them in the queue is applied.
const BARRIER: &str = "/v1/kv/barrier";

/// A folder, its clients, and the knowledge of its content.
pub(crate) struct Run {
    /// The folder's path for this process.
    pub(crate) folder: PathBuf,
    /// The folder's URL for the server.
    store: String,
    /// A command placed before the program's name, which executes the program in its own process.
    pub(crate) wrapper: Vec<String>,
    pub(crate) random: StdRng,
    clients: Vec<Client>,
    barriers: u64,
}

impl Run {
    pub(crate) fn new(folder: &Path, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let clients = (0..CLIENTS).map(|number| Client::new(number, random.random()));
        Self {
            folder: folder.to_owned(),
            // Each addition leaves an outcome and an idempotency key. With 100,000 outcomes, each
            // snapshot and each start of a long run would take seconds. At the bound on keys, a
            // server refuses the next one, and must not be taken for one that has given up.
            store: format!(
                "file:{}?snapshot_bytes={SNAPSHOT_BYTES}&outcomes=10000&idempotency_keys=1000000000",
                folder.display()
            ),
            wrapper: Vec::new(),
            clients: clients.collect(),
            random,
            barriers: 0,
        }
    }

    /// Creates a run for a server that sees the folder under another path.
    pub(crate) fn new_in(folder: &Path, inside: &Path, wrapper: Vec<String>, seed: u64) -> Self {
        let run = Self::new(inside, seed);
        Self {
            folder: folder.to_owned(),
            wrapper,
            ..run
        }
    }

    /// Defers snapshots, from the next start on, until the journal is large.
    pub(crate) fn take_few_snapshots(&mut self) {
        self.store = self.store.replace(SNAPSHOT_BYTES, "1GiB");
    }

    /// Makes every job wait for the worker (`leave`), or be applied on acceptance where possible,
    /// from the next start on.
    pub(crate) fn leave_jobs_to_worker(&mut self, leave: bool) {
        self.store = self.store.replace(LEFT_TO_WORKER, "");
        if leave {
            self.store.push_str(LEFT_TO_WORKER);
        }
    }

    /// Extends each client to `keys` keys, with values of up to `bytes_max` bytes.
    pub(crate) fn set_size(&mut self, keys: usize, bytes_max: usize) {
        for (number, client) in self.clients.iter_mut().enumerate() {
            client.set_size(number, keys, bytes_max);
        }
    }

    pub(crate) fn launch(&self) -> Process {
        self.launch_by(&self.wrapper)
    }

    /// Starts the server through `wrapper`, a command placed before the program's name.
    pub(crate) fn launch_by(&self, wrapper: &[String]) -> Process {
        let args = ["--store", &self.store, "--resource-wait", RESOURCE_WAIT];
        Process::launch_command(server_command_by(wrapper, &args))
    }

    /// Starts the server, checks its content, and kills it, twice: everything shown after the first
    /// start must also be there after the second, which depends on what the first recovery wrote.
    pub(crate) async fn check_twice(&mut self) {
        for _ in 0..2 {
            let mut process = self.launch().serves();
            self.check(&process).await;
            process.kill();
            assert_no_error(&process);
        }
    }

    /// Checks that everything acknowledged is there, and nothing else.
    pub(crate) async fn check(&mut self, process: &Process) {
        let mut connection = Connection::open(process.address).await;
        // There is one queue: once this is applied, so is everything that an earlier process
        // accepted.
        let barrier = request("PUT", BARRIER)
            .header("prefer", "wait=60")
            .body(self.barriers.to_string());
        let reply = connection.ask(&barrier).await;
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        self.barriers += 1;
        for client in &mut self.clients {
            client.check(&mut connection).await;
        }
        // The total number of changes must match the clients' count: a write applied twice would
        // leave its key correct, but not this number.
        let applied: u64 = self.clients.iter().map(Client::applied).sum();
        let changes = Inspection::of(&self.folder).unwrap().summary().changes;
        assert_eq!(changes, applied + self.barriers, "changes in all");
    }

    /// Starts a load of all clients.
    pub(crate) fn load(&mut self, process: &Process) -> Load {
        let tally = Arc::new(Tally::default());
        let write = |client: Client| client.write(process.address, Arc::clone(&tally));
        let tasks = self
            .clients
            .drain(..)
            .map(|client| tokio::spawn(write(client)));
        Load {
            tasks: tasks.collect(),
            tally: Arc::clone(&tally),
        }
    }

    /// Waits for the end of a load; returns the number of clients without a final answer.
    pub(crate) async fn gather(&mut self, load: Load) -> usize {
        for task in load.tasks {
            self.clients.push(task.await.expect("no wrong answer"));
        }
        let cut_off = self.clients.iter().filter(|client| client.was_cut_off());
        cut_off.count()
    }

    /// Runs a load until `count` writes were acknowledged, and all of its writes are answered.
    pub(crate) async fn load_until(&mut self, process: &Process, count: usize) {
        let load = self.load(process);
        load.until("writes are acknowledged", || {
            load.tally.acknowledged() >= count
        })
        .await;
        load.tally.stop();
        self.gather(load).await;
    }

    /// Checks that, after an orderly end, the file alone holds everything that was shown.
    pub(crate) async fn end_well(&mut self) {
        let mut process = self.launch().serves();
        self.check(&process).await;
        process.signal("TERM");
        assert_eq!(process.ended().code(), Some(0));
        assert_no_error(&process);
        self.check_file();
    }

    fn check_file(&self) {
        let mut shown: BTreeMap<String, String> = BTreeMap::new();
        shown.insert("barrier".to_owned(), (self.barriers - 1).to_string());
        for client in &self.clients {
            shown.extend(client.contents());
        }
        let text = std::fs::read_to_string(self.folder.join("data.json")).unwrap();
        let file: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&text).unwrap();
        let file: BTreeMap<_, _> = file
            .into_iter()
            .map(|(key, value)| (key, value.get().to_owned()))
            .collect();
        assert_eq!(file, shown);
    }

    /// Returns the names of the folder's files.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.folder).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Returns the number of the newest file of a kind, `journal` or `queue`. Each snapshot begins
    /// a new journal.
    pub(crate) fn last_number(&self, kind: &str) -> usize {
        self.numbers(kind).max().unwrap_or(0)
    }

    /// Returns the number of the oldest file of a kind. A completed snapshot deletes the journals
    /// before its own.
    pub(crate) fn first_number(&self, kind: &str) -> usize {
        self.numbers(kind).min().unwrap_or(0)
    }

    fn numbers(&self, kind: &str) -> impl Iterator<Item = usize> {
        let names = self.names().into_iter();
        names.filter_map(move |name| {
            let number = name.strip_prefix(kind)?.strip_prefix('-')?;
            number.strip_suffix(".jsonl")?.parse().ok()
        })
    }
}

/// Clients at work.
pub(crate) struct Load {
    pub(crate) tally: Arc<Tally>,
    tasks: Vec<JoinHandle<Client>>,
}

impl Load {
    /// Waits until `is_there` returns true.
    pub(crate) async fn until(&self, what: &str, is_there: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_there() {
            assert!(
                begun.elapsed() < PATIENCE,
                "it does not come to this: {what}; {:?}",
                self.tally
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Returns true if every client has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.tasks.iter().all(JoinHandle::is_finished)
    }
}

/// Checks that no error was logged: no end of a process and no disk error leaves damage, so none
/// may ever be reported.
pub(crate) fn assert_no_error(process: &Process) {
    let errors = process.errors();
    assert!(errors.is_empty(), "{errors:#?}");
}
