//! Does a client learn that its state belongs to a lost history? (The real program is restarted
//! without data or on an older copy of its folder.)

use std::path::Path;
use std::time::{Duration, Instant};

use kvstore_testing::client::{Connection, Reply, Request, request};
use kvstore_testing::events::Events;
use kvstore_testing::process::Process;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

async fn ask(process: &Process, request: &Request) -> Reply {
    Connection::open(process.address).await.ask(request).await
}

async fn put(process: &Process, target: &str) -> Reply {
    let put = request("PUT", target).header("prefer", "wait=20").body("1");
    let reply = ask(process, &put).await;
    assert!(matches!(reply.status, 200 | 201), "{reply:?}");
    reply
}

/// Watches a write to `a`, and returns the id of that change.
async fn change_id(process: &Process) -> String {
    let mut events = Events::open(process.address, &request("GET", "/v1/watch")).await;
    put(process, "/v1/kv/a").await;
    events.told().await;
    events.last_id
}

async fn resume(process: &Process, id: &str) -> u16 {
    let resumed = request("GET", &format!("/v1/watch?since={id}"));
    ask(process, &resumed).await.status
}

fn start(folder: &Path) -> Process {
    Process::start(&["--store", &format!("file:{}", folder.display())])
}

fn stop(mut process: Process) {
    process.signal("TERM");
    let begun = Instant::now();
    while !process.has_ended() {
        assert!(begun.elapsed() < PATIENCE, "the server does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn a_watcher_of_a_memory_store_that_restarted_is_told_410() {
    let mut process = Process::start(&["--store", "memory:"]);
    let id = change_id(&process).await;
    process.kill();
    let process = Process::start(&["--store", "memory:"]);
    for _ in 0..3 {
        assert_eq!(resume(&process, &id).await, 410);
        change_id(&process).await;
    }
}

#[tokio::test]
async fn what_was_lost_with_an_older_copy_of_the_folder_is_unknown() {
    let folders = tempfile::tempdir().unwrap();
    let (folder, copy) = (folders.path().join("folder"), folders.path().join("copy"));
    let process = start(&folder);
    put(&process, "/v1/kv/a").await;
    stop(process);
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }

    let process = start(&folder);
    let id = change_id(&process).await;
    let lost = put(&process, "/v1/kv/a").await;
    let etag = lost.header("etag").unwrap().to_owned();
    let job = lost.json()["job_id"].as_str().unwrap().to_owned();
    stop(process);

    let process = start(&copy);
    for _ in 0..3 {
        let found = ask(&process, &request("GET", &format!("/v1/jobs/{job}"))).await;
        assert_eq!(found.status, 404, "{found:?}");
        let read = request("GET", "/v1/kv/a").header("sync-token", &job);
        let read = ask(&process, &read).await;
        assert!((400..500).contains(&read.status), "{read:?}");
        let on_lost = request("PUT", "/v1/kv/a")
            .header("prefer", "wait=20")
            .header("if-match", &etag)
            .body("2");
        let on_lost = ask(&process, &on_lost).await;
        assert_eq!(on_lost.status, 412, "{on_lost:?}");
        assert_eq!(resume(&process, &id).await, 410);
        let new = put(&process, "/v1/kv/a").await;
        assert_ne!(new.header("etag").unwrap(), etag);
        assert_ne!(new.json()["job_id"].as_str().unwrap(), job);
    }
    stop(process);
}
