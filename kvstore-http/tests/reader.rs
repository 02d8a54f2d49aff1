//! Do servers that only read a folder show every write at once that the one which writes there has acknowledged, also when that
//! one is killed again and again?

mod support;

use std::path::Path;
use std::time::Duration;

use support::client::{Connection, Request, request};
use support::process::{Process, run};

/// Small, so that snapshots are taken all the time.
const SNAPSHOT_BYTES: &str = "4KiB";

const CLIENTS: usize = 4;
const ROUNDS: usize = 5;
/// So many writes each client gets acknowledged in a round.
const WRITES: usize = 40;

/// Longer than anything takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(30);

fn writer(folder: &Path) -> Process {
    let store = format!("file:{}?snapshot_bytes={SNAPSHOT_BYTES}", folder.display());
    Process::launch(&["--store", &store])
}

fn reader(folder: &Path) -> Process {
    let store = format!("file:{}", folder.display());
    Process::start(&["--store", &store, "--worker", "none"])
}

fn put(key: &str, number: usize) -> Request {
    let value = format!("[{number},\"{}\"]", "x".repeat(200));
    request("PUT", &format!("/v1/kv/{key}")).body(value)
}

async fn ask(process: &Process, request: &Request) -> support::client::Reply {
    Connection::open(process.address).await.ask(request).await
}

async fn until_status(process: &Process, path: &str, status: u16) {
    let wanted = async {
        while ask(process, &request("GET", path)).await.status != status {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wanted).await.expect(path);
}

/// The number under `key`, at a reader that is ready.
async fn read(connection: &mut Connection, key: &str) -> Option<usize> {
    let reply = connection
        .ask(&request("GET", &format!("/v1/kv/{key}")))
        .await;
    match reply.status {
        404 => None,
        200 => Some(reply.json()[0].as_u64().expect("a number") as usize),
        _ => panic!("{reply:?}"),
    }
}

/// Counts on until the server is gone, and asks all readers after each answer. The last number that was acknowledged.
async fn count(
    writer: std::net::SocketAddr,
    readers: Vec<std::net::SocketAddr>,
    key: String,
    mut latest: usize,
) -> (usize, usize) {
    let mut write = Connection::open(writer).await;
    let mut reads = Vec::new();
    for reader in readers {
        reads.push(Connection::open(reader).await);
    }
    let mut acknowledged = 0;
    while let Some(reply) = write.try_ask(&put(&key, latest + 1)).await {
        assert!(matches!(reply.status, 200 | 201 | 204), "{reply:?}");
        latest += 1;
        acknowledged += 1;
        for connection in &mut reads {
            assert_eq!(read(connection, &key).await, Some(latest), "{key}");
        }
    }
    (latest, acknowledged)
}

#[tokio::test]
async fn acknowledged_writes_are_read_at_once_from_every_reader_however_often_the_writer_is_killed()
{
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    // They may come first, and say what they wait for.
    let readers = [reader(&folder), reader(&folder)];
    for process in &readers {
        assert_eq!(ask(process, &request("GET", "/livez")).await.status, 200);
        assert_eq!(ask(process, &request("GET", "/readyz")).await.status, 503);
        let reply = ask(process, &request("GET", "/v1/kv/k0")).await;
        assert_eq!(reply.status, 503, "{reply:?}");
    }
    let addresses: Vec<_> = readers.iter().map(|process| process.address).collect();
    let mut latest = [0; CLIENTS];
    for round in 0..ROUNDS {
        let mut process = writer(&folder).serves();
        for reader in &readers {
            until_status(reader, "/readyz", 200).await;
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let key = format!("k{client}");
                tokio::spawn(count(
                    process.address,
                    addresses.clone(),
                    key,
                    latest[client],
                ))
            })
            .collect();
        let enough = latest[0] + WRITES;
        let mut connection = Connection::open(addresses[0]).await;
        let loaded = async {
            while read(&mut connection, "k0")
                .await
                .is_none_or(|number| number < enough)
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, loaded)
            .await
            .expect("forty writes");
        process.kill();
        for (client, task) in clients.into_iter().enumerate() {
            let (number, acknowledged) = task.await.unwrap();
            assert!(acknowledged > 0, "client {client} in round {round}");
            // The one that was cut off may have taken effect, and does so at the next start at the latest.
            latest[client] = number;
        }
        for address in &addresses {
            let mut connection = Connection::open(*address).await;
            for (client, number) in latest.iter_mut().enumerate() {
                let seen = read(&mut connection, &format!("k{client}")).await.unwrap();
                assert!(
                    (*number..=*number + 1).contains(&seen),
                    "{seen} after {number}"
                );
            }
        }
    }
    let journals = std::fs::read_dir(&folder).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_prefix("journal-")?
            .strip_suffix(".jsonl")?
            .parse::<usize>()
            .ok()
    });
    assert!(
        journals.max().unwrap() > 3 * ROUNDS,
        "snapshots were taken under load"
    );
}

#[tokio::test]
async fn reader_refuses_writes_answers_for_jobs_and_tells_its_lag() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    let writer = writer(&folder).serves();
    let reader = reader(&folder);
    until_status(&reader, "/readyz", 200).await;

    let refused = ask(&reader, &put("a", 1)).await;
    assert_eq!(refused.status, 503, "{refused:?}");

    // Accepted there, and read here under its token: not before it is applied.
    let accepted = ask(&writer, &put("a", 1).header("prefer", "wait=0")).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let token = accepted.header("sync-token").expect("a token").to_owned();
    let reply = ask(
        &reader,
        &request("GET", "/v1/kv/a").header("sync-token", &token),
    )
    .await;
    assert_eq!((reply.status, &reply.json()[0]), (200, &1.into()));
    let job = ask(&reader, &request("GET", &format!("/v1/jobs/{token}"))).await;
    assert_eq!(job.status, 200, "{job:?}");

    let metrics = ask(&reader, &request("GET", "/metrics")).await;
    let lag = metrics
        .text()
        .lines()
        .find_map(|line| line.strip_prefix("kvstore_follower_lag_seconds "));
    let lag: f64 = lag.expect("the lag").parse().expect("seconds");
    assert!((0.0..30.0).contains(&lag), "{lag}");

    // A folder that is gone is told, and nothing is answered in its place.
    drop(writer);
    std::fs::remove_dir_all(&folder).unwrap();
    until_status(&reader, "/readyz", 503).await;
    assert_eq!(ask(&reader, &request("GET", "/v1/kv/a")).await.status, 503);
}

#[test]
fn what_cannot_be_only_read_is_refused_before_anything_is_opened() {
    for (store, told) in [
        ("memory:", "inside one process"),
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
