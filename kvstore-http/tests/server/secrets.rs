//! Does a password stay out of all output of the real programs, whatever characters it contains,
//! and whatever else is wrong?

use std::net::TcpListener;
use std::process::Command;

use kvstore_testing::process::{
    Ended, Process, kvstore_command, run_command, server_command, worker_command,
};
use kvstore_testing::redis::RedisServer;

/// Two pieces that occur nowhere else. Each password joins them by a character with a meaning in a
/// URL or to a shell.
const PIECES: [&str; 2] = ["Qx7Zj", "Jz9Gq"];

const MARKS: [&str; 18] = [
    "@",
    "/",
    "?",
    "#",
    "%",
    ":",
    " ",
    "&",
    "=",
    ",",
    "ä",
    "\u{1F511}",
    "://",
    "@/?#%:",
    "?a=",
    "\\",
    "%4",
    "'",
];

fn passwords() -> impl Iterator<Item = String> {
    let [first, second] = PIECES;
    MARKS
        .iter()
        .map(move |mark| format!("{first}{mark}{second}"))
}

/// Escapes the bytes of `text` that have a meaning in a URL.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn assert_kept(said: &str, context: &str) {
    for piece in PIECES {
        assert!(!said.contains(piece), "{context}: {said}");
    }
}

fn all(ended: &Ended) -> String {
    format!("{}\n{}", ended.stdout, ended.stderr.join("\n"))
}

#[test]
fn url_of_any_form_is_kept_by_settings_and_their_errors() {
    // In other text, the mark is what makes it a URL: a path is a path.
    let urls = [
        "redis://:PW@127.0.0.1:1",
        "redis://user:PW@127.0.0.1:1/0?prefix=x",
        "redis+cluster://:PW@127.0.0.1:1,127.0.0.1:2",
        "redish://:PW@127.0.0.1:1",
        "redis://127.0.0.1:1?password=PW",
        ":PW@127.0.0.1",
    ];
    for password in passwords() {
        for url in urls {
            let url = url.replace("PW", &password);
            let server: &[&[&str]] = &[
                &["--print-config", "--store", &url],
                &[
                    "--print-config",
                    "--store",
                    "file:database",
                    "--queue",
                    &url,
                ],
                // Missing flags, and URLs split by a shell.
                &[&url],
                &["--store", "memory:", &url],
                &["--stor", &url],
            ];
            for args in server {
                // None of these gets as far as a folder or a server.
                let ended = run_command(&mut server_command(args));
                assert_kept(&all(&ended), &format!("{args:?}"));
            }
            let kvstore: &[&[&str]] = &[
                &["verify", &url],
                &["verify", "file:database", &url],
                &["export", "--from", &url, "--none"],
                &["import", &url, "--to", &url, "--none"],
                &["import", "absent", "--to", &url],
                &["get", "a", "--retry-for", "0s", "--url", &url],
                &[&url],
            ];
            for args in kvstore {
                let ended = run_command(&mut kvstore_command(args));
                assert_kept(&all(&ended), &format!("{args:?}"));
            }
            let mut worker = worker_command(&["--print-config", "--store", &url]);
            assert_kept(&all(&run_command(&mut worker)), &url);
        }
    }
}

fn failed(mut command: Command, context: &str) -> String {
    let ended = run_command(command.args(["--log", "trace"]));
    assert_eq!(ended.code, Some(1), "{context}: {ended:?}");
    let said = all(&ended);
    assert_kept(&said, context);
    said
}

#[test]
fn password_is_kept_by_a_wait_for_a_server_that_is_named_once() {
    for (password, encoded) in passwords().map(|it| (it.clone(), encoded(&it))).step_by(3) {
        for url in [
            format!("redis://:{encoded}@127.0.0.1:1"),
            format!("redis+cluster://:{encoded}@127.0.0.1:1"),
        ] {
            for program in [server_command, worker_command] {
                let program = program(&["--store", &url, "--log", "trace"]);
                let mut process = Process::launch_command(program);
                let waits = process.logged("waiting until store and queue can be reached");
                let reason = waits["reason"].as_str().unwrap();
                assert_eq!(reason.matches("127.0.0.1:1").count(), 1, "{reason}");
                assert_eq!(reason.matches("refused").count(), 1, "{reason}");
                assert_kept(reason, &password);
                process.signal("TERM");
                assert!(process.ended().success());
                for entry in process.whole_log() {
                    assert_kept(&entry.to_string(), &password);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn password_is_kept_by_a_server_that_refuses_it_and_by_one_that_takes_it() {
    let redis = RedisServer::start();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let port = port.port().to_string();
    redis.ask(&["CONFIG", "SET", "port", &port]);
    let mut before: Vec<String> = Vec::new();
    for password in passwords().step_by(4) {
        let login = before
            .iter()
            .flat_map(|before| ["-a", before, "--no-auth-warning"]);
        let set = ["CONFIG", "SET", "requirepass", &password];
        redis.ask(&login.chain(set).collect::<Vec<_>>());
        before = vec![password.clone()];
        let encoded = encoded(&password);
        let wrong = format!("redis://:{encoded}x@127.0.0.1:{port}");
        for program in [server_command, worker_command] {
            let mut program = program(&["--store", &wrong]);
            program.env("KVSTORE_LISTEN", "127.0.0.1:0");
            failed(program, &password);
        }
        let right = format!("redis://:{encoded}@127.0.0.1:{port}");
        let mut process = Process::start(&["--store", &right, "--log", "trace"]);
        process.signal("TERM");
        assert!(process.ended().success());
        let log = process.whole_log();
        assert!(!log.is_empty());
        for entry in log {
            assert_kept(&entry.to_string(), &password);
        }
    }
}
