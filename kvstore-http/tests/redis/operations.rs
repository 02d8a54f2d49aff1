//! Do the instructions in `k8s/README.md` for operators work: a backup of Redis under load, and the
//! move from a folder to Redis while reads are served? And are losses noticed after Redis returns
//! from an old copy?

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::tokens::add_token;
use kvstore_testing::client::{Connection, Reply, request};
use kvstore_testing::process::{Process, kvstore_command, worker_command};
use kvstore_testing::redis::RedisServer;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server's message about accepted jobs that are lost.
const LOST: &str = "the Redis server has lost the jobs between these positions, which it had acknowledged: it came back from an older \
                    copy, or a server that lagged took its place";

/// Starts a server and a worker on `redis`.
fn fleet(redis: &RedisServer) -> [Process; 2] {
    let url = redis.url();
    let worker = Process::launch_command(worker_command(&["--store", &url]));
    worker.logged("working");
    [
        Process::start(&["--store", &url, "--worker", "none"]),
        worker,
    ]
}

/// Counts up in `key` until stopped; `written` advances only with writes answered as applied.
async fn count_up(
    address: SocketAddr,
    key: String,
    written: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) {
    let mut connection = Connection::open(address).await;
    for number in 1.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let put = request("PUT", &format!("/v1/kv/{key}")).header("prefer", "wait=30");
        let reply = connection.ask(&put.body(number.to_string())).await;
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        written.store(number, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_of_the_log_of_redis_made_under_load_holds_what_was_acknowledged() {
    let redis = RedisServer::start();
    let processes = fleet(&redis);
    let stop = Arc::new(AtomicBool::new(false));
    let written: Vec<Arc<AtomicU64>> = (0..8).map(|_| Arc::default()).collect();
    let clients: Vec<_> = (0..written.len())
        .map(|number| {
            let (written, stop) = (Arc::clone(&written[number]), Arc::clone(&stop));
            let key = format!("client:{number}");
            tokio::spawn(count_up(processes[0].address, key, written, stop))
        })
        .collect();
    let counts = || -> Vec<u64> {
        let counts = written.iter().map(|count| count.load(Ordering::SeqCst));
        counts.collect()
    };
    let begun = Instant::now();
    while counts().iter().any(|count| *count < 20) {
        assert!(begun.elapsed() < PATIENCE, "too slow: {:?}", counts());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // The guide disables rewrites of the log while it is copied.
    redis.ask(&["CONFIG", "SET", "auto-aof-rewrite-percentage", "0"]);
    assert_eq!(redis.info("persistence", "aof_rewrite_in_progress"), 0);
    let before = counts();
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(redis.log_folder())
        .arg(copy.path())
        .status()
        .unwrap();
    assert!(copied.success());
    redis.ask(&["CONFIG", "SET", "auto-aof-rewrite-percentage", "100"]);
    let after = counts();
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let last = counts();
    drop(processes);
    drop(redis);

    let restored = RedisServer::start_in(copy);
    let processes = fleet(&restored);
    let mut connection = Connection::open(processes[0].address).await;
    for (number, before) in before.iter().enumerate() {
        let key = format!("/v1/kv/client:{number}");
        let reply = connection.ask(&request("GET", &key)).await;
        let found = reply.json().as_u64().unwrap();
        assert!(
            (*before..=last[number]).contains(&found),
            "{key}: {found}, and {before} was acknowledged before the copy"
        );
        // The server continues to work.
        let put = request("PUT", &key).header("prefer", "wait=30").body("0");
        assert_eq!(connection.ask(&put).await.status, 200);
    }
    assert!(
        before < after || after < last,
        "nothing was written meanwhile"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_an_old_copy_of_redis_lacks_are_unknown_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("file:{}", folder.path().display());
    for on_folder in [false, true] {
        let mut redis = RedisServer::start();
        let url = redis.url();
        let arguments = match on_folder {
            false => vec!["--store", &url],
            true => vec!["--store", &file, "--queue", &url],
        };
        let worker = Process::launch_command(worker_command(&arguments));
        worker.logged("working");
        let server = Process::start(&[&["--worker", "none"], &arguments[..]].concat());
        let mut connection = Connection::open(server.address).await;
        let put = |value: &str| request("PUT", "/v1/kv/a").body(value.to_owned());
        let waiting = |value: &str| put(value).header("prefer", "wait=30");
        let first = connection.ask(&waiting("1")).await;
        assert_eq!(first.status, 201, "{first:?}");

        let copy = redis.copy();
        // The worker is paused, so the write exists only in the queue.
        worker.pause();
        let lost = connection.ask(&put("2")).await;
        assert_eq!(lost.status, 202, "{lost:?}");
        let token = lost.header("sync-token").unwrap();
        redis.kill_and_start_from(&copy);
        worker.signal("CONT");

        let next = connection.ask(&waiting("3")).await;
        assert_eq!(next.status, 200, "{next:?}");
        // Job numbers follow the order of acceptance even though one job was lost.
        let get = request("GET", "/v1/kv/a");
        let read = connection.ask(&get).await;
        assert_eq!((read.status, read.text()), (200, "3"));
        let read = connection.ask(&get.header("sync-token", token)).await;
        assert_eq!(
            read.status, 400,
            "never as if it had been applied: {read:?}"
        );
        let job = connection
            .ask(&request("GET", &format!("/v1/jobs/{token}")))
            .await;
        assert_eq!(job.status, 404, "{job:?}");
        server.logged(LOST);
        let metrics = connection.ask(&request("GET", "/metrics")).await;
        let metrics = metrics.text();
        assert!(
            metrics.contains("kvstore_queue_jobs_lost_total 1\n"),
            "{metrics}"
        );
        // Earlier applied writes are unchanged.
        let token = first.header("sync-token").unwrap();
        let read = request("GET", "/v1/kv/a").header("sync-token", token);
        assert_eq!(connection.ask(&read).await.status, 200);
    }
}

#[tokio::test]
async fn access_log_is_one_setting_that_the_configuration_names() {
    let page = include_str!("../../../docs/configuration.md");
    let (_, after) = page.split_once("**The access log**: with `--log ").unwrap();
    let (filter, _) = after.split_once('`').unwrap();
    let mut server = Process::start(&["--store", "memory:", "--log", filter]);
    let mut connection = Connection::open(server.address).await;
    let get = request("GET", "/v1/kv/none").header("x-request-id", "asked");
    let reply = connection.ask(&get).await;
    assert_eq!(reply.status, 404);
    let logged = server.logged("answered");
    assert_eq!(logged["method"], "GET");
    assert_eq!(logged["path"], "/v1/kv/none");
    assert_eq!(logged["status"], 404);
    let id = reply.header("x-request-id").unwrap();
    assert!(
        logged["request_id"].as_str().unwrap().contains(id),
        "{logged}"
    );
    server.signal("TERM");
    server.ended();
    let others = server.whole_log();
    let others: Vec<_> = others.iter().filter(|it| it["level"] == "DEBUG").collect();
    assert!(others.is_empty(), "that is more than requests: {others:#?}");
}

/// Runs the two commands of a pipe in the guide, so that the second reads the output of the first.
fn pipe(export: &[&str], import: &[&str]) -> String {
    let mut export = kvstore_command(export)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let entries = export.stdout.take().unwrap();
    let imported = kvstore_command(import).stdin(entries).output().unwrap();
    assert!(export.wait().unwrap().success());
    assert!(imported.status.success(), "{imported:?}");
    String::from_utf8(imported.stdout).unwrap()
}

/// Creates a token file with one token of these rights; returns the token.
fn tokens(file: &Path, rights: &str) -> String {
    // The file may exist with other rights.
    let _ = std::fs::remove_file(file);
    add_token(file, "ops", rights, "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_moves_to_redis_while_reads_are_served() {
    const KEYS: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().join("database").display());
    let file = folder.path().join("tokens");
    let args = ["--store", &store, "--tokens-file", file.to_str().unwrap()];
    let secret = tokens(&file, "rw");
    let server = Process::start(&args);
    let mut connection = Connection::open(server.address).await;
    let bearer = format!("Bearer {secret}");
    for number in 0..KEYS {
        let ttl = if number % 3 == 0 { "?ttl=3600" } else { "" };
        let put = request("PUT", &format!("/v1/kv/user:{number:03}{ttl}"));
        let put = put.header("authorization", &bearer);
        let reply = connection.ask(&put.body(format!("[{number},1.50]"))).await;
        assert_eq!(reply.status, 201);
    }

    // From here on the folder is read-only.
    let bearer = format!("Bearer {}", tokens(&file, "r"));
    server.signal("HUP");
    server.logged("the tokens were read again");
    let put = request("PUT", "/v1/kv/user:000").header("authorization", &bearer);
    assert_eq!(connection.ask(&put.body("0")).await.status, 403);

    let redis = RedisServer::start();
    let url = redis.url();
    let import = ["import", "-", "--to", &url];
    let (stop, reads) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let reading = tokio::spawn({
        let (stop, reads, bearer) = (Arc::clone(&stop), Arc::clone(&reads), bearer.clone());
        async move {
            while !stop.load(Ordering::SeqCst) {
                let number = reads.fetch_add(1, Ordering::SeqCst) as usize % KEYS;
                let get = request("GET", &format!("/v1/kv/user:{number:03}"));
                let reply = connection.ask(&get.header("authorization", &bearer)).await;
                assert_eq!(
                    (reply.status, reply.text()),
                    (200, &*format!("[{number},1.50]"))
                );
            }
        }
    });
    let export = ["export", "--from", &store];
    let printed = tokio::task::block_in_place(|| pipe(&export, &import));
    assert_eq!(
        printed,
        format!("{{\"written\":{KEYS},\"equal\":0,\"kept\":0,\"expired\":0}}\n")
    );
    stop.store(true, Ordering::SeqCst);
    reading.await.unwrap();
    assert!(reads.load(Ordering::SeqCst) > 0);
    drop(server);

    let processes = fleet(&redis);
    let mut connection = Connection::open(processes[0].address).await;
    for number in 0..KEYS {
        let get = request("GET", &format!("/v1/kv/user:{number:03}"));
        let reply: Reply = connection.ask(&get).await;
        assert_eq!(
            (reply.status, reply.text()),
            (200, &*format!("[{number},1.50]"))
        );
        assert_eq!(
            reply.header("x-ttl").is_some(),
            number % 3 == 0,
            "{reply:?}"
        );
    }
}
