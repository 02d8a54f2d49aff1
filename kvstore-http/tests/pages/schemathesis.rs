//! Does Schemathesis find a difference between the real server and its OpenAPI document?
//!
//! All of its checks run in all of its phases, including links from writes to jobs: once with
//! default writes, and once with `Prefer: wait` and tokens. Facts that it cannot derive are in
//! `schemathesis/`.
//!
//! `KVSTORE_SCHEMATHESIS_SEED` varies the requests.

use std::path::Path;
use std::process::Command;

use crate::support::tokens::add_token;
use kvstore_testing::client::{Connection, request};
use kvstore_testing::judge;
use kvstore_testing::process::Process;
use kvstore_testing::variable;

/// Random requests for each operation, in addition to those that follow from the rules of the
/// document.
const EXAMPLES: &str = "15";

fn schemathesis() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    judge(&root.join("target/venv/bin/schemathesis"))
}

/// Starts a server with `more` arguments. Many generated requests wait for a change that never
/// comes; the short limit answers them soon.
fn start(more: &[&str]) -> Process {
    let args = ["--store", "memory:", "--wait-max", "100ms"];
    Process::start(&[&args, more].concat())
}

/// Runs Schemathesis on the server.
async fn ask(process: &Process, headers: &[String]) {
    let mut connection = Connection::open(process.address).await;
    let mut put = request("PUT", "/v1/kv/first").header("prefer", "wait=5");
    for header in headers {
        let (name, value) = header.split_once(": ").unwrap();
        put = put.header(name, value);
    }
    let reply = connection.ask(&put.body("1")).await;
    let job = reply.header("sync-token").expect("it was applied");
    let url = format!("http://{}", process.address);
    // Schemathesis stores its findings in its working directory, and would start with them next
    // time.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages/schemathesis");
    let scratch = tempfile::tempdir().unwrap();
    for name in ["schemathesis.toml", "hooks.py"] {
        std::fs::copy(folder.join(name), scratch.path().join(name)).unwrap();
    }
    let seed: u64 = variable("KVSTORE_SCHEMATHESIS_SEED").unwrap_or(1);
    let mut command = schemathesis();
    command
        .args(["--config-file", "schemathesis.toml", "run"])
        .arg(format!("{url}/openapi.json"))
        .args(["--max-examples", EXAMPLES, "--continue-on-failure"])
        .args(["--seed", &seed.to_string()])
        .env("KVSTORE_URL", &url)
        .env("KVSTORE_JOB", job)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(scratch.path());
    for header in headers {
        command.args(["--header", header]);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "it has found something");
    // All operations except the endless one.
    assert!(text.contains("Selected: 44/46") && text.contains("Tested: 44"));
    for phase in ["Examples", "Coverage", "Fuzzing", "Stateful"] {
        assert!(
            text.contains(&format!("✅ {phase}")),
            "{phase} was left out"
        );
    }
}

#[tokio::test]
async fn server_does_what_its_document_says() {
    let process = start(&[]);
    ask(&process, &[]).await;
}

#[tokio::test]
async fn server_does_what_its_document_says_when_writes_wait_and_tokens_are_needed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let secret = add_token(&file, "all", "rw", "");
    let process = start(&["--tokens-file", file.to_str().unwrap()]);
    let headers = [
        "Prefer: wait=5".to_owned(),
        format!("Authorization: Bearer {secret}"),
    ];
    ask(&process, &headers).await;
}
