//! Do entries come out of a store and into another one whole, whatever stands in the file and whatever ends it half-way?

mod support;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::client::{Connection, request};
use support::process::{Ended, Process, command, run, run_command};

/// A folder for files and stores.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path of a file with this text.
    fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    fn store(&self, name: &str) -> String {
        format!("file:{}", self.path(name).display())
    }

    fn import(&self, from: &str, store: &str) -> Ended {
        run(&["import", "--from", from, "--to", &self.store(store)], &[])
    }

    fn export(&self, store: &str, format: &str) -> String {
        let exported = run(&["export", &self.store(store), "--format", format], &[]);
        assert_eq!(exported.code, Some(0), "{exported:?}");
        exported.stdout
    }
}

fn printed(ended: &Ended) -> &str {
    assert_eq!(
        (ended.code, &ended.stderr[..]),
        (Some(0), &[][..]),
        "{ended:?}"
    );
    &ended.stdout
}

/// The one line with which an import ends that can't go on.
fn error(ended: &Ended) -> &str {
    let (Some(1), [line]) = (ended.code, &ended.stderr[..]) else {
        panic!("{ended:?}");
    };
    line.strip_prefix("error: ").unwrap()
}

/// NDJSON with the entries `k0`, `k1`, ….
fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers
        .map(|number| format!("{{\"key\":\"k{number}\",\"value\":{number}}}\n"))
        .collect()
}

/// Runs the program with `input`.
fn fed(args: &[&str], input: &str) -> Ended {
    let folder = Folder::new();
    let input = std::fs::File::open(folder.file("input", input)).unwrap();
    run_command(command(args).stdin(input))
}

#[tokio::test]
async fn what_a_server_has_goes_through_every_form_into_another_store() {
    let folder = Folder::new();
    let mut process = Process::start(&["--store", &folder.store("first")]);
    let mut connection = Connection::open(process.address).await;
    for (key, query, value) in [
        ("b", "?ttl=3600", "[1.50,1e400]"),
        ("a", "", "\"\\u00e9é\""),
        ("c%2Fd", "", "{\"a\":1,\"a\":2}"),
    ] {
        let put = request("PUT", &format!("/v1/kv/{key}{query}")).body(value);
        assert_eq!(connection.ask(&put).await.status, 201);
    }
    let object = folder.export("first", "json");
    // Each line without the version, which stands behind the value.
    let without_versions = |text: String| -> Vec<String> {
        let lines = text.lines().map(|line| {
            let (before, behind) = line.rsplit_once(",\"version\":").unwrap();
            before.to_owned() + behind.trim_start_matches(|it: char| it.is_ascii_digit())
        });
        lines.collect()
    };
    let deadlines = without_versions(folder.export("first", "ndjson"));
    let has_deadline = |line: &&String| line.contains("],\"expires_at\":");
    assert_eq!(
        deadlines.iter().filter(has_deadline).count(),
        1,
        "{deadlines:?}"
    );

    // From the folder in use, and through a file of each form.
    let first = folder.store("first");
    assert_eq!(
        printed(&folder.import(&first, "second")),
        "3 written, 0 equal already\n"
    );
    for name in ["entries.json", "entries.ndjson", "entries.jsonl"] {
        let path = folder.path(name);
        let made = run(&["export", &first, "--to", path.to_str().unwrap()], &[]);
        assert_eq!(printed(&made), "");
        let store = format!("of-{name}");
        let imported = folder.import(path.to_str().unwrap(), &store);
        assert_eq!(printed(&imported), "3 written, 0 equal already\n");
        // A file that is there already is not touched.
        let again = run(
            &[
                "export",
                &folder.store(&store),
                "--to",
                path.to_str().unwrap(),
            ],
            &[],
        );
        assert!(error(&again).contains(name), "{again:?}");
    }
    for store in [
        "second",
        "of-entries.json",
        "of-entries.ndjson",
        "of-entries.jsonl",
    ] {
        assert_eq!(folder.export(store, "json"), object, "{store}");
        if store != "of-entries.json" {
            assert_eq!(
                without_versions(folder.export(store, "ndjson")),
                deadlines,
                "{store}"
            );
        }
    }

    // Into the folder that the server has, nothing goes.
    let refused = folder.import(&folder.store("second"), "first");
    assert!(
        error(&refused).contains(&format!("process {}", process.id())),
        "{refused:?}"
    );
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0));
    assert_eq!(
        printed(&folder.import(&first, "second")),
        "0 written, 3 equal already\n"
    );
}

#[test]
fn every_bad_entry_is_listed_by_its_place_and_nothing_is_written() {
    let folder = Folder::new();
    let object = folder.file("bad.json", "{\n  \"a\": 1,\n  \"\": 2,\n  \"a\": 3\n}\n");
    let text = format!(
        "{}{{\"key\":\"x/\",\"value\":1}}\n\nnothing\n",
        lines(0..3000)
    );
    let ndjson = folder.file("bad.ndjson", &text);
    for (path, places) in [
        (object, ["line 3 column 3: ", "line 4 column 3: "]),
        (ndjson, ["line 3001 column 8: ", "line 3003 column 1: "]),
    ] {
        let refused = folder.import(&path, "made");
        assert_eq!(error(&refused), "2 refused, nothing was written");
        let listed: Vec<&str> = refused.stdout.lines().collect();
        assert_eq!(listed.len(), 2, "{refused:?}");
        for (line, place) in listed.iter().zip(places) {
            assert!(line.starts_with(&format!("{path}, {place}")), "{line}");
        }
    }
    let many = folder.file("many.ndjson", &"no\n".repeat(50));
    let refused = folder.import(&many, "made");
    assert_eq!(error(&refused), "20 or more refused, nothing was written");
    assert_eq!(refused.stdout.lines().count(), 20);
    // An object is read whole before anything is written, wherever it comes from.
    let from_pipe = fed(
        &["import", "--from", "-", "--to", &folder.store("made")],
        "{\"a\":1,\"b\":}",
    );
    assert_eq!(error(&from_pipe), "1 refused, nothing was written");
    assert!(
        from_pipe
            .stdout
            .starts_with("standard input, line 1 column 12: "),
        "{from_pipe:?}"
    );
    for absent in ["absent.json", "absent.ndjson", ""] {
        let path = folder.path(absent);
        assert!(error(&folder.import(path.to_str().unwrap(), "made")).contains(absent));
    }
    assert!(!folder.path("made").exists());
}

#[test]
fn lines_from_a_pipe_are_written_up_to_the_first_bad_one_and_no_further() {
    let folder = Folder::new();
    let store = folder.store("store");
    let args = [
        "import", "--from", "-", "--to", &store, "--format", "ndjson",
    ];
    let text = format!("{}bad\n{}", lines(0..2500), lines(2500..4000));
    let stopped = fed(&args, &text);
    let said = error(&stopped);
    assert!(
        said.starts_with("standard input, line 2501 column 1: "),
        "{said}"
    );
    assert!(
        said.contains("; 2500 written, 0 equal already until then"),
        "{said}"
    );
    assert_eq!(folder.export("store", "ndjson").lines().count(), 2500);
    let mended = fed(&args, &text.replace("bad\n", ""));
    assert_eq!(printed(&mended), "1500 written, 2500 equal already\n");
    // So is a pipe that has a name.
    let shell = format!(
        "printf '{{\"key\":\"named\",\"value\":1}}' | \"$0\" import --from /dev/stdin --format ndjson --to '{store}'"
    );
    let named =
        run_command(Command::new("sh").args(["-c", &shell, env!("CARGO_BIN_EXE_kvstore-http")]));
    assert_eq!(printed(&named), "1 written, 0 equal already\n");
}

/// An import from a pipe.
fn start_import(store: &str) -> Child {
    command(&["import", "--from", "-", "--to", store, "--format", "ndjson"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a journal in `folder` holds `text`.
fn has_written(folder: &Path, text: &str) -> bool {
    let journal = std::fs::read_to_string(folder.join("journal-1.jsonl"));
    journal.is_ok_and(|journal| journal.contains(text))
}

#[test]
fn killed_import_goes_on_where_it_was() {
    let folder = Folder::new();
    let all = lines(0..5000);
    let mut child = start_import(&folder.store("store"));
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(lines(0..2500).as_bytes()).unwrap();
    let path = folder.path("store");
    wait_until("two pages are written", || {
        has_written(&path, "[\"k1999\",")
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let rest = folder.import(&folder.file("all.ndjson", &all), "store");
    let rest = printed(&rest);
    let equal = rest
        .strip_suffix(" equal already\n")
        .and_then(|it| it.split_once(" written, "));
    let (written, equal): (u32, u32) = equal
        .map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()))
        .unwrap();
    assert!(
        equal >= 2000 && written >= 2500 && equal + written == 5000,
        "{rest}"
    );
    let mut found: Vec<u32> = folder
        .export("store", "ndjson")
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["value"]
                .as_u64()
                .unwrap() as u32
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found, (0..5000).collect::<Vec<_>>());
}

#[test]
fn store_without_room_stops_the_import_and_says_how_far_it_got() {
    let folder = Folder::new();
    let from = folder.file("all.ndjson", &lines(0..5000));
    let small = format!("{}?data_bytes=300KiB", folder.store("store"));
    let full = run(&["import", "--from", &from, "--to", &small], &[]);
    let said = error(&full);
    assert!(said.contains("no room"), "{said}");
    assert!(
        said.contains("; 2000 written, 0 equal already until then"),
        "{said}"
    );
    assert_eq!(
        printed(&folder.import(&from, "store")),
        "3000 written, 2000 equal already\n"
    );
}

#[test]
fn export_that_can_not_be_written_whole_leaves_nothing() {
    let folder = Folder::new();
    let all = folder.file("all.ndjson", &lines(0..3000));
    printed(&folder.import(&all, "store"));
    // No file may have more than 512 bytes, and to try is an error rather than the end.
    let script = format!(
        "cd '{}'; trap '' XFSZ; ulimit -f 1; exec \"$0\" export file:store --to made.json",
        folder.0.path().display()
    );
    let program = env!("CARGO_BIN_EXE_kvstore-http");
    let failed = run_command(Command::new("sh").args(["-c", &script, program]));
    let said = error(&failed);
    assert!(
        said.starts_with("can't write made.json: File too large"),
        "{said}"
    );
    assert!(!folder.path("made.json").exists());
}

#[test]
fn ndjson_of_any_size_needs_little_memory() {
    // So much data may a process have, in KiB; the entries come to more than twice that.
    const LIMIT: u32 = 20 << 10;
    let folder = Folder::new();
    let padding = "x".repeat(100_000);
    let line = |number: usize| {
        format!(
            "{{\"key\":\"k{}\",\"value\":\"{padding}{number}\"}}\n",
            number % 20
        )
    };
    let text: String = (0..450).map(line).collect();
    let import = |path: &str| {
        let script = format!("ulimit -d {LIMIT}; exec \"$0\" import --from '{path}' --to memory:");
        run_command(Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_kvstore-http")]))
    };
    let path = folder.file("large.ndjson", &text);
    assert_eq!(printed(&import(&path)), "450 written, 0 equal already\n");
    // The limit is one: an object has to fit.
    let object = folder.file(
        "large.json",
        &format!("{{\"a\":\"{}\"}}", "x".repeat(50_000_000)),
    );
    let refused = import(&object);
    assert!(refused.stderr.concat().contains("memory"), "{refused:?}");
    assert_ne!(refused.code, Some(0));
}

#[test]
fn both_places_have_to_be_given_and_to_be_some() {
    let folder = Folder::new();
    let from = folder.file("a.json", "{}");
    for args in [
        &[][..],
        &["--from", &from],
        &["--to", "memory:"],
        &["--from", &from, "--to", "data.json"],
        &["--from", "nowhere:x", "--to", "memory:"],
        &["--from", &from, "--to", "memory:", "--format", "xml"],
    ] {
        let refused = run(&[&["import"], args].concat(), &[]);
        assert_eq!(refused.code, Some(2), "{args:?}: {refused:?}");
    }
    let nothing = run(&["import", "--from", &from, "--to", "memory:"], &[]);
    assert_eq!(printed(&nothing), "0 written, 0 equal already\n");
}
