//! A queue on Redis in front of one folder: do servers that follow the folder and workers that take
//! turns on it lose, double or reorder anything when each of them, and Redis, is killed? And is
//! everything refused that would cause a loss?

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvstore_core::json_file::Inspection;

use kvstore_testing::client::{Connection, Reply, Request, request};
use kvstore_testing::process::{Process, kvstore_command, worker_command};
use kvstore_testing::redis::RedisServer;

const CLIENTS: usize = 8;
const ROUNDS: usize = 60;

/// Number of writes of a client in each round: one waited and one not.
const WRITES: usize = 2;

/// A key is deleted once in this many rounds.
const DELETE_EVERY: usize = 4;

/// Longer than the whole test takes.
const PATIENCE: Duration = Duration::from_secs(120);

const TAKES_OVER: &str = "took over the folder";
const STANDS_BY: &str = "standing by until the folder is free";

/// A folder and the queue in front of it.
struct Pair {
    redis: RedisServer,
    folder: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        Self {
            redis: RedisServer::start(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Returns a URL with a small journal limit, so that readers also follow through snapshots.
    fn store(&self) -> String {
        format!("file:{}?snapshot_bytes=32KiB", self.folder.path().display())
    }

    fn plain_store(&self) -> String {
        format!("file:{}", self.folder.path().display())
    }

    /// Launches a server that reads the folder, without waiting until it serves.
    fn launch_server(&self) -> Process {
        let (store, queue) = (self.plain_store(), self.redis.url());
        Process::launch(&["--worker", "none", "--store", &store, "--queue", &queue])
    }

    fn server(&self) -> Process {
        self.launch_server().serves()
    }

    fn worker(&self) -> Process {
        self.worker_with(&[])
    }

    fn worker_with(&self, args: &[&str]) -> Process {
        worker(&self.store(), &self.redis.url(), args)
    }

    /// Returns the id of the process that holds the folder.
    fn holder(&self) -> u32 {
        let text = std::fs::read_to_string(self.folder.path().join("LOCK")).unwrap();
        text.trim().parse().expect("a process id")
    }
}

fn worker(store: &str, queue: &str, args: &[&str]) -> Process {
    let mut command = worker_command(&[]);
    command
        .args(["--store", store, "--queue", queue])
        .args(["--admin-listen", "127.0.0.1:0"])
        .args(args);
    Process::launch_command(command)
}

async fn get(address: SocketAddr, target: &str) -> Reply {
    let mut connection = Connection::open(address).await;
    connection.ask(&request("GET", target)).await
}

/// Waits until the status in `/readyz` is `word`.
async fn until_ready(address: SocketAddr, word: &str) {
    let begun = Instant::now();
    loop {
        let reply = get(address, "/readyz").await;
        if reply.json()["status"] == word {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{word} is not in {reply:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// State that all clients share.
struct Fleet {
    addresses: Mutex<Vec<SocketAddr>>,
    acknowledged: AtomicUsize,
}

impl Fleet {
    fn address(&self, at: usize) -> SocketAddr {
        let addresses = self.addresses.lock().unwrap();
        addresses[at % addresses.len()]
    }

    /// Sends a request to the servers in turn until one answers with its outcome. A write has an
    /// idempotency key, so it can be sent any number of times.
    async fn ask(&self, first: usize, request: &Request, done: &[u16]) -> (usize, Reply) {
        let begun = Instant::now();
        let mut last = None;
        for at in first.. {
            if let Some(mut connection) = Connection::try_open(self.address(at)).await
                && let Some(reply) = connection.try_ask(request).await
            {
                if done.contains(&reply.status) {
                    return (at, reply);
                }
                assert!(matches!(reply.status, 202 | 503 | 504), "{reply:?}");
                last = Some(reply);
            }
            assert!(begun.elapsed() < PATIENCE, "{request:?}: {last:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        unreachable!("it counts for ever")
    }
}

/// Writes to two keys of its own: each write to the first is conditional on the previous one, and
/// writes to the second are not waited for.
async fn write(number: usize, fleet: Arc<Fleet>) {
    let counted = format!("/v1/kv/counted:{number}");
    let mut tag: Option<String> = None;
    for round in 1..=ROUNDS {
        let is_delete = round % DELETE_EVERY == 0;
        let method = if is_delete { "DELETE" } else { "PUT" };
        let change = request(method, &counted)
            .header("prefer", "wait=5")
            .header("idempotency-key", &format!("\"counted {number} {round}\""));
        let change = match &tag {
            Some(tag) => change.header("if-match", tag),
            None => change.header("if-none-match", "*"),
        };
        let change = match is_delete {
            true => change,
            false => change.body(round.to_string()),
        };
        // A lost or doubled write makes the next condition fail, and 412 is not among the accepted
        // statuses.
        let (at, reply) = fleet.ask(number + round, &change, &[200, 201]).await;
        fleet.acknowledged.fetch_add(1, Ordering::Relaxed);
        tag = reply.header("etag").map(str::to_owned);
        assert_eq!(tag.is_some(), !is_delete, "{reply:?}");

        // Another server shows it at once, with or without the token.
        let token = reply.header("sync-token").expect("a token").to_owned();
        let read = request("GET", &counted);
        let read = match round % 2 {
            0 => read.header("sync-token", &token),
            _ => read,
        };
        let (_, seen) = fleet.ask(at + 1, &read, &[200, 404]).await;
        assert_eq!(seen.header("etag"), tag.as_deref(), "{counted}: {seen:?}");

        let set = request("POST", "/set")
            .header("idempotency-key", &format!("\"ordered {number} {round}\""))
            .body(format!(r#"{{"key":"ordered:{number}","value":{round}}}"#));
        fleet.ask(at + 2, &set, &[202]).await;
        fleet.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_nothing_is_lost_doubled_or_reordered() {
    let mut pair = Pair::new();
    let mut workers = vec![pair.worker()];
    workers[0].logged("working");
    workers.push(pair.worker());
    workers[1].logged(STANDS_BY);
    let mut servers = [(); 3].map(|()| pair.server());
    let fleet = Arc::new(Fleet {
        addresses: Mutex::new(servers.iter().map(|server| server.address).collect()),
        acknowledged: AtomicUsize::new(0),
    });
    for server in &servers {
        until_ready(server.address, "ready").await;
    }
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(write(number, Arc::clone(&fleet))))
        .collect();

    let all = CLIENTS * ROUNDS * WRITES;
    let until = async |part: usize| {
        let begun = Instant::now();
        while fleet.acknowledged.load(Ordering::Relaxed) < all * part / 10 {
            assert!(
                !clients.iter().any(tokio::task::JoinHandle::is_finished),
                "a client has failed, or it is over already"
            );
            assert!(begun.elapsed() < PATIENCE, "too slow");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    // Twice in turn: a server, the worker that holds the folder, Redis.
    for (turn, part) in [1, 5].into_iter().enumerate() {
        until(part).await;
        servers[turn].kill();
        servers[turn] = pair.server();
        fleet.addresses.lock().unwrap()[turn] = servers[turn].address;

        until(part + 1).await;
        assert_eq!(pair.holder(), workers[0].id());
        let mut killed = workers.remove(0);
        killed.kill();
        workers[0].logged(TAKES_OVER);
        workers[0].logged("working");
        assert_eq!(pair.holder(), workers[0].id());
        workers.push(pair.worker());
        workers[1].logged(STANDS_BY);

        until(part + 2).await;
        pair.redis.kill_and_start();
    }
    for client in clients {
        tokio::time::timeout(PATIENCE, client)
            .await
            .expect("it comes to an end")
            .expect("no wrong answer");
    }
    assert_eq!(fleet.acknowledged.load(Ordering::Relaxed), all);

    // The last unwaited write must become visible at all servers.
    let begun = Instant::now();
    for server in &servers {
        for number in 0..CLIENTS {
            let target = format!("/v1/kv/ordered:{number}");
            while get(server.address, &target).await.text() != ROUNDS.to_string() {
                assert!(begun.elapsed() < PATIENCE, "{target} is not the last");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    // Each change took effect exactly once.
    let last = request("PUT", "/v1/kv/last").body("1");
    fleet.ask(0, &last, &[201]).await;
    let folder = Inspection::of(pair.folder.path()).unwrap();
    assert_eq!(folder.summary().changes, u64::try_from(all).unwrap() + 1);
    let page = "/v1/kv?limit=1000&include=value";
    let shown = get(servers[0].address, page).await;
    for server in &servers[1..] {
        assert_eq!(get(server.address, page).await.text(), shown.text());
    }

    // A process that stops in order leaves a file with the same content.
    workers.remove(1).kill();
    workers[0].signal("TERM");
    assert_eq!(workers[0].ended().code(), Some(0));
    let text = std::fs::read_to_string(pair.folder.path().join("data.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(file["ordered:0"], ROUNDS);
    assert_eq!(file["last"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_ready_says_so_once_and_takes_over_from_one_that_ends() {
    let pair = Pair::new();
    let mut first = pair.worker();
    first.logged("working");
    let second = pair.worker();
    let probes = second.logged_address("answering probes");
    let holder = second.logged(STANDS_BY)["holder"].to_string();
    assert!(
        holder.contains(&format!("process {}", first.id())),
        "{holder}"
    );
    until_ready(probes, "standing by").await;
    assert_eq!(get(probes, "/readyz").await.status, 200);
    let metrics = get(probes, "/metrics").await;
    assert!(metrics.text().contains("kvstore_up 1"), "{metrics:?}");

    // A standby that is asked to stop has nothing to finish.
    let mut third = pair.worker();
    third.logged(STANDS_BY);
    third.signal("TERM");
    assert_eq!(third.ended().code(), Some(0));

    first.signal("TERM");
    assert_eq!(first.ended().code(), Some(0));
    second.logged(TAKES_OVER);
    until_ready(probes, "ready").await;
    assert_eq!(second.count_logged(STANDS_BY), 0, "it was said before");

    let server = pair.server();
    until_ready(server.address, "ready").await;
    let mut connection = Connection::open(server.address).await;
    let put = request("PUT", "/v1/kv/a").body("1");
    assert_eq!(connection.ask(&put).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_accepts_nothing_until_it_can_read_the_folder() {
    let pair = Pair::new();
    let server = pair.server();
    until_ready(server.address, "unavailable").await;
    let put = request("PUT", "/v1/kv/a").body("1");
    let mut connection = Connection::open(server.address).await;
    assert_eq!(connection.ask(&put).await.status, 503);

    // A server with an embedded worker does as well as a worker.
    let writer = Process::start(&["--store", &pair.store(), "--queue", &pair.redis.url()]);
    until_ready(server.address, "ready").await;
    assert_eq!(connection.ask(&put).await.status, 201);
    let put = request("PUT", "/v1/kv/b").body("2");
    let mut other = Connection::open(writer.address).await;
    assert_eq!(other.ask(&put).await.status, 201);
    let seen = connection.ask(&request("GET", "/v1/kv/b")).await;
    assert_eq!((seen.status, seen.text()), (200, "2"));

    // Without a worker, a write is accepted and waits.
    drop(writer);
    let put = request("PUT", "/v1/kv/c")
        .header("prefer", "respond-async")
        .body("3");
    let reply = connection.ask(&put).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let job = reply.json()["job_id"].as_str().unwrap().to_owned();
    let told = connection
        .ask(&request("GET", &format!("/v1/jobs/{job}")))
        .await;
    assert_eq!(told.json()["status"], "queued");
    let _worker = pair.worker();
    let told = connection
        .ask(&request("GET", &format!("/v1/jobs/{job}?wait=15")))
        .await;
    assert_eq!(told.json()["status"], "succeeded", "{told:?}");
    let read = request("GET", "/v1/kv/c").header("sync-token", &job);
    assert_eq!(connection.ask(&read).await.text(), "3");
}

/// Waits for the failure of a process and returns its error messages.
fn refused(mut process: Process) -> String {
    assert_eq!(process.ended().code(), Some(1));
    let said: Vec<_> = process
        .errors()
        .iter()
        .map(|entry| entry["message"].to_string())
        .collect();
    said.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_goes_over_to_another_queue_only_when_told() {
    let pair = Pair::new();
    let mut alone = Process::start(&["--store", &pair.plain_store()]);
    let put = request("PUT", "/v1/kv/a").body("1");
    let mut connection = Connection::open(alone.address).await;
    assert_eq!(connection.ask(&put).await.status, 201);
    alone.signal("TERM");
    assert_eq!(alone.ended().code(), Some(0));

    let said = refused(pair.worker());
    assert!(said.contains("--adopt-queue"), "{said}");
    let server = pair.server();
    let put = request("PUT", "/v1/kv/b").body("2");
    let mut connection = Connection::open(server.address).await;
    assert_eq!(connection.ask(&put).await.status, 503);

    let _worker = pair.worker_with(&["--adopt-queue"]);
    until_ready(server.address, "ready").await;
    assert_eq!(connection.ask(&put).await.status, 201);
    let seen = connection.ask(&request("GET", "/v1/kv/a")).await;
    assert_eq!((seen.status, seen.text()), (200, "1"));

    // A second folder would take jobs meant for the first, and so would a store on Redis.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = format!("file:{}", elsewhere.path().display());
    let said = refused(worker(&other, &pair.redis.url(), &[]));
    assert!(said.contains("is for another folder"), "{said}");
    let said = refused(worker(&pair.redis.url(), &pair.redis.url(), &[]));
    assert!(said.contains("only a queue in front of"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_folder_had_accepted_itself_is_not_forgotten() {
    let pair = Pair::new();
    // The write was accepted, but nothing was ever applied.
    let opened = kvstore_core::open(&pair.plain_store().parse().unwrap(), None)
        .await
        .unwrap();
    let key = kvstore_core::Key::new("a").unwrap();
    let value = kvstore_core::Value::parse("1").unwrap();
    let set = kvstore_core::model::command::Operation::set(key, value);
    let job =
        kvstore_core::model::job::NewJob::new(kvstore_core::model::command::Command::One(set));
    opened.queue.enqueue(vec![job]).await.remove(0).unwrap();
    opened.close().await.unwrap();

    let said = refused(pair.worker());
    assert!(said.contains("--adopt-queue"), "{said}");
    let own = Process::start(&["--store", &pair.plain_store()]);
    let mut connection = Connection::open(own.address).await;
    let begun = Instant::now();
    while connection.ask(&request("GET", "/v1/kv/a")).await.status != 200 {
        assert!(begun.elapsed() < PATIENCE, "it is not applied");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_read_beside_a_worker_and_write_when_it_has_ended() {
    let pair = Pair::new();
    let mut worker = pair.worker();
    let server = pair.server();
    until_ready(server.address, "ready").await;
    let mut connection = Connection::open(server.address).await;
    let put = request("PUT", "/v1/kv/a").body("1");
    assert_eq!(connection.ask(&put).await.status, 201);

    let run = |args: &[&str]| {
        let output = kvstore_command(args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text, error)
    };
    let store = pair.plain_store();
    assert_eq!(
        run(&["export", "--from", &store, "--format", "json"])
            .1
            .replace('\n', ""),
        r#"{"a":1}"#
    );
    assert_eq!(run(&["verify", &store]).0, Some(0));
    let file = pair.folder.path().join("more.ndjson");
    std::fs::write(&file, "{\"key\":\"b\",\"value\":2}\n").unwrap();
    let file = file.display().to_string();
    let import = ["import", &file, "--to", &store];
    let (code, _, error) = run(&import);
    assert_eq!(code, Some(1));
    assert!(
        error.contains(&format!("process {}", worker.id())),
        "{error}"
    );

    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(0));
    assert_eq!(run(&import).0, Some(0));
    let _worker = pair.worker();
    let put = request("PUT", "/v1/kv/c").body("3");
    assert_eq!(connection.ask(&put).await.status, 201);
    let seen = connection.ask(&request("GET", "/v1/kv/b")).await;
    assert_eq!((seen.status, seen.text()), (200, "2"));
}
