//! Do servers that only read show every acknowledged write at once, whatever happens to the writer?
//!
//! One server writes to a folder and is killed under load, again and again; two others read the
//! folder throughout. Six rounds by default; more with
//!
//! ```text
//! KVSTORE_READER_ROUNDS=50 cargo test -p kvstore-http --test disk -- --nocapture reader::
//! ```

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::expected::tag_number;
use crate::run::assert_no_error;
use kvstore_testing::client::{Connection, request};
use kvstore_testing::process::{Process, run};
use kvstore_testing::variable;

const CLIENTS: usize = 8;

/// Small, so that journal rotations and snapshots are frequent.
const SNAPSHOT_BYTES: &str = "4KiB";

/// A round ends once this many writes were seen at both readers.
const SEEN_MIN: usize = 300;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn writer(folder: &Path) -> Process {
    let store = format!("file:{}?snapshot_bytes={SNAPSHOT_BYTES}", folder.display());
    Process::start(&["--store", &store])
}

fn reader(folder: &Path) -> Process {
    let store = format!("file:{}", folder.display());
    let args = [
        "--worker",
        "none",
        "--store",
        &store,
        "--visible-wait",
        "500ms",
    ];
    Process::start(&args)
}

/// Returns the number of the current journal. Each snapshot begins a new one.
fn last_journal(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap();
    let numbers = names.filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().ok()?;
        let number = name.strip_prefix("journal-")?.strip_suffix(".jsonl")?;
        number.parse().ok()
    });
    numbers.max().expect("a journal")
}

/// Repeats a request until the answer has `status`.
async fn until(address: SocketAddr, target: &str, status: u16) {
    let begun = Instant::now();
    loop {
        let reply = Connection::open(address)
            .await
            .ask(&request("GET", target))
            .await;
        if reply.status == status {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{target}: {reply:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Writes to a key of its own, and checks both readers after each acknowledged write.
struct Client {
    key: String,
    /// The last number sent.
    number: u64,
    /// The latest version that any server has shown, with its number.
    shown: (u64, u64),
}

impl Client {
    /// Writes until the writer is gone.
    async fn write(
        mut self,
        writer: SocketAddr,
        readers: [SocketAddr; 2],
        seen: Arc<AtomicUsize>,
    ) -> Self {
        let mut writer = Connection::open(writer).await;
        let mut readers = [
            Connection::open(readers[0]).await,
            Connection::open(readers[1]).await,
        ];
        loop {
            self.number += 1;
            // Alternates between a write that is applied when answered and one that is only queued.
            let is_queued = self.number.is_multiple_of(2);
            let preference = if is_queued {
                "respond-async"
            } else {
                "wait=30"
            };
            let put = request("PUT", &format!("/v1/kv/{}", self.key))
                .header("prefer", preference)
                .body(self.number.to_string());
            let Some(reply) = writer.try_ask(&put).await else {
                return self;
            };
            assert!(
                matches!((is_queued, reply.status), (true, 202) | (false, 200 | 201)),
                "{reply:?}"
            );
            for connection in &mut readers {
                let mut get = request("GET", &format!("/v1/kv/{}", self.key));
                if is_queued {
                    // The read waits for the write. If the writer is killed before it is applied,
                    // the wait is in vain.
                    get = get.header("sync-token", reply.header("sync-token").expect("a token"));
                }
                let found = connection.ask(&get).await;
                if is_queued && found.status == 503 {
                    continue;
                }
                assert_eq!(
                    (found.status, found.text()),
                    (200, self.number.to_string().as_str()),
                    "{found:?}"
                );
                let version = tag_number(found.header("etag").expect("a tag"));
                if !is_queued {
                    assert_eq!(version, tag_number(reply.header("etag").expect("a tag")));
                }
                self.show(version, self.number);
                seen.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn show(&mut self, version: u64, number: u64) {
        assert!(
            version > self.shown.0 || (version, number) == self.shown,
            "{}: {number} at version {version} after {:?}",
            self.key,
            self.shown
        );
        self.shown = (version, number);
    }

    /// Checks that a server never shows an older version than any server has shown before.
    async fn look(&mut self, address: SocketAddr) {
        let reply = Connection::open(address)
            .await
            .ask(&request("GET", &format!("/v1/kv/{}", self.key)))
            .await;
        if reply.status == 404 && self.shown.0 == 0 {
            return;
        }
        let version = tag_number(reply.header("etag").expect("a tag"));
        let number = reply.text().parse().expect("a number");
        assert!(
            number <= self.number,
            "{}: {number} was never sent",
            self.key
        );
        self.show(version, number);
    }
}

#[tokio::test]
async fn acknowledged_writes_are_read_at_once_from_every_reader_however_often_the_writer_is_killed()
{
    let rounds: usize = variable("KVSTORE_READER_ROUNDS").unwrap_or(6);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("database");
    // Readers may start before the folder exists.
    let mut readers = [reader(&folder), reader(&folder)];
    let addresses = readers.each_ref().map(|reader| reader.address);
    for address in addresses {
        until(address, "/readyz", 503).await;
    }
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|number| Client {
            key: format!("client:{number}"),
            number: 0,
            shown: (0, 0),
        })
        .collect();
    let mut rotations = 0;
    for round in 1..=rounds {
        // The next writer must have everything that a reader shows in the meantime.
        for client in &mut clients {
            for address in addresses {
                if round > 1 {
                    client.look(address).await;
                }
            }
        }
        let mut writer = writer(&folder);
        for address in addresses {
            until(address, "/readyz", 200).await;
        }
        for client in &mut clients {
            client.look(writer.address).await;
            for address in addresses {
                client.look(address).await;
            }
        }
        let first = last_journal(&folder);
        let seen = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = clients
            .drain(..)
            .map(|client| tokio::spawn(client.write(writer.address, addresses, Arc::clone(&seen))))
            .collect();
        let begun = Instant::now();
        while seen.load(Ordering::Relaxed) < SEEN_MIN {
            assert!(begun.elapsed() < PATIENCE, "too few writes are seen");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(writer.kill().signal(), Some(9));
        for task in tasks {
            clients.push(task.await.expect("no wrong answer"));
        }
        assert_no_error(&writer);
        rotations += last_journal(&folder) - first;
        println!("round {round}: {} seen", seen.load(Ordering::Relaxed));
    }
    assert!(
        rotations >= rounds,
        "{rotations} rotations are too few to have been followed"
    );
    for reader in &mut readers {
        reader.signal("TERM");
        assert_eq!(reader.ended().code(), Some(0));
        assert_no_error(reader);
    }
}

#[tokio::test]
async fn reader_refuses_writes_answers_for_jobs_and_tells_its_lag() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(folder.path());
    let reader = reader(folder.path());
    let mut to_writer = Connection::open(writer.address).await;
    let mut to_reader = Connection::open(reader.address).await;

    for write in [
        request("POST", "/set").body(r#"{"key":"a","value":1}"#),
        request("PUT", "/v1/kv/a").body("1"),
        request("DELETE", "/delete/a"),
    ] {
        let reply = to_reader.ask(&write).await;
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.text().contains("this server only reads"), "{reply:?}");
    }
    assert_eq!(to_reader.ask(&request("GET", "/get/a")).await.status, 404);

    let set = request("POST", "/set").body(r#"{"key":"a","value":1}"#);
    let accepted = to_writer.ask(&set).await;
    let job = accepted.json()["job_id"].as_str().unwrap().to_owned();
    let after = to_reader
        .ask(&request("GET", &format!("/v1/kv/a?after={job}")))
        .await;
    assert_eq!((after.status, after.text()), (200, "1"));
    let report = to_reader
        .ask(&request("GET", &format!("/v1/jobs/{job}")))
        .await;
    assert_eq!(report.json()["status"], "succeeded", "{report:?}");

    let metrics = to_reader.ask(&request("GET", "/metrics")).await;
    let lag = metrics
        .text()
        .lines()
        .find_map(|line| line.strip_prefix("kvstore_follower_lag_seconds "));
    let lag: f64 = lag.expect("a lag").parse().unwrap();
    assert!((0.0..PATIENCE.as_secs_f64()).contains(&lag), "{lag}");
    assert!(metrics.text().contains("\nkvstore_up 1\n"), "{metrics:?}");
    let metrics = to_writer.ask(&request("GET", "/metrics")).await;
    assert!(!metrics.text().contains("follower"), "{metrics:?}");

    // A deleted folder is reported, and reads fail.
    drop(writer);
    std::fs::remove_dir_all(folder.path()).unwrap();
    until(reader.address, "/readyz", 503).await;
    until(reader.address, "/v1/kv/a", 503).await;
}

#[test]
fn what_cannot_be_only_read_is_refused_before_anything_is_opened() {
    for (store, told) in [
        ("memory:", "belongs to one process"),
        ("file:x?snapshot_bytes=4KiB", "takes none"),
    ] {
        let ended = run(&["--store", store, "--worker", "none"], &[]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(
            ended
                .stderr
                .iter()
                .any(|line| line.contains("--worker") && line.contains(told)),
            "{ended:?}"
        );
    }
}
