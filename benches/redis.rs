//! What does a job cost a Redis server, compared with the minimum of one pipelined XADD and one
//! SET? And what do a read, a waited write and idle workers cost?

mod child;
mod exchange;
mod huey;
mod redis_server;
mod support;

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::job::NewJob;
use kvstore_core::open::Opened;
use kvstore_core::queue::WorkQueue;
use kvstore_core::service::ServiceOptions;
use kvstore_core::{JobQueue, Service, StoreExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::child::Child;
use crate::exchange::{read_answer, with_body};
use crate::huey::Huey;
use crate::redis_server::Server;
use crate::support::{ROUNDS, Rates, Table, drive, is_wanted, key, value};

/// The jobs of each row in each round.
const JOBS: usize = 60_000;

/// The tasks for Huey, which is slow.
const HUEY_JOBS: usize = 3_000;

/// The number of keys written and read.
const KEYS: usize = 100_000;

/// The default number of partitions of a new store.
const PARTITIONS: u16 = 64;

/// The partitions of the store, and the number of jobs being enqueued at any time: each task waits
/// for its own. The more of them per partition, the larger the batches.
const LOADS: [(u16, usize); 4] = [(64, 64), (64, 1024), (64, 8192), (8, 8192)];

/// How long a row that is measured over time takes in each round.
const SPAN: Duration = Duration::from_secs(2);

/// Connections, each with one request at a time.
const CONNECTIONS: usize = 64;

#[tokio::main]
async fn main() {
    match child::task() {
        None => {
            if is_wanted("jobs") {
                jobs(false).await;
                jobs(true).await;
            }
            if is_wanted("requests") {
                requests().await;
            }
            if is_wanted("idle") {
                idle();
            }
        }
        Some(arguments) if arguments[0] == "worker" => worker(&arguments[1]).await,
        Some(arguments) => server(&arguments[1]).await,
    }
}

async fn open(url: &str) -> Opened {
    kvstore_core::open(&url.parse().expect("it is a URL"), None)
        .await
        .expect("the server is there")
}

/// Measures from an empty server to one that has applied all jobs.
async fn jobs(is_durable: bool) {
    let mut table = Table::new(&[
        "jobs",
        "jobs per CPU second of Redis",
        "CPU µs of Redis per job",
        "jobs per second",
    ]);
    for _ in 0..ROUNDS {
        let server = Server::start(is_durable);
        let (cpu, begun) = (server.cpu_seconds(), Instant::now());
        let value = value();
        let field = ["XADD", "log", "*", "job", value.as_str()];
        server.benchmark(JOBS, &field);
        server.benchmark(JOBS, &["SET", "user:__rand_int__", value.as_str()]);
        let cpu = server.cpu_seconds() - cpu;
        add(&mut table, CEILING, JOBS, cpu, begun.elapsed());

        for (partitions, tasks) in LOADS {
            let server = Server::start(is_durable);
            let (cpu, taken) = apply(&server, partitions, tasks).await;
            let name = format!("kvstore, {partitions} partitions, {tasks} at once");
            add(&mut table, &name, JOBS, cpu, taken);
        }

        let server = Server::start(is_durable);
        let huey = Huey::start(&server);
        let cpu = server.cpu_seconds();
        let seconds = huey.set(HUEY_JOBS, value.as_str());
        let cpu = server.cpu_seconds() - cpu;
        let taken = Duration::from_secs_f64(seconds);
        add(&mut table, "Huey, one worker", HUEY_JOBS, cpu, taken);
    }
    let log = match is_durable {
        true => "`appendfsync always`",
        false => "no append-only file",
    };
    table.print(&format!("From enqueued to applied, {log} (redis, `jobs`)"));
}

const CEILING: &str = "redis-benchmark -P 16 -c 50: `XADD` and `SET`";

fn add(table: &mut Table, name: &str, jobs: usize, cpu: f64, taken: Duration) {
    let jobs = jobs as f64;
    let figures = [jobs / cpu, cpu / jobs * 1e6, jobs / taken.as_secs_f64()];
    table.add(name, &figures);
}

/// Enqueues `JOBS` jobs from that many tasks, to be applied by a worker. Returns the processor time
/// of Redis, and the time taken.
async fn apply(server: &Server, partitions: u16, tasks: usize) -> (f64, Duration) {
    let url = server.url(partitions);
    // A server and a worker are two processes, with a connection each.
    let (ours, workers) = (open(&url).await, open(&url).await);
    let options = kvstore_core::worker::Options::default();
    let running = kvstore_core::worker::run(workers.store, workers.queue, options, pending());
    let running = tokio::spawn(running);
    // Its claims, and all scripts.
    applied(&ours.queue, 1000, 100).await;
    let (cpu, begun) = (server.cpu_seconds(), Instant::now());
    applied(&ours.queue, JOBS, tasks).await;
    let figures = (server.cpu_seconds() - cpu, begun.elapsed());
    running.abort();
    figures
}

async fn applied(queue: &Arc<dyn WorkQueue>, jobs: usize, tasks: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (queue, next) = (Arc::clone(queue), Arc::clone(&next));
            tokio::spawn(async move {
                while next.fetch_add(1, Ordering::Relaxed) < jobs {
                    let set = Operation::set(key(rand::random_range(0..KEYS)), value());
                    let job = NewJob::new(Command::One(set));
                    let answer = queue.enqueue(vec![job]).await.remove(0);
                    answer.expect("it is accepted");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task that is measured ends well");
    }
    while queue.depth().await.expect("it answers").jobs > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Measures reads from the store and through HTTP, and writes through HTTP that wait until a worker
/// in another process has applied them.
async fn requests() {
    let mut table = Table::new(&["requests", "per second", "p50 µs", "p99 µs"]);
    for _ in 0..ROUNDS {
        let redis = Server::start(true);
        let url = redis.url(PARTITIONS);
        let store = open(&url).await.store;
        for number in 0..1000 {
            let set = store.set(key(number).as_str(), &number).await;
            set.expect("it can be written");
        }
        let mut worker = Child::start(&["worker", &url]);
        let mut server = Child::start(&["server", &url]);
        worker.ask("ready");
        let address = SocketAddr::from(([127, 0, 0, 1], server.ask("port")[0] as u16));

        let rates = drive(CONNECTIONS, SPAN, |_, mut laps| {
            let store = Arc::clone(&store);
            async move {
                while laps.go_on() {
                    let found = store.get(&key(rand::random_range(0..1000))).await;
                    assert!(found.expect("it answers").is_some());
                }
                laps
            }
        })
        .await;
        add_rates(&mut table, "`get` of the store, 64 tasks", &rates);
        let rates = append(&redis).await;
        add_rates(
            &mut table,
            "one `EVALSHA` with an `XADD`, 1 connection",
            &rates,
        );
        for (name, method, connections) in [
            ("`GET /v1/kv/{key}`, 64 connections", "GET", CONNECTIONS),
            ("`PUT /v1/kv/{key}`, waited for, 1 connection", "PUT", 1),
            (
                "`PUT /v1/kv/{key}`, waited for, 64 connections",
                "PUT",
                CONNECTIONS,
            ),
        ] {
            let rates = load(address, method, connections).await;
            add_rates(&mut table, name, &rates);
        }
    }
    table.print("Reads, and waited writes across processes (redis, `requests`)");
}

/// Measures the least that a durable change costs: one script that appends a value to a stream.
async fn append(redis: &Server) -> Rates {
    let script = "return redis.call('XADD', KEYS[1], '*', 'value', ARGV[1])";
    let hash = redis.cli(&["SCRIPT", "LOAD", script]);
    let request = format!("EVALSHA {} 1 stream {}\r\n", hash.trim(), "x".repeat(100));
    let socket = redis.socket();
    drive(1, SPAN, |_, mut laps| {
        let (request, socket) = (request.clone(), socket.clone());
        async move {
            let mut stream = UnixStream::connect(socket).await.expect("it listens");
            let mut answer = [0; 256];
            while laps.go_on() {
                let sent = stream.write_all(request.as_bytes()).await;
                sent.expect("the server reads");
                // The id of the entry, which one segment holds.
                let length = stream.read(&mut answer).await.expect("it answers");
                assert!(answer.starts_with(b"$") && answer[..length].ends_with(b"\r\n"));
            }
            laps
        }
    })
    .await
}

fn add_rates(table: &mut Table, name: &str, rates: &Rates) {
    assert!(rates.calls > 0.0, "{name}: nothing was answered in time");
    table.add(name, &[rates.per_second, rates.p50_us, rates.p99_us]);
}

async fn load(address: SocketAddr, method: &'static str, connections: usize) -> Rates {
    drive(connections, SPAN, |_, mut laps| async move {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("it is connected");
        let mut answer = Vec::with_capacity(4096);
        while laps.go_on() {
            let path = format!("/v1/kv/{}", key(rand::random_range(0..1000)));
            let value = value();
            let body = if method == "GET" { "" } else { value.as_str() };
            let request = with_body(method, &path, body);
            let sent = stream.write_all(request.as_bytes()).await;
            sent.expect("the server reads");
            read_answer(&mut stream, &mut answer).await;
            let text = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{text}");
        }
        laps
    })
    .await
}

/// Measures what idle workers cost.
fn idle() {
    let mut table = Table::new(&["idle", "commands per second", "CPU ms of Redis per second"]);
    let all = |server: &Server| {
        (
            server.info(&["total_commands_processed"]),
            server.cpu_seconds(),
        )
    };
    for _ in 0..ROUNDS {
        for workers in [0, 4] {
            let server = Server::start(true);
            let url = server.url(PARTITIONS);
            let mut workers_started: Vec<_> = (0..workers)
                .map(|_| Child::start(&["worker", &url]))
                .collect();
            for worker in &mut workers_started {
                worker.ask("ready");
            }
            // Until the workers have divided the partitions.
            std::thread::sleep(Duration::from_secs(5));
            let (commands, cpu) = all(&server);
            let begun = Instant::now();
            std::thread::sleep(Duration::from_secs(5));
            let seconds = begun.elapsed().as_secs_f64();
            let (commands_then, cpu_then) = all(&server);
            table.add(
                &format!("{workers} workers, {PARTITIONS} partitions"),
                &[
                    (commands_then - commands) / seconds,
                    (cpu_then - cpu) * 1e3 / seconds,
                ],
            );
        }
    }
    table.print("Nothing to do (redis, `idle`)");
}

/// Runs a worker in its own process.
async fn worker(url: &str) {
    let opened = open(url).await;
    let options = kvstore_core::worker::Options::default();
    let running = kvstore_core::worker::run(opened.store, opened.queue, options, pending());
    tokio::spawn(running);
    child::answer(async |_| vec![1.0]).await;
}

/// Runs a server in its own process, without a worker.
async fn server(url: &str) {
    let opened = open(url).await;
    let service = Service::open(opened.store, opened.queue, ServiceOptions::default());
    let service = service.await.expect("they belong together");
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let options = kvstore_http::Options::default();
    tokio::spawn(kvstore_http::serve(listener, service, options, pending()));
    child::answer(async |_| vec![f64::from(address.port())]).await;
}
