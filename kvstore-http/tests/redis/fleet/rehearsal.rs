//! Do clients notice when a fleet is updated and scaled as by Kubernetes?
//!
//! Three servers behind a balancer and three workers run on a Redis server. Under load, each
//! process is replaced by a new one and ended with SIGTERM; then the fleet is scaled to six of
//! each, and then to two. No client may notice: every request is answered, none is refused, none is
//! sent twice. Then each process is replaced after a SIGKILL. Connections may break, but no
//! acknowledged write may be lost.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::balancer::Balancer;
use super::client::{Client, World};
use kvstore_testing::client::{Connection, request};
use kvstore_testing::history::check;
use kvstore_testing::history::{Moment, NEVER, Operation};
use kvstore_testing::process::{Process, server_command, worker_command};
use kvstore_testing::redis::RedisServer;

const CLIENTS: usize = 12;
const KEYS: usize = 24;

/// Longer than the balancer takes to notice that a server is no longer ready, as in the manifests.
const DRAIN_DELAY: &str = "1s";

/// Longer than a server takes to start and to be found ready on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the fleet is left alone between two steps.
const REST: Duration = Duration::from_millis(500);

/// How a process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    InOrder,
    Killed,
}

/// The processes of an orchestrator.
struct Deployment {
    redis: RedisServer,
    balancer: Balancer,
    servers: Vec<Process>,
    workers: Vec<Process>,
}

impl Deployment {
    fn store(&self) -> String {
        format!("{}?partitions=12", self.redis.url())
    }

    /// Starts a server, and waits until it receives connections.
    async fn start_server(&mut self) {
        let store = self.store();
        let args = [
            "--store",
            &store,
            "--worker",
            "none",
            "--drain-delay",
            DRAIN_DELAY,
        ];
        let process = Process::launch_command(server_command(&args)).serves();
        self.balancer.add(process.address);
        let begun = Instant::now();
        while !self.balancer.is_ready(process.address) {
            assert!(begun.elapsed() < PATIENCE, "it is never ready");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.servers.push(process);
    }

    fn start_worker(&mut self) {
        let process = Process::launch_command(worker_command(&["--store", &self.store()]));
        process.logged("working");
        self.workers.push(process);
    }

    /// Ends the oldest server.
    async fn end_server(&mut self, end: End) {
        let server = self.servers.remove(0);
        let address = server.address;
        if end == End::InOrder {
            self.balancer.take_out(address);
        }
        end_process(server, end).await;
        self.balancer.remove(address);
    }

    /// Ends the oldest worker.
    async fn end_worker(&mut self, end: End) {
        let worker = self.workers.remove(0);
        end_process(worker, end).await;
    }

    /// Scales to `count` servers and workers, one after the other.
    async fn scale(&mut self, count: usize) {
        while self.servers.len() < count {
            self.start_server().await;
            self.start_worker();
        }
        while self.servers.len() > count {
            self.end_server(End::InOrder).await;
            self.end_worker(End::InOrder).await;
        }
        tokio::time::sleep(REST).await;
    }

    /// Replaces each process, one after the other. A process that ends in order has its successor
    /// first; a killed one afterwards.
    async fn replace_all(&mut self, end: End) {
        for _ in 0..self.servers.len() {
            if end == End::InOrder {
                self.start_server().await;
                self.start_worker();
            }
            self.end_server(end).await;
            self.end_worker(end).await;
            if end == End::Killed {
                tokio::time::sleep(REST).await;
                self.start_server().await;
                self.start_worker();
            }
            tokio::time::sleep(REST).await;
        }
    }
}

async fn end_process(mut process: Process, end: End) {
    // Waiting for it must not block the clients.
    let ended = tokio::task::spawn_blocking(move || {
        match end {
            End::InOrder => process.signal("TERM"),
            End::Killed => process.signal("KILL"),
        }
        let status = process.ended();
        (status, process.errors())
    });
    let (status, errors) = ended.await.expect("it ends");
    match end {
        End::InOrder => assert_eq!(status.code(), Some(0), "{errors:#?}"),
        End::Killed => assert_eq!(status.signal(), Some(9), "{errors:#?}"),
    }
    assert!(errors.is_empty(), "{errors:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_update_and_scaling_lose_no_request_and_kills_no_write() {
    let balancer = Balancer::start().await;
    let world = Arc::new(World::new(vec![balancer.address], KEYS));
    let mut fleet = Deployment {
        redis: RedisServer::start(),
        balancer,
        servers: Vec::new(),
        workers: Vec::new(),
    };
    fleet.scale(3).await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = Client::new(number, rand::random(), Arc::clone(&world));
            tokio::spawn(client.run())
        })
        .collect();
    tokio::time::sleep(REST).await;

    let begun = world.now();
    let before: Vec<SocketAddr> = fleet.servers.iter().map(|it| it.address).collect();
    fleet.replace_all(End::InOrder).await;
    assert!(fleet.servers.iter().all(|it| !before.contains(&it.address)));
    let updated = world.now();
    fleet.scale(6).await;
    fleet.scale(2).await;
    let scaled = world.now();
    fleet.scale(3).await;
    let killing = world.now();
    fleet.replace_all(End::Killed).await;
    let killed = world.now();

    world.end();
    let mut history = Vec::new();
    let mut failures = Vec::new();
    let mut reader = Client::new(CLIENTS, rand::random(), world);
    for client in clients {
        let client = client.await.expect("a client that ends");
        assert!(client.wrong.is_empty(), "{:#?}", client.wrong);
        history.extend(client.history);
        failures.extend(client.failures);
    }
    for key in 0..KEYS {
        reader.read_for_certain(key, 0).await;
    }
    history.extend(reader.history);

    let phases = [
        ("update by SIGTERM", begun, updated),
        ("six of each, then two", updated, scaled),
        ("update by SIGKILL", killing, killed),
    ];
    for (phase, from, to) in phases {
        report(phase, &history, &failures, from, to);
    }
    let unnoticed: Vec<_> = failures.iter().filter(|it| it.0 < killing).collect();
    assert!(unnoticed.is_empty(), "noticed: {unnoticed:#?}");
    let found = check(&history);
    assert!(found.is_empty(), "{found:#?}");
    assert!(
        history.len() > 1000,
        "{} requests say nothing",
        history.len()
    );
}

/// Prints the outcomes of the requests that began in a part of the run.
fn report(
    phase: &str,
    history: &[Operation],
    failures: &[(Moment, String)],
    from: Moment,
    to: Moment,
) {
    let part = from..to;
    let failed = failures.iter().filter(|it| part.contains(&it.0)).count();
    let begun = history.iter().filter(|it| part.contains(&it.invoked));
    // A waited write ends when it is accepted, by whichever answer.
    let ended = begun.map(|it| (it.invoked, it.accepted.min(it.done)));
    let mut times: Vec<_> = ended
        .filter(|(_, end)| *end != NEVER)
        .map(|(begin, end)| end - begin)
        .collect();
    times.sort_unstable();
    let milliseconds =
        |share: usize| times.get(times.len() * share / 100).copied().unwrap_or(0) / 1_000_000;
    println!(
        "{phase}: {} requests, {failed} failed, p50 {} ms, p99 {} ms",
        times.len(),
        milliseconds(50),
        milliseconds(99)
    );
}

/// How long every request is answered while Redis is away: many times the interval of probes.
const OUTAGE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outage_of_redis_leaves_clients_servers_that_answer() {
    let mut fleet = Deployment {
        redis: RedisServer::start(),
        balancer: Balancer::start().await,
        servers: Vec::new(),
        workers: Vec::new(),
    };
    fleet.scale(2).await;
    let put = request("PUT", "/v1/kv/a")
        .header("prefer", "wait=10")
        .body("1");
    let reply = Connection::open(fleet.balancer.address)
        .await
        .ask(&put)
        .await;
    assert_eq!(reply.status, 201);

    fleet.redis.kill();
    let begun = Instant::now();
    while begun.elapsed() < OUTAGE {
        let mut connection = Connection::open(fleet.balancer.address).await;
        let reply = connection.try_ask(&request("GET", "/v1/kv/a")).await;
        let reply = reply.expect("no server was there to answer");
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    fleet.redis.restart();
    let begun = Instant::now();
    loop {
        let mut connection = Connection::open(fleet.balancer.address).await;
        let reply = connection.ask(&request("GET", "/v1/kv/a")).await;
        if reply.status == 200 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{reply:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_a_folder_need_no_redis() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().join("database").display());
    let mut redis = RedisServer::start();
    let queue = redis.url();
    let args = ["--store", &store, "--queue", &queue];
    let worker = Process::launch_command(worker_command(&args));
    worker.logged("working");
    let server =
        Process::launch_command(server_command(&[&args[..], &["--worker", "none"]].concat()));
    let server = server.serves();
    let balancer = Balancer::start().await;
    balancer.add(server.address);
    let begun = Instant::now();
    while !balancer.is_ready(server.address) {
        assert!(begun.elapsed() < PATIENCE, "it is never ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let put = request("PUT", "/v1/kv/a")
        .header("prefer", "wait=10")
        .body("1");
    let reply = Connection::open(balancer.address).await.ask(&put).await;
    assert_eq!(reply.status, 201);

    redis.kill();
    let begun = Instant::now();
    while begun.elapsed() < OUTAGE {
        let mut connection = Connection::open(balancer.address).await;
        let reply = connection.try_ask(&request("GET", "/v1/kv/a")).await;
        let reply = reply.expect("no server was there to answer");
        assert_eq!((reply.status, reply.text()), (200, "1"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
