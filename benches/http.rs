//! What does a request cost, compared with one to a bare hyper server that answers with a constant
//! body of the same size?

mod child;
mod data;
mod exchange;
mod support;
mod valgrind;

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kvstore_core::json_file::{JsonFile, Options};
use kvstore_core::queue::QueueOptions;
use kvstore_core::service::ServiceOptions;
use kvstore_core::{JobQueue, Key, Service};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::child::Child;
use crate::data::{fill, many};
use crate::exchange::{read_answer, with_body};
use crate::support::{
    ROUNDS, Rates, Table, asks_for, drive, is_wanted, key, scratch_folder, value,
};

/// Links the allocator of the server's program.
#[used]
static ALLOCATOR: fn(&mimalloc::MiMalloc) -> u32 = mimalloc::MiMalloc::version;

/// How long each row is measured in each round.
const SPAN: Duration = Duration::from_secs(2);

/// Keep-alive connections, each with one request at a time.
const CONNECTIONS: usize = 64;

/// The number of different requests, sent over and over.
const REQUESTS: usize = 10_000;

#[tokio::main]
async fn main() {
    match child::task().as_deref() {
        None => {
            if is_wanted("requests") {
                requests().await;
            }
            if is_wanted("latency") {
                latency().await;
            }
            // It needs a tool that is not installed everywhere.
            if asks_for("instructions") {
                instructions().await;
            }
        }
        Some([_]) => bare().await,
        Some(arguments) => kvstore(Path::new(&arguments[1])).await,
    }
}

/// A request, and the start of its answer.
struct Exchange {
    name: &'static str,
    request: fn(&Key) -> String,
    status: &'static [u8],
}

const OK: &[u8] = b"HTTP/1.1 200 ";

/// The first one is sent to the bare server, the others to kvstore.
const EXCHANGES: [Exchange; 5] = [
    Exchange {
        name: "bare hyper, a constant body",
        request: |key| with_body("GET", &format!("/v1/kv/{}", key), ""),
        status: OK,
    },
    Exchange {
        name: "`GET /v1/kv/{key}`",
        request: |key| with_body("GET", &format!("/v1/kv/{}", key), ""),
        status: OK,
    },
    Exchange {
        name: "`GET /get/{key}`",
        request: |key| with_body("GET", &format!("/get/{}", key), ""),
        status: OK,
    },
    Exchange {
        name: "`POST /set`, 202: accepted",
        request: |key| {
            let body = format!(r#"{{"key":"{}","value":{}}}"#, key, value());
            with_body("POST", "/set", &body)
        },
        status: b"HTTP/1.1 202 ",
    },
    Exchange {
        name: "`PUT /v1/kv/{key}`, 200: applied",
        request: |key| {
            let path = format!("/v1/kv/{}", key);
            with_body("PUT", &path, value().as_str())
        },
        status: OK,
    },
];

/// Measures requests per second of the server's processor time, and per second of the clock.
async fn requests() {
    let folder = scratch_folder();
    fill(folder.path(), many());
    let mut servers = [
        Server::start(&["bare"]),
        Server::start(&["kvstore", &folder.path().to_string_lossy()]),
    ];
    let mut table = Table::new(&[
        "requests",
        "per CPU second of the server",
        "per second",
        "p50 µs",
        "p99 µs",
        "server's CPUs",
    ]);
    for _ in 0..ROUNDS {
        for (index, exchange) in EXCHANGES.iter().enumerate() {
            let server = &mut servers[index.min(1)];
            let before = server.cpu_seconds();
            let rates = server.load(exchange, None).await;
            let cpu = server.cpu_seconds() - before;
            let seconds = rates.calls / rates.per_second;
            table.add(
                exchange.name,
                &[
                    rates.calls / cpu,
                    rates.per_second,
                    rates.p50_us,
                    rates.p99_us,
                    cpu / seconds,
                ],
            );
        }
    }
    table.print(&format!(
        "Requests over {CONNECTIONS} connections, values of 100 bytes, {} entries (http, `requests`)",
        many()
    ));
}

/// Measures how long answers take when the server is not saturated: at half of the maximum rate
/// just measured.
async fn latency() {
    let folder = scratch_folder();
    fill(folder.path(), many());
    let mut servers = [
        Server::start(&["bare"]),
        Server::start(&["kvstore", &folder.path().to_string_lossy()]),
    ];
    let mut table = Table::new(&["requests", "p99 µs", "p50 µs", "per second"]);
    for _ in 0..ROUNDS {
        for (index, exchange) in EXCHANGES.iter().enumerate() {
            let server = &mut servers[index.min(1)];
            let most = server.load(exchange, None).await.per_second;
            // Accepted jobs are applied before the next figure is taken.
            server.cpu_seconds();
            let rates = server.load(exchange, Some(most / 2.0)).await;
            server.cpu_seconds();
            let figures = [rates.p99_us, rates.p50_us, rates.per_second];
            table.add(exchange.name, &figures);
        }
    }
    table.print(&format!(
        "Answers at half of what the server can do, {CONNECTIONS} connections, {} entries (http, `latency`)",
        many()
    ));
}

/// The requests of the short run and of the long one. What a program does before and after them is
/// in both.
const COUNTED: [usize; 2] = [500, 2500];

/// Counts the instructions that a server executes per request, which does not depend on the load of
/// the machine. Kernel instructions are not included.
async fn instructions() {
    let mut table = Table::new(&["instructions", "per request"]);
    for (index, exchange) in EXCHANGES.iter().enumerate() {
        let mut totals = [0.0; 2];
        for (total, count) in totals.iter_mut().zip(COUNTED) {
            let folder = scratch_folder();
            fill(folder.path(), COUNTED_ENTRIES);
            let log = folder.path().with_extension("valgrind");
            let path = folder.path().to_string_lossy();
            let arguments: &[&str] = if index == 0 {
                &["bare"]
            } else {
                &["kvstore", &path]
            };
            let mut server = Server::of(Child::start_by(valgrind::counted(&log), arguments));
            let mut stream = TcpStream::connect(server.address)
                .await
                .expect("it listens");
            let mut answer = Vec::with_capacity(4096);
            for number in 0..count {
                let request = (exchange.request)(&key(number % COUNTED_ENTRIES));
                let sent = stream.write_all(request.as_bytes()).await;
                sent.expect("the server reads");
                read_answer(&mut stream, &mut answer).await;
                assert!(answer.starts_with(exchange.status));
            }
            // All accepted jobs are applied.
            server.cpu_seconds();
            drop((stream, server));
            *total = valgrind::instructions(&log);
            let _ = std::fs::remove_file(&log);
        }
        let requests = (COUNTED[1] - COUNTED[0]) as f64;
        table.add(exchange.name, &[(totals[1] - totals[0]) / requests]);
    }
    table.print(
        "Instructions for a request over one connection, outside the kernel (http, `instructions`)",
    );
}

/// The entries of the store meanwhile: waiting for memory is not counted anyway.
const COUNTED_ENTRIES: usize = 1000;

/// A server in its own process.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        Self::of(Child::start(arguments))
    }

    fn of(mut child: Child) -> Self {
        let port = child.ask("port")[0] as u16;
        Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        }
    }

    /// Returns the processor time used, once everything accepted is done.
    fn cpu_seconds(&mut self) -> f64 {
        self.child.ask("cpu")[0]
    }

    /// Sends requests as fast as they are answered, or at a given rate.
    async fn load(&self, exchange: &Exchange, per_second: Option<f64>) -> Rates {
        let interval = per_second.map(|rate| Duration::from_secs_f64(CONNECTIONS as f64 / rate));
        let (address, status) = (self.address, exchange.status);
        // Prepared in advance, to leave the two CPUs to the server as far as possible.
        let random_key = || key(rand::random_range(0..many()));
        let requests: Arc<Vec<String>> = Arc::new(
            std::iter::repeat_with(|| (exchange.request)(&random_key()))
                .take(REQUESTS)
                .collect(),
        );
        drive(CONNECTIONS, SPAN, |number, mut laps| {
            let requests = Arc::clone(&requests);
            async move {
                let mut stream = TcpStream::connect(address).await.expect("it listens");
                stream.set_nodelay(true).expect("it is connected");
                let mut answer = Vec::with_capacity(4096);
                // Staggered.
                let mut next = Instant::now();
                next += interval
                    .unwrap_or_default()
                    .mul_f64(number as f64 / CONNECTIONS as f64);
                while laps.go_on() {
                    if let Some(interval) = interval {
                        tokio::time::sleep_until(next.into()).await;
                        next += interval;
                        laps.last = Some(Instant::now());
                    }
                    let request = &requests[rand::random_range(0..REQUESTS)];
                    let sent = stream.write_all(request.as_bytes()).await;
                    sent.expect("the server reads");
                    read_answer(&mut stream, &mut answer).await;
                    let text = String::from_utf8_lossy(&answer);
                    assert!(answer.starts_with(status), "{text}");
                }
                laps
            }
        })
        .await
    }
}

/// Serves the least that hyper can.
async fn bare() {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        let body = value().into_bytes();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection comes");
            stream.set_nodelay(true).expect("it is connected");
            let body = body.clone();
            let answer = service_fn(move |_| {
                let mut reply = Response::new(Full::new(body.clone()));
                let json = HeaderValue::from_static("application/json");
                reply.headers_mut().insert(CONTENT_TYPE, json);
                async { Ok::<_, Infallible>(reply) }
            });
            let io = TokioIo::new(stream);
            // Ends with the client's connection.
            tokio::spawn(http1::Builder::new().serve_connection(io, answer));
        }
    });
    child::answer(async |question| match question {
        "port" => vec![port],
        _ => vec![cpu_seconds()],
    })
    .await;
}

/// Serves kvstore, with its worker, as the program runs it.
async fn kvstore(folder: &Path) {
    let options = Options {
        queue: QueueOptions {
            jobs_max: usize::MAX,
            bytes_max: usize::MAX,
            ..QueueOptions::default()
        },
        ..Options::default()
    };
    let file = JsonFile::open(folder, options).await.expect("it opens");
    let (store, queue) = (file.store(), file.queue());
    let options = kvstore_core::worker::Options::default();
    tokio::spawn(kvstore_core::worker::run(store, queue, options, pending()));
    let service = Service::open(file.store(), file.queue(), ServiceOptions::default());
    let service = service.await.expect("they belong together");
    let (listener, port) = listen().await;
    let options = kvstore_http::Options::default();
    tokio::spawn(kvstore_http::serve(listener, service, options, pending()));
    child::answer(async |question| match question {
        "port" => vec![port],
        _ => {
            // Accepted jobs have their full cost only once they are applied.
            while file.queue().depth().await.expect("it answers").jobs > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            vec![cpu_seconds()]
        }
    })
    .await;
}

async fn listen() -> (TcpListener, f64) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    (listener, f64::from(address.port()))
}

/// Returns the processor time of this process: all threads, user and kernel.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this is Linux");
    // The program's name, in parentheses, may contain spaces. After it come the state, which is
    // field 3, and utime and stime, which are 14 and 15.
    let (_, fields) = stat.rsplit_once(')').expect("the kernel writes it so");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

/// Constant in /proc, whatever the kernel counts in.
const TICKS_PER_SECOND: f64 = 100.0;
