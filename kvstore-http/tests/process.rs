//! Does the real program start, refuse and end as its operator expects?

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use support::client::{Connection, request};
use support::process::{Process, run};

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
        "none",
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
        // The other one is free.
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
    let warning = process.logged("whoever reaches this address may read and write everything");
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
    // A request that the server waits for.
    connection
        .send(b"PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
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
    for probe in ["/livez", "/readyz"] {
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
    let process = Process::start_with_files(32, &["--store", "memory:"]);
    let mut connections = Vec::new();
    for _ in 0..40 {
        connections.push(Connection::open(process.address).await);
    }
    process.logged("can't accept connections");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tries = process.count_logged("can't accept connections");
    assert!((1..20).contains(&tries), "{tries} tries in a second");
    connections.clear();
    let mut connection = Connection::open(process.address).await;
    assert_eq!(connection.ask(&request("GET", "/livez")).await.status, 200);
}
