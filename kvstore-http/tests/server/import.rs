//! Is `data.json` really an ordinary JSON file: written by other programs, edited by hand, read by
//! others, and never misread?

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kvstore_testing::client::{Connection, Reply, request};
use kvstore_testing::process::{Process, run_command, server_command};

/// A folder with a store.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn url(&self) -> String {
        format!("file:{}", self.0.path().display())
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn start(&self) -> Process {
        Process::start(&["--store", &self.url()])
    }

    /// Returns the single line with which the program refuses the folder.
    fn refused(&self) -> String {
        refused(&mut server_command(&["--store", &self.url()]))
    }

    /// Stores these entries, and kills the server once they are acknowledged.
    async fn put_and_kill(&self, entries: &[(&str, &str)]) -> Vec<Reply> {
        let mut process = self.start();
        let mut replies = Vec::new();
        for (key, value) in entries {
            replies.push(put(&process, key, value).await);
        }
        process.kill();
        replies
    }
}

/// Returns the single line in which a program that cannot start gives the reason.
fn refused(command: &mut Command) -> String {
    let ended = run_command(command.env("KVSTORE_LISTEN", "127.0.0.1:0"));
    let mut errors = ended
        .stderr
        .iter()
        .filter(|line| line.starts_with("error: "));
    let (Some(1), Some(error), None) = (ended.code, errors.next(), errors.next()) else {
        panic!("{ended:?}");
    };
    error.clone()
}

async fn get(process: &Process, key: &str) -> Reply {
    let mut connection = Connection::open(process.address).await;
    connection
        .ask(&request("GET", &format!("/v1/kv/{key}")))
        .await
}

async fn put(process: &Process, key: &str, value: &str) -> Reply {
    let mut connection = Connection::open(process.address).await;
    let reply = connection
        .ask(&request("PUT", &format!("/v1/kv/{key}")).body(value))
        .await;
    assert!(matches!(reply.status, 200 | 201), "{reply:?}");
    reply
}

fn end(mut process: Process) {
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0));
}

/// Returns the output of another program for `input`.
fn filtered(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} has to be installed, as ./check does: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} refuses {input}");
    String::from_utf8(output.stdout).unwrap()
}

fn python(script: &str, input: &str) -> String {
    filtered("python3", &["-X", "utf8", "-c", script], input)
}

/// A Python script that writes a file and prints how a reader sees it.
const OF_PYTHON: &str = r#"
import json, sys
data = {
    "user:1": {"name": "Adèle", "price": 1.0, "tags": []},
    "zero": "\u0000",
    "large": 1234567890123456789012345678901234567890,
    "small": 1e-07,
    "null": None,
    "né": [True, {}],
}
json.dump(data, sys.stdout, indent=4, ensure_ascii=ASCII)
"#;

#[tokio::test]
async fn file_of_python_is_served_written_to_and_read_by_others() {
    for (ascii, name) in [("True", r"Ad\u00e8le"), ("False", "Adèle")] {
        let folder = Folder::new();
        folder.write("data.json", &python(&OF_PYTHON.replace("ASCII", ascii), ""));
        let process = folder.start();
        let user = format!(r#"{{"name":"{name}","price":1.0,"tags":[]}}"#);
        for (key, value) in [
            ("user:1", user.as_str()),
            ("zero", r#""\u0000""#),
            ("large", "1234567890123456789012345678901234567890"),
            ("small", "1e-07"),
            ("null", "null"),
            ("n%C3%A9", "[true,{}]"),
        ] {
            assert_eq!(get(&process, key).await.text(), value, "{key}");
        }
        put(&process, "null", "[ 1.50 ]").await;
        put(&process, "a", "\"new\"").await;
        end(process);

        let text = folder.read("data.json");
        assert_eq!(
            text,
            format!(
                "{{\n\"a\":\"new\",\n\"large\":1234567890123456789012345678901234567890,\n\"null\":[1.50],\n\"né\":[true,{{}}],\n\
                 \"small\":1e-07,\n\"user:1\":{user},\n\"zero\":\"\\u0000\"\n}}\n"
            )
        );
        filtered("python3", &["-m", "json.tool"], &text);
        assert_eq!(
            filtered("jq", &["-c", ".[\"user:1\"].name"], &text),
            "\"Adèle\"\n"
        );
        let same = "import json, sys; data = json.load(sys.stdin); \
                    print(data['large'] == int('1234567890' * 4), data['null'], data['né'])";
        assert_eq!(python(same, &text), "True [1.5] [True, {}]\n");
    }
}

#[tokio::test]
async fn what_other_readers_would_change_comes_back_byte_for_byte() {
    let values = [
        "1e400",
        "-0.0",
        "1.0",
        "1E+2",
        "0.1000000000000000055511151231257827",
        r#"{"a":1,"a":2,"":0}"#,
        r#""\u00e9é\/\ud83d\ude00😀""#,
    ];
    let folder = Folder::new();
    let members = values.iter().enumerate();
    let members: Vec<_> = members
        .map(|(key, value)| format!("\t\"{key}\" :\r\n {value}"))
        .collect();
    folder.write("data.json", &format!("\n{{{}}} ", members.join(",\n\n")));
    for _ in 0..2 {
        let process = folder.start();
        for (key, value) in values.iter().enumerate() {
            assert_eq!(get(&process, &key.to_string()).await.text(), *value);
        }
        end(process);
    }
    let text = folder.read("data.json");
    for value in values {
        assert!(
            text.contains(&format!(":{value}")),
            "{value} is not in {text}"
        );
    }
    filtered("python3", &["-m", "json.tool"], &text);
    filtered("jq", &["."], &text);
}

fn tag(reply: &Reply) -> u64 {
    reply
        .header("etag")
        .expect("a tag")
        .trim_matches('"')
        .parse()
        .unwrap()
}

#[tokio::test]
async fn edit_at_rest_is_taken_and_what_it_left_alone_keeps_its_tag() {
    let folder = Folder::new();
    let process = folder.start();
    let mut tags = Vec::new();
    for key in ["changed", "removed", "same"] {
        tags.push(tag(&put(&process, key, "{\"n\": 1.0}").await));
    }
    end(process);
    let edit = "import json, sys; data = json.load(sys.stdin); data['changed'] = 2; del data['removed']; \
                data['added'] = 3; json.dump(data, sys.stdout, indent=2)";
    folder.write("data.json", &python(edit, &folder.read("data.json")));

    let process = folder.start();
    let same = get(&process, "same").await;
    assert_eq!((same.text(), tag(&same)), ("{\"n\":1.0}", tags[2]));
    let changed = get(&process, "changed").await;
    assert_eq!(changed.text(), "2");
    let added = get(&process, "added").await;
    assert_eq!(added.text(), "3");
    assert!(tag(&changed) > tags[2] && tag(&added) > tags[2]);
    assert_eq!(get(&process, "removed").await.status, 404);
    // A key that returns gets a new tag.
    assert!(tag(&put(&process, "removed", "1").await) > tags[1]);
}

#[tokio::test]
async fn edit_at_rest_keeps_the_deadline_of_what_it_left_alone() {
    let folder = Folder::new();
    let process = folder.start();
    for key in ["changed", "same"] {
        put(&process, &format!("{key}?ttl=3600"), "1").await;
    }
    let tag_before = tag(&get(&process, "same").await);
    end(process);
    let edit = "import json, sys; data = json.load(sys.stdin); data['changed'] = 2; json.dump(data, sys.stdout)";
    folder.write("data.json", &python(edit, &folder.read("data.json")));

    let process = folder.start();
    let same = get(&process, "same").await;
    let seconds_left: u32 = same.header("x-ttl").expect("a deadline").parse().unwrap();
    assert!((3000..=3600).contains(&seconds_left), "{seconds_left}");
    assert_eq!(tag(&same), tag_before);
    let changed = get(&process, "changed").await;
    assert_eq!((changed.text(), changed.header("x-ttl")), ("2", None));
}

/// How an editor saves.
#[derive(Clone, Copy, Debug)]
enum Saving {
    /// Overwrites the existing file.
    InPlace,
    /// Writes another file and renames it.
    ByRename,
}

impl Folder {
    fn edit(&self, saving: Saving, text: &str) {
        let saving = match saving {
            Saving::InPlace => "open(path, 'w').write(text)",
            Saving::ByRename => "open(path + '~', 'w').write(text); os.rename(path + '~', path)",
        };
        let script = format!(
            "import os, sys; path = {:?}; text = sys.stdin.read(); {saving}",
            self.path("data.json")
        );
        python(&script, text);
    }
}

#[tokio::test]
async fn edit_while_it_runs_is_kept_beside_and_said_and_has_no_effect() {
    let folder = Folder::new();
    let store = format!("{}?snapshot_bytes=1KiB", folder.url());
    let edited = "data.json was edited while the store was running: the edit is kept in this file and has no effect";
    let mut kept = Vec::new();
    for saving in [Saving::InPlace, Saving::ByRename] {
        // Detected by a snapshot in the background, and by the final one.
        for at_the_end in [false, true] {
            let mut process = Process::start(&["--store", &store]);
            put(&process, "key", "1").await;
            let text = format!("{{\"key\": \"edit {}\"}}", kept.len());
            folder.edit(saving, &text);
            kept.push(text);
            let name = format!("data.json.edited-{}", kept.len());
            if !at_the_end {
                let padding = format!("{:?}", "x".repeat(600));
                while !folder.path(&name).exists() {
                    put(&process, "padding", &padding).await;
                }
            }
            assert_eq!(get(&process, "key").await.text(), "1");
            process.signal("TERM");
            let fields = process.logged(edited);
            let file = folder.path(&name).display().to_string();
            assert_eq!(
                (fields["level"].as_str(), fields["file"].as_str()),
                (Some("ERROR"), Some(file.as_str()))
            );
            assert_eq!(process.ended().code(), Some(0));
            assert!(folder.read("data.json").contains("\"key\":1"));
        }
    }
    for (number, text) in (1..).zip(&kept) {
        assert_eq!(&folder.read(&format!("data.json.edited-{number}")), text);
    }
    // The next start must not take the server's own file for an edit.
    let process = folder.start();
    assert_eq!(get(&process, "key").await.text(), "1");
    end(process);
    assert!(!folder.path("data.json.edited-5").exists());
}

#[tokio::test]
async fn edit_beside_later_commits_is_refused_with_both_ways_out() {
    let folder = Folder::new();
    let given_up = folder.put_and_kill(&[("a", "1"), ("b", "2")]).await;
    let before = folder.read("data.json");
    let edit = r#"{"a": "edited"}"#;
    folder.write("data.json", edit);
    let error = folder.refused();
    for part in [
        "data.json",
        "2 later commits",
        "put it back",
        "?keep_edit=true",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(folder.read("data.json"), edit);

    folder.write("data.json", &before);
    let mut process = folder.start();
    assert_eq!(get(&process, "b").await.text(), "2");
    process.kill();

    folder.write("data.json", edit);
    let keep = format!("{}?keep_edit=true", folder.url());
    let process = Process::start(&["--store", &keep]);
    let kept = get(&process, "a").await;
    assert_eq!(kept.text(), "\"edited\"");
    assert!(tag(&kept) > tag(&given_up[1]), "a tag was used twice");
    assert_eq!(get(&process, "b").await.status, 404);
    end(process);
    // The decision holds for one start only; then there is nothing left to discard.
    let process = folder.start();
    assert_eq!(get(&process, "a").await.text(), "\"edited\"");
}

#[test]
fn every_bad_key_is_listed_by_line_and_column_and_nothing_is_changed() {
    let folder = Folder::new();
    let text = "{\n    \"good\": 1,\n    \"\": 2,\n    \"a//b\": 3,\n    \"good\": 4\n}\n";
    folder.write("data.json", text);
    let error = folder.refused();
    for part in [
        "data.json",
        "line 3 column 5",
        "line 4 column 5",
        "line 5 column 5",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(folder.read("data.json"), text);
    let names = std::fs::read_dir(folder.0.path()).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["LOCK", "data.json"]);
}

#[test]
fn file_that_is_no_object_is_refused_and_left_as_it_is() {
    for text in [
        "",
        " \n",
        "[]",
        "{\"a\":1",
        "{\"a\":1} {}",
        "\u{feff}{}",
        "{\"a\":NaN}",
    ] {
        let folder = Folder::new();
        folder.write("data.json", text);
        let error = folder.refused();
        assert!(error.contains("data.json"), "{text:?}: {error}");
        assert_eq!(folder.read("data.json"), text);
    }
}

/// Changes one byte in the middle of a line (counted from 1) of a file.
fn damage(path: &Path, line: usize) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines: Vec<_> = text.split('\n').map(str::to_owned).collect();
    let damaged = &mut lines[line - 1];
    let at = damaged.len() / 2;
    let other = if &damaged[at..=at] == "0" { "1" } else { "0" };
    damaged.replace_range(at..=at, other);
    std::fs::write(path, lines.join("\n")).unwrap();
}

#[tokio::test]
async fn damaged_file_is_named_with_its_line_and_nothing_is_changed() {
    for (name, line, place) in [
        ("journal-1.jsonl", 2, "journal-1.jsonl, line 2"),
        ("journal-1.jsonl", 1, "journal-1.jsonl, line 1"),
        ("data.meta.json", 1, "data.meta.json"),
    ] {
        let folder = Folder::new();
        folder
            .put_and_kill(&[("a", "1"), ("b", "2"), ("c", "3")])
            .await;
        damage(&folder.path(name), line);
        let damaged = folder.read(name);
        let error = folder.refused();
        assert!(error.contains(place), "{error}");
        assert_eq!(folder.read(name), damaged);
    }
}

#[test]
fn readme_and_gitignore_in_the_folder_do_not_disturb() {
    let folder = Folder::new();
    folder.write("README.md", "The default data folder.\n");
    folder.write(".gitignore", "*\n");
    for _ in 0..2 {
        end(folder.start());
    }
    assert_eq!(folder.read("data.json"), "{\n}\n");
    assert_eq!(folder.read(".gitignore"), "*\n");
}

#[test]
fn folder_that_can_only_be_read_is_refused_in_one_line() {
    // The superuser may write everywhere, unless this capability is dropped.
    const WITHOUT_OVERRIDE: &str = r#"
        if [ "$(id -u)" = 0 ]; then exec setpriv --bounding-set=-dac_override,-dac_read_search "$0" "$@"; fi
        exec "$0" "$@""#;
    let folder = Folder::new();
    let set_mode = |mode| {
        let done = Command::new("chmod")
            .arg(mode)
            .arg(folder.0.path())
            .status();
        assert!(done.unwrap().success());
    };
    let program = server_command(&["--store", &folder.url()]);
    let mut shell = Command::new("sh");
    shell.args(["-c", WITHOUT_OVERRIDE]);
    shell.arg(program.get_program()).args(program.get_args());
    set_mode("555");
    let error = refused(&mut shell);
    set_mode("755");
    assert!(
        error.contains(&*folder.0.path().to_string_lossy()),
        "{error}"
    );
    assert!(error.contains("ermission denied"), "{error}");
}
