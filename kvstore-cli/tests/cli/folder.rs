//! Do the commands on a folder report its true state, change what they should, and nothing else?

use std::collections::BTreeMap;
use std::path::Path;

use kvstore_testing::server::Server;

use crate::support::{Commands as _, Ended, kvstore};

fn tool(name: &str, folder: &Path) -> Ended {
    kvstore(&[name, &format!("file:{}", folder.display())])
}

/// Reads every file.
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

fn put(server: &Server, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let set = server.run(&["set", &format!("k{number}"), &number.to_string()]);
        assert_eq!(set.code, 0, "{set:?}");
    }
}

/// Creates a folder with ten entries in its journal, left by a server that was killed.
fn killed() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(&Server::in_folder(folder.path(), &[]), 0..10);
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
    // The value after it.
    text[at.unwrap() + sets.len()] ^= 1;
    std::fs::write(&path, text).unwrap();
}

#[test]
fn verify_and_status_change_nothing_during_and_after_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(folder.path(), &[]);
    put(&server, 0..10);
    let holder = format!("process {} has it open", server.process.id());
    let mut server = Some(server);
    for round in ["running", "killed"] {
        if round == "killed" {
            drop(server.take());
        }
        let before = files(folder.path());
        let found = tool("verify", folder.path());
        assert_eq!((found.code, &*found.errors), (0, ""), "{found:?}");
        let text = found.lines.join("\n");
        assert!(text.contains("sound: 10 entries, version "), "{text}");
        assert!(text.contains(", 0 jobs wait"), "{text}");
        assert_eq!(text.contains(&holder), round == "running", "{text}");
        // A path works as well, and so does the environment of the server.
        let by_path = kvstore(&["verify", folder.path().to_str().unwrap()]);
        assert_eq!(by_path.lines, found.lines);
        let status = tool("status", folder.path());
        assert_eq!(status.code, 0, "{status:?}");
        for line in ["entries: 10", "jobs that wait: 0"] {
            assert!(status.lines.iter().any(|it| it == line), "{status:?}");
        }
        assert!(
            files(folder.path()) == before,
            "{round}: something was changed"
        );
    }
}

#[test]
fn repair_does_what_verify_announced_and_keeps_what_it_removes() {
    let folder = killed();
    let sound = tool("repair", folder.path());
    assert_eq!(
        (sound.code, &*sound.errors),
        (1, "error: nothing to repair\n")
    );
    damage(folder.path(), "k4");
    let damaged = files(folder.path())["journal-1.jsonl"].clone();
    let found = tool("verify", folder.path());
    assert_eq!(found.code, 1, "{found:?}");
    let announced = found.lines[0].clone();
    assert!(
        announced.contains("journal-1.jsonl, line ") && announced.contains("\"k4\""),
        "{announced}"
    );
    assert!(
        announced.contains("a repair loses the write of version "),
        "{announced}"
    );
    let repaired = tool("repair", folder.path());
    assert_eq!(repaired.code, 0, "{repaired:?}");
    assert!(repaired.lines[0] == announced, "{repaired:?}");
    assert_eq!(files(folder.path())["journal-1.jsonl.removed-1"], damaged);
    assert_eq!(tool("verify", folder.path()).code, 0);
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

#[test]
fn compact_leaves_a_plain_file_with_everything() {
    let folder = killed();
    let compacted = tool("compact", folder.path());
    assert_eq!(compacted.code, 0, "{compacted:?}");
    let files = files(folder.path());
    let data: BTreeMap<String, u32> = serde_json::from_slice(&files["data.json"]).unwrap();
    assert_eq!(data.len(), 10);
    assert!(
        !files.keys().any(|name| name.starts_with("journal-")),
        "{:?}",
        files.keys()
    );
}

#[test]
fn writing_tools_are_rejected_while_a_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(folder.path(), &[]);
    put(&server, 0..1);
    for name in ["repair", "compact"] {
        let refused = tool(name, folder.path());
        assert_eq!(refused.code, 1, "{name}: {refused:?}");
        let holder = format!("process {}", server.process.id());
        assert!(refused.errors.contains(&holder), "{name}: {refused:?}");
        assert!(refused.errors.contains("stop that process first"), "{name}");
    }
}

#[test]
fn missing_folders_are_not_created() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    for name in ["verify", "repair", "status", "compact"] {
        for (place, code) in [(absent.as_path(), 3), (folder.path(), 3)] {
            let refused = tool(name, place);
            assert_eq!(refused.code, code, "{name}: {refused:?}");
            assert_eq!(refused.errors.lines().count(), 1, "{name}: {refused:?}");
        }
        assert_eq!(kvstore(&[name, absent.to_str().unwrap()]).code, 3);
        for store in ["memory:", "http://127.0.0.1:8000"] {
            assert_eq!(kvstore(&[name, store]).code, 2, "{name} {store}");
        }
    }
    let empty = format!("file:{}", folder.path().display());
    let export = kvstore(&["export", "--from", &empty]);
    assert_eq!((export.code, export.lines.len()), (3, 0), "{export:?}");
    assert_eq!(files(folder.path()).len(), 0);
    assert!(!absent.exists());
}

#[test]
fn export_writes_every_entry_in_both_formats_alongside_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let mut server = Server::in_folder(folder.path(), &[]);
    server.lines(&["set", "b", "[1.50,1e400]", "--ttl", "1h"]);
    server.lines(&["set", "a", "\"é\""]);
    let before = files(folder.path());
    let object = kvstore(&["export", "--from", &store, "--format", "json"]);
    assert_eq!(
        object.lines,
        ["{", "\"a\":\"é\",", "\"b\":[1.50,1e400]", "}"]
    );
    let [a, b] = &kvstore(&["export", "--from", &store]).lines[..] else {
        panic!("two lines");
    };
    let version = |line: &str| {
        let (_, rest) = line.split_once("\"version\":").unwrap();
        let digits = rest.split(|it: char| !it.is_ascii_digit()).next().unwrap();
        digits.parse::<u64>().unwrap()
    };
    let (of_a, of_b) = (version(a), version(b));
    assert_eq!(of_a, of_b + 1);
    assert_eq!(*a, format!(r#"{{"key":"a","value":"é","version":{of_a}}}"#));
    let start = format!(r#"{{"key":"b","value":[1.50,1e400],"version":{of_b},"expires_at":"#);
    assert!(b.starts_with(&start), "{b}");
    let [only] = &kvstore(&["export", "--from", &store, "--prefix", "b"]).lines[..] else {
        panic!("one line");
    };
    assert_eq!(only, b);
    assert!(files(folder.path()) == before);

    // The object is what a clean stop leaves.
    assert_eq!(server.stop(), Some(0));
    let data = &files(folder.path())["data.json"];
    assert_eq!(*data, (object.lines.join("\n") + "\n").as_bytes());
    assert_eq!(
        kvstore(&["export", "--from", &store, "--format", "xml"]).code,
        2
    );
}
