//! Do entries get from one store into another completely, whatever is in the file and however the
//! command is interrupted?

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kvstore_testing::process::clean;
use kvstore_testing::redis::RedisServer;
use kvstore_testing::server::Server;

use crate::support::{Commands as _, Ended, KVSTORE, ended, kvstore};

/// A folder for files and stores.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Creates a file with this text, and returns its path.
    fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    fn store(&self, name: &str) -> String {
        format!("file:{}", self.path(name).display())
    }

    fn import(&self, from: &str, store: &str) -> Ended {
        kvstore(&["import", from, "--to", &self.store(store), "-o", "table"])
    }

    fn export(&self, store: &str, format: &str) -> String {
        let store = self.store(store);
        let exported = kvstore(&["export", "--from", &store, "--format", format]);
        assert_eq!(exported.code, 0, "{exported:?}");
        exported.lines.join("\n")
    }
}

fn printed(ended: &Ended) -> String {
    assert_eq!((ended.code, &*ended.errors), (0, ""), "{ended:?}");
    ended.lines.join("\n")
}

/// Returns the error message of an import that must exit with `code`.
fn error(ended: &Ended, code: i32) -> &str {
    assert_eq!(ended.code, code, "{ended:?}");
    ended.errors.strip_prefix("error: ").unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = clean(Command::new(KVSTORE));
    command.args(args);
    command
}

/// Returns NDJSON with the entries `k0`, `k1`, ….
fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers
        .map(|number| format!("{{\"key\":\"k{number}\",\"value\":{number}}}\n"))
        .collect()
}

/// Runs the program with `input`.
fn fed(args: &[&str], input: &str) -> Ended {
    let folder = Folder::new();
    let input = std::fs::File::open(folder.file("input", input)).unwrap();
    ended(command(args).stdin(input))
}

/// Returns the keys, and whether each has a deadline: versions belong to each store, and a deadline
/// that passes through a server is in whole seconds.
fn portable(text: &str) -> Vec<(String, bool)> {
    let line = |line: &str| {
        let key = line.split(",\"value\":").next().unwrap().to_owned();
        (key, line.contains(",\"expires_at\":"))
    };
    text.lines().map(line).collect()
}

#[test]
fn entries_go_between_any_two_of_file_folder_redis_and_server() {
    let folder = Folder::new();
    let redis = RedisServer::start();
    let first = Server::in_folder(&folder.path("first"), &[]);
    let other = Server::in_folder(&folder.path("other"), &[]);
    for (key, ttl, value) in [
        ("b", Some("1000h"), "[1.50,1e400]"),
        ("a", None, "\"\\u00e9é\""),
        ("c/d", None, "{\"a\":1,\"a\":2}"),
    ] {
        let mut args = vec!["set", key, value];
        args.extend(ttl.map(|ttl| ["--ttl", ttl]).into_iter().flatten());
        assert_eq!(first.run(&args).code, 0);
    }
    let object = folder.export("first", "json");
    let entries = portable(&folder.export("first", "ndjson"));
    let file = folder.path("entries.ndjson").to_str().unwrap().to_owned();
    let import = |from: &str, to: &str, expected: &str| {
        let imported = kvstore(&["import", from, "--to", to, "-o", "table"]);
        assert_eq!(printed(&imported), expected, "{from} to {to}");
    };
    let ways = [
        (folder.store("first"), folder.store("by-folder")),
        (first.url(), folder.store("by-server")),
        (folder.store("by-server"), redis.url()),
        (redis.url(), other.url()),
        (other.url(), folder.store("last")),
    ];
    for (from, to) in &ways {
        import(from, to, "3 written, 0 equal already");
    }
    let exported = kvstore(&["export", &file, "--from", &redis.url(), "-o", "table"]);
    assert_eq!(printed(&exported), "3 exported");
    import(
        &file,
        &folder.store("of-file"),
        "3 written, 0 equal already",
    );
    // Once more, nothing changes.
    for (from, to) in &ways {
        import(from, to, "0 written, 3 equal already");
    }
    for to in [first.url(), redis.url()] {
        import(&file, &to, "0 written, 3 equal already");
    }
    for store in ["by-folder", "by-server", "last", "of-file"] {
        assert_eq!(folder.export(store, "json"), object, "{store}");
        assert_eq!(
            portable(&folder.export(store, "ndjson")),
            entries,
            "{store}"
        );
    }

    // An existing file is not touched.
    let again = kvstore(&["export", &file, "--from", &redis.url()]);
    assert!(error(&again, 2).contains("entries.ndjson"), "{again:?}");
    // Entries reach the folder of a running server only through the server.
    let refused = folder.import(&folder.store("last"), "first");
    let holder = format!("process {}", first.process.id());
    assert!(error(&refused, 1).contains(&holder), "{refused:?}");
}

#[test]
fn every_invalid_entry_is_listed_with_its_position_and_nothing_is_written() {
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
        let (said, listed) = error(&refused, 2).split_once('\n').unwrap();
        assert!(said.starts_with(&format!("nothing was written: {path} has invalid entries")));
        // The message also says how the file was interpreted.
        assert!(
            said.contains("--format json") && said.contains("ndjson"),
            "{said}"
        );
        let listed: Vec<&str> = listed.lines().collect();
        assert_eq!(listed.len(), 2, "{refused:?}");
        for (line, place) in listed.iter().zip(places) {
            assert!(line.starts_with(&format!("  {path}, {place}")), "{line}");
        }
    }
    let many = folder.file("many.ndjson", &"no\n".repeat(50));
    let refused = folder.import(&many, "made");
    assert_eq!(error(&refused, 2).lines().count(), 1 + 20 + 1);
    // An object is read completely before anything is written, whatever it is read from.
    let made = folder.store("made");
    let args = ["import", "-", "--to", &made, "--format", "json"];
    let from_pipe = fed(&args, "{\"a\":1,\"b\":}");
    let said = error(&from_pipe, 2);
    assert!(
        said.contains("\n  standard input, line 1 column 12: "),
        "{said}"
    );
    for absent in ["absent.json", "absent.ndjson"] {
        let path = folder.path(absent);
        let refused = folder.import(path.to_str().unwrap(), "made");
        assert!(error(&refused, 2).contains(absent));
    }
    assert!(!folder.path("made").exists());
}

#[test]
fn lines_from_a_pipe_are_written_up_to_the_first_invalid_one() {
    let folder = Folder::new();
    let store = folder.store("store");
    let args = ["import", "-", "--to", &store, "-o", "table"];
    let text = format!("{}bad\n{}", lines(0..2500), lines(2500..4000));
    let stopped = fed(&args, &text);
    let said = error(&stopped, 2);
    assert!(
        said.starts_with("standard input, line 2501 column 1: "),
        "{said}"
    );
    assert!(
        said.contains("\n  2500 written, 0 equal already so far"),
        "{said}"
    );
    assert_eq!(folder.export("store", "ndjson").lines().count(), 2500);
    let mended = fed(&args, &text.replace("bad\n", ""));
    assert_eq!(printed(&mended), "1500 written, 2500 equal already");
    // The same holds for a named pipe.
    let shell = format!(
        "printf '{{\"key\":\"named\",\"value\":1}}' | \"$0\" import /dev/stdin -o table --to '{store}'"
    );
    let named = ended(Command::new("sh").args(["-c", &shell, KVSTORE]));
    assert_eq!(printed(&named), "1 written, 0 equal already");
}

/// Starts an import from a pipe.
fn start_import(store: &str) -> Child {
    command(&["import", "-", "--to", store])
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

/// Returns true if a journal in `folder` contains `text`.
fn has_written(folder: &Path, text: &str) -> bool {
    let journal = std::fs::read_to_string(folder.join("journal-1.jsonl"));
    journal.is_ok_and(|journal| journal.contains(text))
}

#[test]
fn killed_import_continues_where_it_was() {
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
        .strip_suffix(" equal already")
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
fn full_store_stops_the_import_which_says_how_far_it_got() {
    let folder = Folder::new();
    let from = folder.file("all.ndjson", &lines(0..5000));
    let small = format!("{}?data_bytes=300KiB", folder.store("store"));
    let full = kvstore(&["import", &from, "--to", &small]);
    let said = error(&full, 5);
    assert!(said.contains("no room"), "{said}");
    assert!(
        said.contains("\n  2000 written, 0 equal already so far"),
        "{said}"
    );
    assert_eq!(
        printed(&folder.import(&from, "store")),
        "3000 written, 2000 equal already"
    );
}

#[test]
fn export_that_cannot_be_written_completely_leaves_nothing() {
    let folder = Folder::new();
    let all = folder.file("all.ndjson", &lines(0..3000));
    printed(&folder.import(&all, "store"));
    // Limits files to 512 bytes, so that exceeding it is an error rather than a signal.
    let script = format!(
        "cd '{}'; trap '' XFSZ; ulimit -f 1; exec \"$0\" export --from file:store made.json",
        folder.0.path().display()
    );
    let program = KVSTORE;
    let failed = ended(Command::new("sh").args(["-c", &script, program]));
    let said = error(&failed, 1);
    assert!(
        said.starts_with("made.json cannot be written: File too large"),
        "{said}"
    );
    assert!(!folder.path("made.json").exists());
}

#[test]
fn ndjson_of_any_size_needs_little_memory() {
    // The limit on a process's data, in KiB; the entries are more than twice that.
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
        let script =
            format!("ulimit -d {LIMIT}; exec \"$0\" import '{path}' --to memory: -o table");
        ended(Command::new("sh").args(["-c", &script, KVSTORE]))
    };
    let path = folder.file("large.ndjson", &text);
    assert_eq!(printed(&import(&path)), "450 written, 0 equal already");
    // The limit works: an object has to fit in memory.
    let object = folder.file(
        "large.json",
        &format!("{{\"a\":\"{}\"}}", "x".repeat(50_000_000)),
    );
    let refused = import(&object);
    assert!(refused.errors.contains("memory"), "{refused:?}");
    assert_ne!(refused.code, 0);
}

#[test]
fn unsuitable_sources_and_targets_are_rejected() {
    let folder = Folder::new();
    let from = folder.file("a.json", "{}");
    for args in [
        &["import"][..],
        &["import", &from, "--to", "data.json"],
        &["import", "nowhere:x", "--to", "memory:"],
        &["import", &from, "--to", "memory:", "--format", "xml"],
        &["export", "--from", &from],
        &["export", "--from", "-"],
    ] {
        let refused = kvstore(args);
        assert_eq!(refused.code, 2, "{args:?}: {refused:?}");
    }
    let nothing = kvstore(&["import", &from, "--to", "memory:", "-o", "table"]);
    assert_eq!(printed(&nothing), "0 written, 0 equal already");
}

#[test]
fn a_token_is_sent_only_to_its_own_server() {
    let folder = Folder::new();
    let tokens = folder.path("tokens").to_str().unwrap().to_owned();
    let made = kvstore(&["token", "ada", "--tokens-file", &tokens]);
    let secret = folder.file("secret", &printed(&made));
    let guarded = Server::in_folder(&folder.path("guarded"), &["--tokens-file", &tokens]);
    let open = Server::in_folder(&folder.path("open"), &[]);
    assert_eq!(open.run(&["set", "a", "1"]).code, 0);
    let (guarded, open) = (guarded.url(), open.url());
    let run = |args: &[&str]| kvstore(&[args, &["-o", "table"]].concat());
    assert_eq!(
        error(&run(&["import", &open, "--to", &guarded]), 7)
            .lines()
            .count(),
        2
    );
    let with_token = ["import", &open, "--to", &guarded, "--token-file", &secret];
    assert_eq!(printed(&run(&with_token)), "1 written, 0 equal already");
    let back = ["import", &guarded, "--to", &open];
    assert_eq!(
        run(&[&back[..], &["--token-file", &secret]].concat()).code,
        7
    );
    let back = run(&[&back[..], &["--from-token-file", &secret]].concat());
    assert_eq!(printed(&back), "0 written, 1 equal already");
    let exported = run(&["export", "--from", &guarded, "--token-file", &secret]);
    assert!(printed(&exported).starts_with(r#"{"key":"a","value":1"#));
}
