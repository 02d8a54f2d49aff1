//! Does the real program start, refuse and end as its operator expects?

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use kvstore_testing::client::{Connection, request};
use kvstore_testing::process::{Process, run, run_command, server_command, worker_command};
use kvstore_testing::redis::RedisServer;
use kvstore_worker::admin::PATHS;

/// Much shorter than any default.
const NOT_LONG: Duration = Duration::from_secs(10);

#[test]
fn all_wrong_settings_are_reported_at_once_and_nothing_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}/new", folder.path().display());
    let args = [
        "--store",
        &store,
        "--listen",
        "0.0.0.0:0",
        "--worker",
        "never",
        "--request-timeout",
        "1s",
    ];
    let ended = run(
        &args,
        &[("KVSTORE_CONNECTIONS_MAX", "0"), ("KVSTORE_TYPO", "1")],
    );
    assert_eq!(ended.code, Some(2));
    let [warning, problems @ ..] = &ended.stderr[..] else {
        panic!("{ended:?}");
    };
    assert!(warning.starts_with("warning: KVSTORE_TYPO"), "{warning}");
    let flags: Vec<_> = problems
        .iter()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        flags,
        [
            "error: --listen",
            "error: --worker",
            "error: --connections-max"
        ]
    );
    assert!(!folder.path().join("new").exists());
}

#[test]
fn settings_in_force_are_printed_with_their_origin() {
    let args = ["--print-config", "--store", "memory:", "--wait-max=7s"];
    let ended = run(&args, &[("KVSTORE_LISTEN", "127.0.0.1:7000")]);
    assert_eq!((ended.code, &ended.stderr[..]), (Some(0), &[][..]));
    for (flag, value, origin) in [
        ("--store", "memory:", "flag"),
        ("--listen", "127.0.0.1:7000", "environment"),
        ("--wait-max", "7s", "flag"),
        ("--connections-max", "800", "default"),
    ] {
        let line = ended
            .stdout
            .lines()
            .find(|line| line.split(' ').next() == Some(flag))
            .unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!((words[1], words[2]), (value, origin), "{line}");
    }
}

#[test]
fn port_that_is_taken_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--admin-listen"] {
        // The other address is free.
        let args = ["--store", "memory:", flag, &address];
        let ended = run(&args, &[("KVSTORE_LISTEN", "127.0.0.1:0")]);
        let errors = error_lines(&ended.stderr);
        assert_eq!((ended.code, errors.len()), (Some(1), 1), "{ended:?}");
        assert!(
            errors[0].contains(&address) && errors[0].contains("in use"),
            "{errors:?}"
        );
    }
}

fn error_lines(stderr: &[String]) -> Vec<&String> {
    stderr
        .iter()
        .filter(|line| line.starts_with("error: "))
        .collect()
}

#[test]
fn address_that_others_reach_is_warned_about() {
    let process = Process::start(&[
        "--store",
        "memory:",
        "--listen",
        "0.0.0.0:0",
        "--allow-unauthenticated",
    ]);
    let warning =
        process.logged("any client that reaches this address may read and write everything");
    assert!(
        warning["address"].as_str().unwrap().starts_with("0.0.0.0:"),
        "{warning}"
    );
}

#[tokio::test]
async fn it_serves_and_ends_well_when_asked_to() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::start(&["--store", "memory:"]);
        let mut connection = Connection::open(process.address).await;
        assert_eq!(
            connection
                .ask(&request("PUT", "/v1/kv/a").body("1"))
                .await
                .status,
            201
        );
        assert_eq!(connection.ask(&request("GET", "/readyz")).await.status, 200);
        process.signal(signal);
        assert_eq!(process.ended().code(), Some(0), "{signal}");
        assert!(connection.is_closed().await);
    }
}

#[tokio::test]
async fn second_signal_ends_it_at_once() {
    let mut process = Process::start(&["--store", "memory:"]);
    let mut connection = Connection::open(process.address).await;
    // A request with an incomplete body.
    connection
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n")
        .await;
    assert_eq!(
        Connection::open(process.address)
            .await
            .ask(&request("GET", "/livez"))
            .await
            .status,
        200
    );
    let begun = Instant::now();
    process.signal("TERM");
    process.logged("draining: no longer ready");
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(128 + 15));
    assert!(begun.elapsed() < NOT_LONG);
}

#[tokio::test]
async fn probes_can_have_a_listener_of_their_own() {
    let process = Process::start(&["--store", "memory:", "--admin-listen", "127.0.0.1:0"]);
    let admin = process.logged_address("answering probes");
    for probe in PATHS {
        assert_eq!(
            Connection::open(admin)
                .await
                .ask(&request("GET", probe))
                .await
                .status,
            200
        );
        assert_eq!(
            Connection::open(process.address)
                .await
                .ask(&request("GET", probe))
                .await
                .status,
            404
        );
    }
    assert_eq!(
        Connection::open(admin)
            .await
            .ask(&request("GET", "/v1/kv/a"))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn limits_are_passed_on() {
    let process = Process::start(&[
        "--store",
        "memory:",
        "--value-bytes-max",
        "10",
        "--simple-wait",
        "5s",
    ]);
    let mut connection = Connection::open(process.address).await;
    let set = connection
        .ask(&request("POST", "/set").body(r#"{"key":"a","value":1}"#))
        .await;
    assert_eq!(set.status, 200);
    let large = connection
        .ask(&request("PUT", "/v1/kv/a").body("12345678901"))
        .await;
    assert_eq!(
        (large.status, &large.json()["limit_bytes"]),
        (413, &10.into())
    );
}

#[tokio::test]
async fn server_out_of_files_waits_for_some_and_does_not_spin() {
    let process = Process::start_with_files("-n 32", &["--store", "memory:"]);
    let mut connections = Vec::new();
    for _ in 0..40 {
        connections.push(Connection::open(process.address).await);
    }
    let warning = process.logged("too few open files are allowed for so many connections: raise the limit (ulimit -Hn), or set --connections-max lower");
    assert_eq!(
        (&warning["limit"], &warning["needed"]),
        (&32.into(), &900.into())
    );
    process.logged("cannot accept connections");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tries = process.count_logged("cannot accept connections");
    assert!((1..20).contains(&tries), "{tries} tries in a second");
    connections.clear();
    let mut connection = Connection::open(process.address).await;
    assert_eq!(connection.ask(&request("GET", "/livez")).await.status, 200);
}

#[tokio::test]
async fn open_files_are_raised_to_what_is_allowed() {
    let process = Process::start_with_files("-Sn 64", &["--store", "memory:"]);
    let mut connections = Vec::new();
    for _ in 0..100 {
        let mut connection = Connection::open(process.address).await;
        assert_eq!(connection.ask(&request("GET", "/livez")).await.status, 200);
        connections.push(connection);
    }
}

#[tokio::test]
async fn hangup_ends_neither_program() {
    let mut server = Process::start(&["--store", "memory:"]);
    server.signal("HUP");
    server.logged("SIGHUP: checking for changed files");
    let mut connection = Connection::open(server.address).await;
    assert_eq!(connection.ask(&request("GET", "/livez")).await.status, 200);
    assert!(!server.has_ended());

    let redis = RedisServer::start();
    let mut worker = Process::launch_command(worker_command(&["--store", &redis.url()]));
    worker.logged("working");
    worker.signal("HUP");
    worker.logged("SIGHUP: checking for changed files");
    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(0));
}

/// Returns the URL of a store in `folder`.
fn url(folder: &Path) -> String {
    format!("file:{}", folder.display())
}

#[tokio::test]
async fn what_was_accepted_is_there_after_a_restart_and_the_file_is_plain_json() {
    let folder = tempfile::tempdir().unwrap();
    let store = url(&folder.path().join("database"));
    let mut process = Process::start(&["--store", &store]);
    let mut connection = Connection::open(process.address).await;
    let put = connection
        .ask(&request("PUT", "/v1/kv/a").body("1.0"))
        .await;
    assert_eq!(put.status, 201);
    for number in 0..20 {
        let body = format!(r#"{{"key":"n","value":{number}}}"#);
        assert_eq!(
            connection
                .ask(&request("POST", "/set").body(body))
                .await
                .status,
            202
        );
    }
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0));
    let text = std::fs::read_to_string(folder.path().join("database/data.json")).unwrap();
    let data: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(data, serde_json::json!({"a": 1.0, "n": 19}));

    let process = Process::start(&["--store", &store]);
    let mut connection = Connection::open(process.address).await;
    let read = connection.ask(&request("GET", "/v1/kv/a")).await;
    assert_eq!(
        (read.text(), read.header("etag")),
        ("1.0", put.header("etag"))
    );
    // The job is known as well, and its token still valid.
    let token = put.header("sync-token").unwrap();
    let read = connection
        .ask(&request("GET", "/v1/kv/n").header("sync-token", token))
        .await;
    assert_eq!((read.status, read.text()), (200, "19"));
}

#[tokio::test]
async fn any_json_object_is_served_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    // In the format of Python's `json.dump(…, indent=4)`.
    let data = "{\n    \"user:1\": {\n        \"name\": \"Ad\\u00e8le\",\n        \"price\": 1.0\n    },\n    \"b\": null\n}";
    std::fs::write(folder.path().join("data.json"), data).unwrap();
    let process = Process::start(&["--store", &url(folder.path())]);
    let mut connection = Connection::open(process.address).await;
    let read = connection.ask(&request("GET", "/v1/kv/user:1")).await;
    assert_eq!(read.text(), r#"{"name":"Ad\u00e8le","price":1.0}"#);
    assert_eq!(
        connection.ask(&request("GET", "/get/b")).await.text(),
        r#"{"key":"b","value":null}"#
    );
}

#[test]
fn folder_in_use_is_one_clear_line_that_names_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let store = url(folder.path());
    let process = Process::start(&["--store", &store]);
    let ended = run(&["--store", &store], &[("KVSTORE_LISTEN", "127.0.0.1:0")]);
    let errors = error_lines(&ended.stderr);
    assert_eq!((ended.code, errors.len()), (Some(1), 1), "{ended:?}");
    assert!(
        errors[0].contains(&format!("process {}", process.id()))
            // The alternative for the second process.
            && errors[0].contains("--worker none"),
        "{errors:?}"
    );
}

#[test]
fn damaged_file_is_one_clear_line_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.json");
    std::fs::write(&data, "{\"a\":1,\n\"b\":}").unwrap();
    let ended = run(
        &["--store", &url(folder.path())],
        &[("KVSTORE_LISTEN", "127.0.0.1:0")],
    );
    let errors = error_lines(&ended.stderr);
    assert_eq!((ended.code, errors.len()), (Some(1), 1), "{ended:?}");
    assert!(
        errors[0].contains("data.json") && errors[0].contains("line 2"),
        "{errors:?}"
    );
    assert_eq!(
        std::fs::read_to_string(&data).unwrap(),
        "{\"a\":1,\n\"b\":}"
    );
}

#[test]
fn folder_that_cannot_be_written_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let ended = run(
        &["--store", &url(&file.join("database"))],
        &[("KVSTORE_LISTEN", "127.0.0.1:0")],
    );
    let errors = error_lines(&ended.stderr);
    assert_eq!((ended.code, errors.len()), (Some(1), 1), "{ended:?}");
    assert!(errors[0].contains(&*file.to_string_lossy()), "{errors:?}");
}

#[tokio::test]
async fn server_that_only_reads_says_that_it_does_not_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let writer = Process::start(&["--store", &store]);
    let reader = Process::start(&["--store", &store, "--worker", "none"]);
    for (process, may_write) in [(&writer, true), (&reader, false)] {
        let mut connection = Connection::open(process.address).await;
        let root = connection.ask(&request("GET", "/")).await.json();
        assert_eq!(root["access"]["write"], may_write);
        let put = connection.ask(&request("PUT", "/v1/kv/a").body("1")).await;
        assert_eq!(put.status / 100 == 2, may_write, "{put:?}");
    }
}

#[test]
fn worker_of_a_folder_ends_once_nothing_waits_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}?apply_on_acceptance=false", folder.path().display());
    let mut server = Process::start(&["--store", &store]);
    server.kill();
    let mut worker = Process::launch_command(worker_command(&["--store", &store]));
    assert_eq!(worker.ended().code(), Some(0));
}

#[test]
fn variables_of_the_other_program_are_no_warning() {
    let config = run(&["--print-config"], &[]).stdout;
    let flags = config.lines().map(|line| line.split(' ').next().unwrap());
    for flag in flags.map(|flag| {
        flag.trim_start_matches("--")
            .replace('-', "_")
            .to_uppercase()
    }) {
        let mut worker = worker_command(&["--print-config"]);
        worker.env(format!("KVSTORE_{flag}"), "");
        let warnings = run_command(&mut worker).stderr;
        assert!(
            !warnings.iter().any(|line| line.starts_with("warning")),
            "{warnings:?}"
        );
    }
    let ended = run(&["--print-config"], &[("KVSTORE_ATTEMPTS_MAX", "3")]);
    assert!(ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn every_line_of_a_log_in_json_is_json() {
    let args = ["--log-format", "json", "--store", "file:/dev/null"];
    let ended = run(&args, &[("KVSTORE_TYPO", "1")]);
    assert_eq!(ended.code, Some(1));
    for line in &ended.stderr {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(line["fields"]["message"].is_string(), "{line}");
    }
    assert!(ended.stderr.len() >= 2, "{ended:?}");
}

#[tokio::test]
async fn server_that_cannot_open_its_store_yet_answers_probes_and_can_be_stopped() {
    // Accepts connections, but never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("redis://{}", silent.local_addr().unwrap());
    let mut process = Process::launch(&["--store", &store, "--admin-listen", "127.0.0.1:0"]);
    let admin = process.logged_address("answering probes");
    let address = process.logged_address("starting: requests are answered 503 for now");
    let mut connection = Connection::open(admin).await;
    for (path, status) in [("/livez", 200), ("/readyz", 503)] {
        let reply = connection.ask(&request("GET", path)).await;
        assert_eq!(reply.status, status, "{reply:?}");
    }
    // Probes are not among its routes there.
    let mut connection = Connection::open(address).await;
    for (path, status) in [("/livez", 404), ("/v1/kv/a", 503), ("/nowhere", 404)] {
        let reply = connection.ask(&request("GET", path)).await;
        assert_eq!(reply.status, status, "{reply:?}");
    }
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0));
}

#[tokio::test]
async fn bounds_of_the_store_are_among_the_limits() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("file:{}?data_bytes=2GiB", folder.path().display());
    let memory = "memory:?queue_jobs=7&changes=3";
    for (store, jobs, changes, data) in [
        (memory, 7, 3, None),
        (&*file, 100_000, 10_000, Some(2_u64 << 30)),
    ] {
        let process = Process::start(&["--store", store]);
        let mut connection = Connection::open(process.address).await;
        let document = connection.ask(&request("GET", "/openapi.json")).await;
        let limits = &document.json()["x-limits"];
        for (name, bound) in [
            ("queue_jobs", jobs),
            ("queue_bytes", 64 << 20),
            ("idempotency_keys", 100_000),
            ("outcomes", 100_000),
            ("dead_letters", 10_000),
            ("changes", changes),
        ] {
            assert_eq!(limits[name], bound, "{store} {name}");
        }
        assert_eq!(limits["data_bytes"].as_u64(), data, "{store}");
        let queue = connection.ask(&request("GET", "/v1/queue")).await;
        assert_eq!(&queue.json()["limits"], limits, "{store}");
    }
}

#[test]
fn programs_allocate_with_mimalloc() {
    for mut program in [
        server_command(&["--version"]),
        worker_command(&["--version"]),
    ] {
        let shown = program.env("MIMALLOC_VERBOSE", "1").output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(shown.starts_with("mimalloc: process init"), "{shown}");
    }
}
