//! Does the binary report each mistake in one line, apply waiting jobs, and end when asked to?

use std::path::Path;
use std::process::{Command, Output};

use kvstore_core::model::command::Operation;
use kvstore_core::model::job::NewJob;
use kvstore_core::{Key, StoreExt, Value, open};
use kvstore_testing::process::{Process, worker_command};
use tempfile::TempDir;

fn worker(folder: &Path) -> Command {
    let mut command = worker_command(&[]);
    command.current_dir(folder);
    command
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn is_empty(folder: &TempDir) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn all_wrong_settings_are_reported_at_once_and_nothing_is_opened() {
    let folder = folder();
    let output = worker(folder.path())
        .args(["--log", "dbug", "--attempts-max=1"])
        .env("KVSTORE_STORE", "redis://user:hunter2@host:x")
        .env("KVSTORE_LOG", "info")
        .env("KVSTORE_LOG_FORMAT", "")
        .env("KVSTORE_ADMIN_LISTEN", "nowhere")
        .env("KVSTORE_ACCEPT_GAP", "maybe")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    let named: Vec<&str> = said
        .lines()
        .map(|line| {
            assert!(line.contains("; allowed: "), "{line}");
            let line = line.strip_prefix("error: ").expect(line);
            // A value that may hold a secret is not repeated.
            line.split_once(')').expect(line).0
        })
        .collect();
    assert_eq!(
        named,
        [
            "--store (KVSTORE_STORE",
            "--log (KVSTORE_LOG",
            "--admin-listen (KVSTORE_ADMIN_LISTEN",
            "--attempts-max (KVSTORE_ATTEMPTS_MAX",
            "--accept-gap (KVSTORE_ACCEPT_GAP",
        ]
    );
    assert!(!said.contains("hunter2"), "{said}");
    assert!(is_empty(&folder));
}

#[test]
fn print_config_shows_the_effective_settings_and_runs_nothing() {
    let folder = folder();
    let output = worker(folder.path())
        .args(["--print-config", "--attempts-max", "7"])
        .env("KVSTORE_LOG", "warn")
        .env("KVSTORE_ATEMPTS_MAX", "8")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "--store         file:database      default\n\
         --queue         (the store's own)  default\n\
         --log           warn               environment\n\
         --log-format    text               default\n\
         --admin-listen  (none)             default\n\
         --attempts-max  7                  flag\n\
         --adopt-queue   false              default\n\
         --accept-gap    false              default\n"
    );
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "warning: KVSTORE_ATEMPTS_MAX is set, but kvstore-worker has no such setting\n"
    );
    assert!(is_empty(&folder));
}

#[test]
fn help_names_every_setting_and_an_unknown_flag_is_rejected() {
    let folder = folder();
    let help = worker(folder.path()).arg("--help").output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    for name in [
        "KVSTORE_STORE",
        "--attempts-max",
        "[default: file:database]",
    ] {
        assert!(text.contains(name), "{name}: {text}");
    }
    let wrong = worker(folder.path()).arg("--nonsense").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).starts_with("error: "));
}

#[test]
fn store_in_memory_is_rejected_because_no_other_process_can_reach_it() {
    let output = worker(folder().path())
        .args(["--store", "memory:"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).starts_with("error: --store (KVSTORE_STORE) is \"memory:\": "));
}

/// Runs a command that must fail with exit code 1 and one line, and returns that line.
fn failure(command: &mut Command) -> String {
    let output = command.args(["--log", "error"]).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn taken_port_is_one_line() {
    let folder = folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = failure(worker(folder.path()).args(["--admin-listen", &address]));
    assert!(said.contains(&address), "{said}");
    assert!(is_empty(&folder));
}

#[test]
fn folder_that_cannot_be_created_is_one_line() {
    let folder = folder();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let said = failure(worker(folder.path()).args(["--store", "file:file/database"]));
    assert!(said.contains("file/database"), "{said}");
}

#[test]
fn damaged_file_is_one_line_with_its_place() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("database")).unwrap();
    std::fs::write(
        folder.path().join("database/data.json"),
        "{\n\"a\": 1,\n\"b\": }\n",
    )
    .unwrap();
    let said = failure(&mut worker(folder.path()));
    assert!(
        said.contains("data.json") && said.contains("line 3"),
        "{said}"
    );
}

#[tokio::test]
async fn folder_in_use_is_one_line_with_the_holder() {
    let folder = folder();
    let url = format!("file:{}", folder.path().join("database").display());
    let opened = open(&url.parse().unwrap(), None).await.unwrap();
    let said = failure(&mut worker(folder.path()));
    let pid = format!("process {}", std::process::id());
    assert!(said.contains(&pid), "{said}");
    opened.close().await.unwrap();
}

#[tokio::test]
async fn waiting_jobs_are_applied_until_sigterm() {
    let folder = folder();
    let url = format!("file:{}", folder.path().join("database").display());
    let key = Key::new("k").unwrap();
    let opened = open(&url.parse().unwrap(), None).await.unwrap();
    let value = Value::parse("[1.0]").unwrap();
    let job = NewJob::new(kvstore_core::model::command::Command::One(Operation::set(
        key, value,
    )));
    opened
        .queue
        .enqueue(vec![job])
        .await
        .pop()
        .unwrap()
        .unwrap();
    opened.close().await.unwrap();

    let mut command = worker(folder.path());
    command.env("KVSTORE_LOG", "kvstore_core::worker=debug");
    let mut process = Process::launch_command(command);
    assert_eq!(process.logged("applied")["outcome"], "succeeded");
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0));

    let opened = open(&url.parse().unwrap(), None).await.unwrap();
    let found = opened.store.get_as::<Vec<f64>>("k").await.unwrap();
    assert_eq!(found, Some(vec![1.0]));
    assert_eq!(opened.queue.depth().await.unwrap().jobs, 0);
    opened.close().await.unwrap();
}
