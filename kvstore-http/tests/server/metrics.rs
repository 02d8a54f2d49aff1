//! Do the metrics of the real programs mean what their names say, in a form that Prometheus reads?
//! And does a request's trace context reach the worker?

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kvstore_testing::client::{Connection, request};
use kvstore_testing::missing;
use kvstore_testing::process::{Process, server_command};
use kvstore_testing::redis::RedisServer;
use serde::Deserialize;

/// Longer than it takes on a busy machine, so that a test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(20);

const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");

/// Parses the text with the Prometheus project's own parser, which refuses violations of the
/// format.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = text_string_to_metric_families(sys.stdin.read())
print(json.dumps([
    {'name': family.name, 'kind': family.type, 'help': family.documentation,
     'samples': [[sample.name, sample.labels, sample.value] for sample in family.samples]}
    for family in families
]))
";

#[derive(Debug, Deserialize)]
struct Family {
    name: String,
    kind: String,
    help: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Family {
    /// Returns the name in docs/configuration.md.
    fn documented(&self) -> String {
        let end = match self.kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        self.name.clone() + end
    }
}

fn parse(text: &str) -> Vec<Family> {
    // Debian's own Python, which sees Debian's packages.
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|_| missing("python3 is missing: apt-get install python3"));
    let mut input = python.stdin.take().expect("it is piped");
    let written = input.write_all(text.as_bytes());
    drop(input);
    let output = python.wait_with_output().expect("our own child");
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("ModuleNotFoundError") {
        missing("the parser is missing: apt-get install python3-prometheus-client");
    }
    assert!(output.status.success(), "{said}\nin:\n{text}");
    written.expect("python reads");
    serde_json::from_slice(&output.stdout).expect("what was printed")
}

async fn read(connection: &mut Connection) -> Vec<Family> {
    let reply = connection.ask(&request("GET", "/metrics")).await;
    assert_eq!(reply.status, 200);
    parse(reply.text())
}

/// Reads the metrics until `is_there` returns true.
async fn read_until(
    connection: &mut Connection,
    is_there: impl Fn(&[Family]) -> bool,
) -> Vec<Family> {
    let begun = Instant::now();
    loop {
        let families = read(connection).await;
        if is_there(&families) {
            return families;
        }
        assert!(begun.elapsed() < PATIENCE, "{families:#?}");
    }
}

/// Returns the only sample `name` with these labels, possibly among others.
fn value(families: &[Family], name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = families.iter().flat_map(|family| &family.samples);
    let mut fitting = samples.filter(|(sample, present, _)| {
        sample == name
            && labels
                .iter()
                .all(|(label, text)| present.get(*label).is_some_and(|it| it == text))
    });
    let found = fitting
        .next()
        .unwrap_or_else(|| panic!("no {name} {labels:?} in {families:#?}"));
    assert!(fitting.next().is_none(), "{name} {labels:?} is there twice");
    found.2
}

#[tokio::test]
async fn figures_are_right_read_by_prometheus_and_documented() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let process = Process::start(&["--store", &store]);
    let mut connection = Connection::open(process.address).await;
    let mut other = Connection::open(process.address).await;
    for (asks, status) in [
        (request("PUT", "/v1/kv/a").body("1"), 201),
        (request("PUT", "/v1/kv/b").body("1"), 201),
        (request("PUT", "/v1/kv/b").body("2"), 200),
        (
            request("PUT", "/v1/kv/b")
                .body("3")
                .header("if-match", "\"1\""),
            412,
        ),
        (request("GET", "/v1/kv/a"), 200),
        (request("GET", "/v1/kv/none"), 404),
        (request("HEAD", "/get/a"), 200),
        (request("BREW", "/v1/kv/a"), 405),
        (request("GET", "/nothing/at/all"), 404),
    ] {
        assert_eq!(other.ask(&asks).await.status, status, "{asks:?}");
    }
    // A worker counts a commit after it, and the client has only waited for the commit.
    let families = read_until(&mut connection, |families| {
        value(
            families,
            "kvstore_worker_commit_duration_seconds_count",
            &[],
        ) >= 4.0
            && value(families, "kvstore_queue_jobs", &[]) == 0.0
    })
    .await;
    let counted = |route: &str, method: &str, status: &str| {
        value(
            &families,
            "kvstore_http_request_duration_seconds_count",
            &[("route", route), ("method", method), ("status", status)],
        )
    };
    assert_eq!(counted("/v1/kv/{key}", "PUT", "2xx"), 3.0);
    assert_eq!(counted("/v1/kv/{key}", "PUT", "4xx"), 1.0);
    assert_eq!(counted("/v1/kv/{key}", "GET", "2xx"), 1.0);
    assert_eq!(counted("/v1/kv/{key}", "GET", "4xx"), 1.0);
    assert_eq!(counted("/get/{key}", "HEAD", "2xx"), 1.0);
    assert_eq!(counted("/v1/kv/{key}", "other", "4xx"), 1.0);
    assert_eq!(counted("none", "GET", "4xx"), 1.0);
    let sum = value(
        &families,
        "kvstore_http_request_duration_seconds_sum",
        &[
            ("route", "/v1/kv/{key}"),
            ("method", "PUT"),
            ("status", "2xx"),
        ],
    );
    assert!(sum > 0.0, "{sum}");
    let jobs = |outcome| {
        value(
            &families,
            "kvstore_worker_jobs_total",
            &[("outcome", outcome)],
        )
    };
    assert_eq!(
        (jobs("succeeded"), jobs("failed"), jobs("dead")),
        (3.0, 1.0, 0.0)
    );
    // Each of these writes was waited for, so each had a commit of its own.
    let commits = value(
        &families,
        "kvstore_worker_commit_duration_seconds_count",
        &[],
    );
    assert_eq!(commits, 4.0);
    for (name, expected) in [
        ("kvstore_up", 1.0),
        ("kvstore_http_connections", 2.0),
        ("kvstore_http_connections_refused_total", 0.0),
        ("kvstore_http_heads_unreadable_total", 0.0),
        ("kvstore_http_panics_total", 0.0),
        ("kvstore_queue_jobs", 0.0),
        ("kvstore_queue_bytes", 0.0),
        ("kvstore_queue_oldest_job_age_seconds", 0.0),
        ("kvstore_queue_jobs_lost_total", 0.0),
        ("kvstore_queue_idempotency_keys", 0.0),
    ] {
        assert_eq!(value(&families, name, &[]), expected, "{name}");
    }

    // A server that only reads has a metric of its own.
    let reader = Process::start(&["--store", &store, "--worker", "none"]);
    let mut connection = Connection::open(reader.address).await;
    let of_reader = read(&mut connection).await;
    assert!(value(&of_reader, "kvstore_follower_lag_seconds", &[]) >= 0.0);

    let all = families.iter().chain(&of_reader);
    assert!(all.clone().all(|family| !family.help.is_empty()));
    let exposed: BTreeSet<String> = all.map(Family::documented).collect();
    let documented: BTreeSet<String> = CONFIGURATION
        .lines()
        .filter_map(|line| line.strip_prefix("| `kvstore_"))
        .map(|rest| format!("kvstore_{}", rest.split('`').next().unwrap()))
        .collect();
    assert_eq!(exposed, documented);
}

#[tokio::test]
async fn connection_for_which_there_is_no_room_is_counted() {
    let process = Process::start(&["--store", "memory:", "--connections-max", "1"]);
    let mut connection = Connection::open(process.address).await;
    // A request in progress keeps the connection from making room for others.
    let head = "PUT /v1/kv/slow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n";
    connection.send(head.as_bytes()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..3 {
        let mut refused = Connection::open(process.address).await;
        assert_eq!(refused.ask(&request("GET", "/livez")).await.status, 503);
    }
    connection.send(b"1").await;
    assert_eq!(connection.reply("PUT").await.status, 201);
    let families = read(&mut connection).await;
    let refused = value(&families, "kvstore_http_connections_refused_total", &[]);
    assert_eq!(
        (refused, value(&families, "kvstore_http_connections", &[])),
        (3.0, 1.0)
    );
}

#[tokio::test]
async fn request_that_cannot_be_read_is_counted() {
    let process = Process::start(&["--store", "memory:"]);
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(200_000));
    for head in ["nonsense\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n", &long] {
        let mut connection = Connection::open(process.address).await;
        // The server may refuse it halfway.
        let _ = connection.try_send(head.as_bytes()).await;
        // hyper's own answer, if there is one.
        let _ = connection.try_reply("GET").await;
        assert!(connection.is_closed().await);
    }
    let mut connection = Connection::open(process.address).await;
    let begun = Instant::now();
    let mut unreadable = 0.0;
    // A connection is counted right after it was closed.
    while unreadable < 3.0 && begun.elapsed() < Duration::from_secs(10) {
        let families = read(&mut connection).await;
        unreadable = value(&families, "kvstore_http_heads_unreadable_total", &[]);
    }
    assert_eq!(unreadable, 3.0);
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const LOG: &str = "info,kvstore_core::worker=debug";

async fn put_with_trace(server: &Process) -> String {
    let put = request("PUT", "/v1/kv/traced")
        .body("1")
        .header("traceparent", TRACE);
    let reply = Connection::open(server.address).await.ask(&put).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.json()["job_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn trace_of_a_request_is_in_the_log_of_the_worker_inside() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let server = Process::start(&["--store", &store, "--log", LOG]);
    let job = put_with_trace(&server).await;
    let applied = server.logged("applied");
    assert_eq!(
        (&applied["traceparent"], &applied["job"]),
        (&TRACE.into(), &job.into())
    );
}

#[tokio::test]
async fn trace_of_a_request_is_in_the_log_of_a_worker_elsewhere() {
    let redis = RedisServer::start();
    let url = redis.url();
    let server = Process::start(&["--store", &url, "--worker", "none"]);
    let program = Path::new(server_command(&[]).get_program()).with_file_name("kvstore-worker");
    assert!(
        program.exists(),
        "the worker is missing: cargo build --workspace --bins"
    );
    let mut worker = Command::new(program);
    worker.args(["--store", &url, "--log", LOG]);
    worker.args(["--admin-listen", "127.0.0.1:0"]);
    let worker = Process::launch_command(worker);
    let job = put_with_trace(&server).await;
    let applied = worker.logged("applied");
    assert_eq!(
        (&applied["traceparent"], &applied["job"]),
        (&TRACE.into(), &job.into())
    );

    // The worker's metrics are on its own address.
    let mut admin = Connection::open(worker.logged_address("answering probes")).await;
    let families = read_until(&mut admin, |families| {
        value(
            families,
            "kvstore_worker_commit_duration_seconds_count",
            &[],
        ) >= 1.0
    })
    .await;
    let succeeded = [("outcome", "succeeded")];
    assert_eq!(
        value(&families, "kvstore_worker_jobs_total", &succeeded),
        1.0
    );
    assert_eq!(
        value(
            &families,
            "kvstore_worker_commit_duration_seconds_count",
            &[]
        ),
        1.0
    );
}
