//! The real program under load on one folder, start after start, and what must be true of it after
//! each.

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

/// Small, so that snapshots are taken all the time: each round writes several times as much.
const SNAPSHOT_BYTES: &str = "16KiB";

/// Added to the URL of the store.
const LEFT_TO_WORKER: &str = "&apply_on_acceptance=false";

/// How long a write waits to be applied; a server that cannot apply any more answers 202 then.
const RESOURCE_WAIT: &str = "300ms";

/// Longer than a load takes to come to what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The key whose writes mark that everything before them in the queue is applied.
const BARRIER: &str = "/v1/kv/barrier";

/// A folder, those who write to it, and what is known of it.
pub(crate) struct Run {
    /// Where this process sees it.
    pub(crate) folder: PathBuf,
    /// Where the server has it.
    store: String,
    /// Words before the program's name, of a program that becomes it.
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
            store: format!("file:{}?snapshot_bytes={SNAPSHOT_BYTES}", folder.display()),
            wrapper: Vec::new(),
            clients: clients.collect(),
            random,
            barriers: 0,
        }
    }

    /// The same for a server that has the folder under another name.
    pub(crate) fn new_in(folder: &Path, inside: &Path, wrapper: Vec<String>, seed: u64) -> Self {
        let run = Self::new(inside, seed);
        Self {
            folder: folder.to_owned(),
            wrapper,
            ..run
        }
    }

    /// From the next start on no snapshot is taken until the journal is large.
    pub(crate) fn take_few_snapshots(&mut self) {
        self.store = self.store.replace(SNAPSHOT_BYTES, "1GiB");
    }

    /// From the next start on every job waits for the worker, or is applied on acceptance where
    /// that is possible.
    pub(crate) fn leave_jobs_to_worker(&mut self, leave: bool) {
        self.store = self.store.replace(LEFT_TO_WORKER, "");
        if leave {
            self.store.push_str(LEFT_TO_WORKER);
        }
    }

    /// From now on each client has so many keys, with values of up to so many bytes.
    pub(crate) fn set_size(&mut self, keys: usize, bytes_max: usize) {
        for (number, client) in self.clients.iter_mut().enumerate() {
            client.set_size(number, keys, bytes_max);
        }
    }

    pub(crate) fn launch(&self) -> Process {
        self.launch_by(&self.wrapper)
    }

    /// Starts it through `wrapper`, words before the program's name.
    pub(crate) fn launch_by(&self, wrapper: &[String]) -> Process {
        let args = ["--store", &self.store, "--resource-wait", RESOURCE_WAIT];
        Process::launch_command(server_command_by(wrapper, &args))
    }

    /// Starts it, looks whether everything is as it must be, and kills it; twice: what was shown
    /// after the first start must be there after the next one too, which takes it from what the
    /// first recovery wrote.
    pub(crate) async fn check_twice(&mut self) {
        for _ in 0..2 {
            let mut process = self.launch().serves();
            self.check(&process).await;
            process.kill();
            assert_no_error(&process);
        }
    }

    /// Whether everything acknowledged is there, and nothing else.
    pub(crate) async fn check(&mut self, process: &Process) {
        let mut connection = Connection::open(process.address).await;
        // There is one queue, so when this is applied, all that an earlier process had accepted is.
        let barrier = request("PUT", BARRIER)
            .header("prefer", "wait=60")
            .body(self.barriers.to_string());
        let reply = connection.ask(&barrier).await;
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        self.barriers += 1;
        for client in &mut self.clients {
            client.check(&mut connection).await;
        }
        // This is how many changes there ever were, and it must be as many as the clients know of:
        // a write applied twice would leave its key as it should be, but not this number.
        let applied: u64 = self.clients.iter().map(Client::applied).sum();
        let changes = Inspection::of(&self.folder).unwrap().summary().changes;
        assert_eq!(changes, applied + self.barriers, "changes in all");
    }

    /// Lets all clients write.
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

    /// Waits for the end of a load; how many of its clients were not answered in the end.
    pub(crate) async fn gather(&mut self, load: Load) -> usize {
        for task in load.tasks {
            self.clients.push(task.await.expect("no wrong answer"));
        }
        let cut_off = self.clients.iter().filter(|client| client.was_cut_off());
        cut_off.count()
    }

    /// Lets all clients write until `count` writes were acknowledged, and all are answered.
    pub(crate) async fn load_until(&mut self, process: &Process, count: usize) {
        let load = self.load(process);
        load.until("writes are acknowledged", || {
            load.tally.acknowledged() >= count
        })
        .await;
        load.tally.stop();
        self.gather(load).await;
    }

    /// After an orderly end the file holds what was shown, and nothing else is needed to read it.
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

    /// The names of its files.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.folder).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// The number of the newest file of a kind, `journal` or `queue`. Each snapshot begins a new
    /// journal.
    pub(crate) fn last_number(&self, kind: &str) -> usize {
        self.numbers(kind).max().unwrap_or(0)
    }

    /// The number of the oldest. When a snapshot is done, those before its journal are gone.
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
    /// Waits until `is_there`.
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

    /// Whether no client can go on.
    pub(crate) fn has_ended(&self) -> bool {
        self.tasks.iter().all(JoinHandle::is_finished)
    }
}

/// No end of a process and no error of a disk leaves damage, so nothing may ever be reported as
/// such.
pub(crate) fn assert_no_error(process: &Process) {
    let errors = process.errors();
    assert!(errors.is_empty(), "{errors:#?}");
}
