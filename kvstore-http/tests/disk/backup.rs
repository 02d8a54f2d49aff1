//! Is a copy of the folder that `cp` makes during writes to the real server ever silently
//! incomplete?
//!
//! The core asks the same for every order in which files can be copied
//! (`json_file/tests/backup.rs`). Here `cp`, `verify`, the file system and the server are the real
//! ones, and so is the timing.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvstore_core::json_file::Inspection;
use kvstore_testing::client::{Connection, Request, request};
use kvstore_testing::process::Process;

/// Each client writes to a key of its own, one write after the other.
const CLIENTS: usize = 12;

/// Small, so that snapshots are frequent.
const SNAPSHOT_BYTES: &str = "4KiB";

/// Initial number of other files in the folder, which make `cp` take longer.
const OTHER_FILES: usize = 100;
const OTHER_FILE_BYTES: usize = 20_000;

/// Maximum pause of a client between two writes. There must be both good and bad copies, on fast
/// and slow machines: clients pause four times as long after a failed copy and half as long after a
/// good one, and once the pause cannot be shorter, there are more files to copy.
const REST_MS_MAX: u64 = 512;

/// Minimum numbers of good copies and of detected bad ones for a meaningful test.
const GOOD_MIN: usize = 5;
const BAD_MIN: usize = 3;

/// Longer than it takes to reach these numbers.
const PATIENCE: Duration = Duration::from_secs(25);

/// A client that counts in its key.
struct Client {
    key: String,
    /// The last numbers sent and acknowledged; they only grow.
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

impl Client {
    fn new(number: usize) -> Self {
        Self {
            key: format!("client:{number}"),
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        }
    }

    /// Creates a write. Every other one is answered as soon as it is queued (202).
    fn write(&self, number: u64) -> Request {
        let value = format!("[{number},\"{}\"]", "x".repeat(number as usize % 500));
        if number.is_multiple_of(2) {
            request("PUT", &format!("/v1/kv/{}", self.key)).body(value)
        } else {
            request("POST", "/set").body(format!("{{\"key\":\"{}\",\"value\":{value}}}", self.key))
        }
    }

    async fn work(&self, mut connection: Connection, rest_ms: &AtomicU64, stop: &AtomicBool) {
        for number in 1.. {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            self.sent.store(number, Ordering::SeqCst);
            let reply = connection.ask(&self.write(number)).await;
            assert!(matches!(reply.status, 200..=202), "{reply:?}");
            self.acknowledged.store(number, Ordering::SeqCst);
            let rest = rest_ms.load(Ordering::SeqCst);
            if rest > 0 {
                tokio::time::sleep(Duration::from_millis(rest)).await;
            }
        }
    }
}

fn acknowledged(clients: &[Client]) -> Vec<u64> {
    let each = clients.iter();
    each.map(|client| client.acknowledged.load(Ordering::SeqCst))
        .collect()
}

/// Starts a server on a copy, and checks that it has all writes acknowledged `before` the copy, and
/// none that was never sent.
async fn check(copy: &Path, clients: &[Client], before: &[u64]) {
    let process = Process::start(&["--store", &format!("file:{}", copy.display())]);
    let mut connection = Connection::open(process.address).await;
    // All jobs in the queue are applied before this is answered.
    let last = request("PUT", "/v1/kv/last")
        .header("prefer", "wait=20")
        .body("1");
    assert_eq!(connection.ask(&last).await.status, 201);
    for (client, before) in clients.iter().zip(before) {
        let reply = connection
            .ask(&request("GET", &format!("/v1/kv/{}", client.key)))
            .await;
        let found = match reply.status {
            404 => 0,
            200 => reply.json()[0].as_u64().unwrap(),
            _ => panic!("{reply:?}"),
        };
        let sent = client.sent.load(Ordering::SeqCst);
        assert!(
            *before <= found && found <= sent,
            "{}: {before}, {found}, {sent}",
            client.key
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_made_under_load_is_complete_or_said_not_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    let store = format!("file:{}?snapshot_bytes={SNAPSHOT_BYTES}", source.display());
    let process = Process::start(&["--store", &store]);
    let clients: Arc<Vec<Client>> = Arc::new((0..CLIENTS).map(Client::new).collect());
    let (rest_ms, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let connection = Connection::open(process.address).await;
        let clients = Arc::clone(&clients);
        let (rest_ms, stop) = (Arc::clone(&rest_ms), Arc::clone(&stop));
        tasks.spawn(async move { clients[number].work(connection, &rest_ms, &stop).await });
    }

    let mut others = 0;
    let mut add_others = || {
        for number in others..others + OTHER_FILES {
            std::fs::write(
                source.join(format!("other-{number}")),
                [0; OTHER_FILE_BYTES],
            )
            .unwrap();
        }
        others += OTHER_FILES;
    };
    add_others();

    let begun = Instant::now();
    let (mut good, mut cut_off, mut refused) = (0, 0, 0);
    let copy = folder.path().join("copy");
    while good < GOOD_MIN || cut_off + refused < BAD_MIN {
        assert!(
            begun.elapsed() < PATIENCE,
            "{good} good copies, cp failed {cut_off} times, verify {refused} times"
        );
        let before = acknowledged(&clients);
        let copied = Command::new("cp")
            .arg("-a")
            .args([&source, &copy])
            .output()
            .unwrap();
        let verified = Inspection::of(&copy).is_ok_and(|found| found.problems().is_empty());
        let rest = rest_ms.load(Ordering::SeqCst);
        if copied.status.success() && verified {
            check(&copy, &clients, &before).await;
            good += 1;
            rest_ms.store(rest / 2, Ordering::SeqCst);
            if rest == 0 {
                add_others();
            }
        } else {
            if copied.status.success() {
                refused += 1;
            } else {
                cut_off += 1;
            }
            rest_ms.store((4 * rest).clamp(1, REST_MS_MAX), Ordering::SeqCst);
        }
        std::fs::remove_dir_all(&copy).unwrap();
    }
    println!("{good} good copies, cp failed {cut_off} times, verify {refused} times");
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let written: u64 = acknowledged(&clients).iter().sum();
    assert!(written > 100, "{written} writes are no load");
}
