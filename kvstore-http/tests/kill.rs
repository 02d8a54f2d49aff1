//! What survives killing the real program, again and again, while many clients write?
//!
//! Each round starts the server on the same folder, looks whether everything acknowledged is there, once and in order, puts
//! it under load and kills it. Most rounds kill it during its start as well, which is while it recovers. Ten rounds by
//! default; more with
//!
//! ```text
//! KVSTORE_KILL_ROUNDS=50 cargo test -p kvstore-http --test kill -- --nocapture
//! ```
//!
//! `KVSTORE_KILL_SEED` repeats the choices of an earlier run, though not its timing. SIGKILL takes the process and not the
//! machine, so what was written but not synced survives it here; what a loss of power takes is the question of the core's
//! crash tests.

mod history;
mod load;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::value::RawValue;

use crate::history::tag_number;
use crate::load::Client;
use crate::support::client::{Connection, request};
use crate::support::process::Process;

const CLIENTS: usize = 24;

/// Small, so that snapshots are taken all the time: each round writes several times as much.
const SNAPSHOT_BYTES: &str = "16KiB";

/// A round is worth something once this many writes were acknowledged.
const ACKNOWLEDGED_MIN: usize = 100;

/// Then it goes on for a random time up to this.
const LOAD_MAX: Duration = Duration::from_millis(500);

/// A start is killed after a random time up to this; it takes about half of it.
const START_MAX: Duration = Duration::from_millis(200);

/// Longer than a round may take to come to that many writes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The key whose writes mark that everything before them in the queue is applied.
const BARRIER: &str = "/v1/kv/barrier";

#[expect(
    clippy::disallowed_methods,
    reason = "how long to go on is whoever runs it to say"
)]
fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let number = text.parse().ok();
    Some(number.unwrap_or_else(|| panic!("{name} is {text:?}, which is no number")))
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_reordered_or_done_twice() {
    let rounds: usize = variable("KVSTORE_KILL_ROUNDS").unwrap_or(10);
    let seed: u64 = variable("KVSTORE_KILL_SEED").unwrap_or_else(rand::random);
    println!("{rounds} rounds, KVSTORE_KILL_SEED={seed}");
    let mut run = Run::new(seed);
    let begun = Instant::now();
    for round in 1..=rounds {
        run.kill_some_starts();
        // Twice: what was shown after a kill must be there after the next one too, which takes it from what the first
        // recovery wrote.
        for _ in 0..2 {
            let mut process = run.launch().serves();
            run.check(&process).await;
            assert_eq!(process.kill().signal(), Some(9));
        }
        let process = run.launch().serves();
        let acknowledged = run.load_and_kill(process).await;
        let elapsed = begun.elapsed().as_millis();
        println!("round {round}: {acknowledged} acknowledged, killed at {elapsed} ms");
    }
    assert!(
        run.snapshots >= rounds,
        "{} snapshots under load are too few to have been hit",
        run.snapshots
    );
    run.end_well().await;
}

/// A folder, those who write to it, and what is known of it.
struct Run {
    folder: tempfile::TempDir,
    random: StdRng,
    clients: Vec<Client>,
    barriers: u64,
    /// How often `data.json` was written, or begun to be, while clients wrote.
    snapshots: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let clients = (0..CLIENTS).map(|number| Client::new(number, random.random()));
        Self {
            folder: tempfile::tempdir().unwrap(),
            clients: clients.collect(),
            random,
            barriers: 0,
            snapshots: 0,
        }
    }

    fn launch(&self) -> Process {
        let folder = self.folder.path().display();
        let store = format!("file:{folder}?snapshot_bytes={SNAPSHOT_BYTES}");
        Process::launch(&["--store", &store])
    }

    fn kill_some_starts(&mut self) {
        for _ in 0..self.random.random_range(0..3) {
            let mut process = self.launch();
            std::thread::sleep(START_MAX.mul_f64(self.random.random()));
            assert_eq!(process.kill().signal(), Some(9));
            assert_no_error(&process);
        }
    }

    /// Whether everything acknowledged is there, and nothing else.
    async fn check(&mut self, process: &Process) {
        let mut connection = Connection::open(process.address).await;
        // There is one queue, so when this is applied, all that the killed process had accepted is.
        let barrier = request("PUT", BARRIER)
            .header("prefer", "wait=60")
            .body(self.barriers.to_string());
        let reply = connection.ask(&barrier).await;
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        self.barriers += 1;
        for client in &mut self.clients {
            client.check(&mut connection).await;
        }
        // The store numbers changes without gaps. So this is how many there ever were, and it must be as many as the
        // clients know of: a write applied twice would leave its key as it should be, but not this number.
        let applied: u64 = self.clients.iter().map(Client::applied).sum();
        let version = tag_number(reply.header("etag").expect("a tag"));
        assert_eq!(version, applied + self.barriers, "changes in all");
    }

    /// Lets all clients write until the process is killed under them; how many writes were acknowledged.
    async fn load_and_kill(&mut self, mut process: Process) -> usize {
        let first_journal = last_journal(self.folder.path());
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for client in self.clients.drain(..) {
            let connection = Connection::open(process.address).await;
            tasks.push(tokio::spawn(
                client.write(connection, Arc::clone(&acknowledged)),
            ));
        }
        let begun = Instant::now();
        while acknowledged.load(Ordering::Relaxed) < ACKNOWLEDGED_MIN {
            assert!(
                begun.elapsed() < PATIENCE,
                "too few writes are acknowledged"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(LOAD_MAX.mul_f64(self.random.random())).await;

        assert_eq!(process.kill().signal(), Some(9));
        for task in tasks {
            self.clients.push(task.await.expect("no wrong answer"));
        }
        assert_no_error(&process);
        let cut_off = self.clients.iter().filter(|client| client.was_cut_off());
        assert!(
            cut_off.count() > 0,
            "it was killed while nobody waited for an answer"
        );
        self.snapshots += last_journal(self.folder.path()) - first_journal;
        acknowledged.load(Ordering::Relaxed)
    }

    /// After an orderly end the file holds what was shown, and nothing else is needed to read it.
    async fn end_well(&mut self) {
        let mut process = self.launch().serves();
        self.check(&process).await;
        let mut shown: BTreeMap<String, String> = BTreeMap::new();
        shown.insert("barrier".to_owned(), (self.barriers - 1).to_string());
        for client in &self.clients {
            shown.extend(client.contents());
        }
        process.signal("TERM");
        assert_eq!(process.ended().code(), Some(0));
        assert_no_error(&process);

        let text = std::fs::read_to_string(self.folder.path().join("data.json")).unwrap();
        let file: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&text).unwrap();
        let file: BTreeMap<_, _> = file
            .into_iter()
            .map(|(key, value)| (key, value.get().to_owned()))
            .collect();
        assert_eq!(file, shown);
    }
}

/// A killed process leaves no damage, so nothing may ever be reported as such.
fn assert_no_error(process: &Process) {
    let errors = process.errors();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// The number of the journal that is written to. Each snapshot begins a new one.
fn last_journal(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap();
    let numbers = names.filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().ok()?;
        let number = name.strip_prefix("journal-")?.strip_suffix(".jsonl")?;
        number.parse().ok()
    });
    numbers.max().expect("a journal")
}
