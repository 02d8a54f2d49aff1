//! Do the commands on a folder say what is so, change what they should, and nothing else?

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use support::client::{Connection, request};
use support::process::{Ended, Process, run};

fn tool(name: &str, folder: &Path) -> Ended {
    run(&[name, &format!("file:{}", folder.display())], &[])
}

/// Every file, with its contents.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

async fn put(process: &Process, entries: impl IntoIterator<Item = u32>) {
    let mut connection = Connection::open(process.address).await;
    for number in entries {
        let reply = connection
            .ask(&request("PUT", &format!("/v1/kv/k{number}")).body(number.to_string()))
            .await;
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
    }
}

/// A folder with ten entries in its journal, of a server that was killed.
async fn killed() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let mut process = Process::start(&["--store", &store]);
    put(&process, 0..10).await;
    process.kill();
    folder
}

/// Changes one byte of the line of `journal-1.jsonl` that sets `key`.
fn damage(folder: &Path, key: &str) {
    let path = folder.join("journal-1.jsonl");
    let mut text = std::fs::read(&path).unwrap();
    let sets = format!("[\"{key}\",");
    let at = text
        .windows(sets.len())
        .position(|it| it == sets.as_bytes());
    // The value behind it.
    text[at.unwrap() + sets.len()] ^= 1;
    std::fs::write(&path, text).unwrap();
}

#[tokio::test]
async fn verify_and_status_change_nothing_beside_a_server_and_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let mut process = Process::start(&["--store", &store]);
    put(&process, 0..10).await;
    for round in ["running", "killed"] {
        if round == "killed" {
            process.kill();
        }
        let before = files(folder.path());
        let found = tool("verify", folder.path());
        assert_eq!(
            (found.code, &found.stderr[..]),
            (Some(0), &[][..]),
            "{found:?}"
        );
        assert!(
            found.stdout.contains("sound: 10 entries, version ")
                && found.stdout.contains(", 0 jobs wait"),
            "{found:?}"
        );
        let says_so = found
            .stdout
            .contains(&format!("process {} has it open", process.id()));
        assert_eq!(says_so, round == "running", "{found:?}");
        let status = tool("status", folder.path());
        assert_eq!(status.code, Some(0), "{status:?}");
        assert!(status.stdout.contains("entries: 10\n"), "{status:?}");
        assert!(status.stdout.contains("jobs that wait: 0\n"), "{status:?}");
        assert!(
            files(folder.path()) == before,
            "{round}: something was changed"
        );
    }
}

#[tokio::test]
async fn repair_does_what_verify_announced_and_keeps_what_it_removes() {
    let folder = killed().await;
    assert_eq!(tool("repair", folder.path()).stdout, "nothing to repair\n");
    damage(folder.path(), "k4");
    let damaged = files(folder.path())["journal-1.jsonl"].clone();
    let found = tool("verify", folder.path());
    assert_eq!(found.code, Some(1), "{found:?}");
    let announced = found.stdout.lines().next().unwrap().to_owned();
    assert!(
        announced.contains("journal-1.jsonl, line ") && announced.contains("\"k4\""),
        "{announced}"
    );
    assert!(
        announced.contains("a repair loses the write of version "),
        "{announced}"
    );
    let refused = run(
        &["--store", &format!("file:{}", folder.path().display())],
        &[],
    );
    assert_eq!(refused.code, Some(1), "a damaged folder opens");

    let repaired = tool("repair", folder.path());
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    assert!(repaired.stdout.starts_with(&announced), "{repaired:?}");
    assert_eq!(files(folder.path())["journal-1.jsonl.removed-1"], damaged);
    assert_eq!(tool("verify", folder.path()).code, Some(0));
    let data: BTreeMap<String, u32> =
        serde_json::from_slice(&files(folder.path())["data.json"]).unwrap();
    let expected = (0..10).filter(|number| *number != 4);
    assert_eq!(
        data,
        expected
            .map(|number| (format!("k{number}"), number))
            .collect()
    );
}

#[tokio::test]
async fn compact_leaves_a_plain_file_with_everything() {
    let folder = killed().await;
    let compacted = tool("compact", folder.path());
    assert_eq!(compacted.code, Some(0), "{compacted:?}");
    let files = files(folder.path());
    let data: BTreeMap<String, u32> = serde_json::from_slice(&files["data.json"]).unwrap();
    assert_eq!(data.len(), 10);
    assert!(
        !files.keys().any(|name| name.starts_with("journal-")),
        "{:?}",
        files.keys()
    );
}

#[tokio::test]
async fn tools_that_write_are_refused_while_a_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(&["--store", &format!("file:{}", folder.path().display())]);
    for name in ["repair", "compact"] {
        let refused = tool(name, folder.path());
        assert_eq!(refused.code, Some(1), "{name}: {refused:?}");
        let holder = format!("process {}", process.id());
        assert!(
            refused.stderr.concat().contains(&holder),
            "{name}: {refused:?}"
        );
    }
}

#[test]
fn what_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    for name in ["verify", "repair", "status", "compact", "export"] {
        for (place, code) in [(absent.as_path(), 1), (folder.path(), 1)] {
            let refused = tool(name, place);
            assert_eq!(refused.code, Some(code), "{name}: {refused:?}");
            assert_eq!(refused.stderr.len(), 1, "{name}: {refused:?}");
        }
        let of_memory = run(&[name, "memory:"], &[]).code;
        // Any store can be exported; that one is always empty.
        assert_eq!(of_memory, Some(if name == "export" { 0 } else { 2 }));
        assert_eq!(run(&[name, "--no-such-flag"], &[]).code, Some(2));
        let help = run(&[name, "--help"], &[]);
        assert_eq!(help.code, Some(0));
        assert!(
            help.stdout
                .contains(&format!("Usage: kvstore-http {name} ")),
            "{help:?}"
        );
        assert!(
            run(&["--help"], &[])
                .stdout
                .contains(&format!("\n  {name}"))
        );
    }
    assert_eq!(files(folder.path()).len(), 0);
}

#[tokio::test]
async fn export_writes_every_entry_in_both_forms_beside_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let mut process = Process::start(&["--store", &store]);
    let mut connection = Connection::open(process.address).await;
    for (key, query, value) in [("b", "?ttl=3600", "[1.50,1e400]"), ("a", "", "\"é\"")] {
        let put = request("PUT", &format!("/v1/kv/{key}{query}")).body(value);
        assert_eq!(connection.ask(&put).await.status, 201);
    }
    let before = files(folder.path());
    let object = run(&["export", &store], &[]);
    assert_eq!(object.stdout, "{\n\"a\":\"é\",\n\"b\":[1.50,1e400]\n}\n");
    let lines = run(&["export", &store, "--format", "ndjson"], &[]);
    let lines: Vec<&str> = lines.stdout.lines().collect();
    let [a, b] = lines[..] else {
        panic!("{lines:?}");
    };
    let version = |line: &str| {
        let (_, rest) = line.split_once("\"version\":").unwrap();
        let digits = rest.split(|it: char| !it.is_ascii_digit()).next().unwrap();
        digits.parse::<u64>().unwrap()
    };
    let (of_a, of_b) = (version(a), version(b));
    assert_eq!(of_a, of_b + 1);
    assert_eq!(a, format!(r#"{{"key":"a","value":"é","version":{of_a}}}"#));
    let start = format!(r#"{{"key":"b","value":[1.50,1e400],"version":{of_b},"expires_at":"#);
    assert!(b.starts_with(&start), "{b}");
    assert!(files(folder.path()) == before);

    // The object is what a clean stop leaves.
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0));
    assert_eq!(files(folder.path())["data.json"], object.stdout.as_bytes());
    assert_eq!(
        run(&["export", &store, "--format", "xml"], &[]).code,
        Some(2)
    );
}
