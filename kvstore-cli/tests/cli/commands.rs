//! Does the command do what its help says, print what suits its reader, and exit with the
//! documented code?

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use kvstore_testing::process::clean;
use kvstore_testing::redis::RedisServer;
use kvstore_testing::server::Server;
use serde_json::{Value as Json, json};

use crate::support::{Commands as _, KVSTORE, ended, kvstore};

#[test]
fn entries_are_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(&folder.path().join("database"), &[]);
    let set = &server.lines(&["set", "user:1", r#"{"name": "Ada", "x": 1.0}"#])[0];
    assert_eq!(
        (&set["key"], &set["created"]),
        (&json!("user:1"), &json!(true))
    );
    let etag = set["etag"].as_str().unwrap().to_owned();
    // The value alone, byte for byte.
    assert_eq!(
        server.run(&["get", "user:1"]).lines,
        [r#"{"name":"Ada","x":1.0}"#]
    );
    let meta = &server.lines(&["get", "--meta", "user:1"])[0];
    assert_eq!(
        (&meta["etag"], &meta["expires_at"]),
        (&json!(etag), &json!(null))
    );

    // From a file, from standard input, as text.
    let file = folder.path().join("value.json");
    std::fs::write(&file, "[1,\n2]\n").unwrap();
    server.lines(&["set", "f", &format!("@{}", file.display())]);
    assert_eq!(server.run(&["get", "f"]).lines, ["[1,2]"]);
    let mut child = server
        .command(&["set", "s", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b" null ").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(server.run(&["get", "s"]).lines, ["null"]);
    server.lines(&["set", "t", "plain \"text\"", "--text"]);
    assert_eq!(server.run(&["get", "t"]).lines, [r#""plain \"text\"""#]);
    assert_eq!(server.run(&["get", "-r", "t"]).lines, ["plain \"text\""]);
    server.lines(&["set", "n", "-1"]);

    // Conditions and times to live.
    let late = server.run(&["set", "user:1", "2", "--if-absent"]);
    assert_eq!(late.code, 4, "{late:?}");
    assert!(late.errors.contains("kvstore get --meta"), "{late:?}");
    assert_eq!(
        server.run(&["set", "user:1", "2", "--if-match", "1"]).code,
        4
    );
    server.lines(&["set", "user:1", "2", "--if-match", &etag, "--ttl", "15m"]);
    let expires = |key: &str| server.lines(&["get", "--meta", key])[0]["expires_at"].clone();
    let before = expires("user:1");
    assert!(before.is_string());
    server.lines(&["set", "user:1", "3", "--ttl", "keep", "--if-match", "*"]);
    assert_eq!(expires("user:1"), before);
    let touched = &server.lines(&["touch", "user:1", "2h"])[0];
    assert_eq!(touched["expires_at"], expires("user:1"));
    assert_ne!(touched["expires_at"], before);
    assert_eq!(server.run(&["touch", "none", "2h"]).code, 3);

    // Numbers and patches.
    assert_eq!(server.lines(&["add", "hits"])[0]["value"], 1);
    assert_eq!(
        server.lines(&["add", "hits", "-5", "--ttl", "60"])[0]["value"],
        -4
    );
    assert_eq!(server.run(&["add", "t"]).code, 2);
    server.lines(&["merge", "m", r#"{"a":1,"b":2}"#]);
    server.lines(&["merge", "m", r#"{"a":null}"#]);
    assert_eq!(server.run(&["get", "m"]).lines, [r#"{"b":2}"#]);

    // Several keys, and absent ones.
    let several = server.run(&["get", "f", "none", "s", "nor"]);
    assert_eq!((several.code, several.lines.len()), (3, 2));
    assert!(several.errors.contains("none, nor"), "{several:?}");
    let gone = server.lines(&["delete", "f", "none"]);
    assert_eq!(
        (&gone[0]["deleted"], &gone[1]["deleted"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(server.run(&["delete", "none", "--if-match", "*"]).code, 4);
    assert_eq!(server.run(&["delete", "--prefix", ""]).code, 2);
    assert_eq!(
        server.lines(&["delete", "--prefix", "user:"]),
        [json!({"prefix": "user:", "deleted": 1})]
    );
    server.lines(&["delete", "--prefix", "", "--all"]);
    assert!(server.lines(&["list"]).is_empty());
}

#[test]
fn same_write_under_the_same_key_is_the_same_job() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(folder.path(), &[]);
    let add = ["add", "hits", "5", "--idempotency-key", "monday"];
    let (first, second) = (server.lines(&add), server.lines(&add));
    assert_eq!(first, second);
    assert_eq!(server.run(&["get", "hits"]).lines, ["5"]);
    assert_eq!(
        server
            .run(&["add", "hits", "6", "--idempotency-key", "monday"])
            .code,
        2
    );
    let queued = &server.lines(&["set", "a", "1", "--no-wait"])[0];
    assert_eq!(queued["status"], "queued");
    let job = queued["job_id"].as_str().unwrap();
    let job = &server.lines(&["jobs", "get", job, "--wait", "10s"])[0];
    assert_eq!(
        (&job["status"], &job["op"]),
        (&json!("succeeded"), &json!("set"))
    );
    assert_eq!(server.run(&["jobs", "get", "0123456789abcdef.0.1"]).code, 3);
    assert_eq!(
        server.run(&["jobs", "retry", "0123456789abcdef.0.1"]).code,
        3
    );
    assert_eq!(
        server.run(&["jobs", "forget", "0123456789abcdef.0.1"]).code,
        3
    );
    assert_eq!(
        server.lines(&["jobs", "retry", "--dead", "--all"]),
        [json!({"retried": 0})]
    );
    assert_eq!(
        server.lines(&["jobs", "forget", "--dead", "--all"]),
        [json!({"forgotten": 0})]
    );
    for list in [&["jobs", "list"][..], &["jobs", "list", "--dead"]] {
        assert!(server.lines(list).is_empty());
    }
    assert_eq!(
        server.lines(&["queue"]),
        [json!({"jobs": 0, "bytes": 0, "oldest_age_seconds": null, "dead": 0, "partitions": 1})]
    );
}

#[test]
fn waiting_jobs_are_shown() {
    let redis = RedisServer::start();
    // Nothing applies the jobs that it accepts.
    let server = Server::start(&redis.url(), &["--worker", "none"]);
    let set = server.run(&["set", "a", "1", "--no-wait"]);
    assert_eq!(set.code, 0, "{set:?}");
    let jobs = server.lines(&["jobs", "list"]);
    assert_eq!(
        (jobs.len(), &jobs[0]["key"], &jobs[0]["status"]),
        (1, &json!("a"), &json!("queued"))
    );
    assert!(jobs[0]["accepted_at"].is_string());
    let queue = &server.lines(&["queue"])[0];
    assert_eq!(queue["jobs"], 1);
    assert!(queue["oldest_age_seconds"].is_number());
    let waited = &server.lines(&["set", "b", "1", "--wait", "1s"])[0];
    assert_eq!(waited["status"], "queued");
}

#[test]
fn batch_takes_effect_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(&folder.path().join("database"), &[]);
    let operations = r#"[{"op":"set","key":"a","value":1.0},{"op":"add","key":"n","by":2},{"op":"delete","key":"x"}]"#;
    let made = server.lines(&["batch", operations]);
    assert_eq!(
        (&made[0]["created"], &made[1]["value"], &made[2]["deleted"]),
        (&json!(true), &json!(2), &json!(false))
    );
    let file = folder.path().join("batch");
    std::fs::write(&file, "{\"op\":\"set\",\"key\":\"b\",\"value\":1}\n{\"op\":\"check\",\"key\":\"a\",\"if_none_match\":\"*\"}\n").unwrap();
    let late = server.run(&["batch", &format!("@{}", file.display())]);
    assert_eq!(late.code, 4);
    assert!(late.errors.contains("\"a\""), "{late:?}");
    assert_eq!(server.run(&["get", "b"]).code, 3);
    assert_eq!(server.run(&["batch", "[]"]).code, 2);
    assert_eq!(server.run(&["batch", r#"{"op":"put","key":"a"}"#]).code, 2);
}

#[test]
fn terminal_gets_tables_and_a_pipe_lines() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(folder.path(), &[]);
    for key in ["a", "team/x/1", "team/x/2", "team/y", "z"] {
        server.lines(&["set", key, "\"v\""]);
    }
    let listed = server.lines(&["list", "team/", "--values"]);
    assert_eq!(listed.len(), 3);
    assert_eq!(
        (&listed[0]["key"], &listed[0]["value"], &listed[0]["size"]),
        (&json!("team/x/1"), &json!("v"), &json!(3))
    );
    assert_eq!(server.lines(&["list", "--limit", "2"]).len(), 2);
    assert_eq!(
        server.lines(&["list", "--count"]),
        [json!({"prefix": "", "count": 5})]
    );
    assert_eq!(
        server.lines(&["list", "--fold"]),
        [
            json!({"key": "a"}),
            json!({"prefix": "team/"}),
            json!({"key": "z"})
        ]
    );
    let plain = server.on_terminal("list", &[("NO_COLOR", "1")]);
    let lines: Vec<&str> = plain.lines().collect();
    assert!(lines[0].starts_with("KEY       ETAG"), "{plain}");
    assert!(lines[2].starts_with("team/x/1  "), "{plain}");
    assert_eq!(lines.len(), 6);
    let colored = server.on_terminal("list", &[]);
    assert!(colored.starts_with("\x1b[1mKEY"), "{colored:?}");
    assert_eq!(
        server.on_terminal("list --tree", &[]),
        "a  3 B\nteam/\n  x/\n    1  3 B\n    2  3 B\n  y  3 B\nz  3 B\n"
    );
    assert_eq!(
        server.run(&["list", "team/x/", "--tree"]).lines,
        ["team/", "  x/", "    1  3 B", "    2  3 B"]
    );
    // Either form can be requested.
    let json = server.on_terminal("list z -o json", &[]);
    assert_eq!(serde_json::from_str::<Json>(&json).unwrap()["key"], "z");
    assert!(server.run(&["list", "-o", "table"]).lines[0].starts_with("KEY"));
    // A reader that closes the pipe is no error.
    let head = format!("{} list -o table | true; echo ${{PIPESTATUS[0]}}", KVSTORE);
    let mut shell = clean(Command::new("bash"));
    shell.args(["-c", &head]).env("KVSTORE_URL", server.url());
    assert_eq!(ended(&mut shell).lines, ["0"]);
}

#[test]
fn output_that_cannot_be_written_is_not_taken_for_a_failed_write() {
    let server = Server::start("memory:", &[]);
    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    for args in [
        &["set", "k", "1"][..],
        &["get", "k"],
        &["list"],
        &["export", "-"],
    ] {
        let output = server.command(args).stdout(full()).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {errors}");
        assert!(
            errors.starts_with("error: standard output cannot be written: "),
            "{args:?}: {errors}"
        );
    }
    assert_eq!(server.run(&["get", "k"]).lines, ["1"]);
    // A folder as standard input.
    let mut set = server.command(&["set", "k", "-"]);
    let folder = std::fs::File::open("/").unwrap();
    let output = set.stdin(folder).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("standard input cannot be read"), "{errors}");
}

#[test]
fn errors_say_once_what_is_wrong() {
    let server = Server::start("memory:", &[]);
    let base = format!("{}/v1", server.url());
    let ended = server.run(&["--url", &base, "get", "k"]);
    assert_eq!(ended.code, 2, "{}", ended.errors);
    assert!(
        ended
            .errors
            .contains("no kvstore server of this version answers there"),
        "{}",
        ended.errors
    );
    let ended = server.run(&["watch", "--since", "junk"]);
    assert_eq!(ended.code, 2, "{}", ended.errors);
    assert_eq!(
        ended.errors.matches("is invalid").count(),
        1,
        "{}",
        ended.errors
    );
}

#[test]
fn watch_continues_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::in_folder(folder.path(), &[]);
    server.lines(&["set", "w/0", "0"]);
    let mut command = server.command(&["watch", "w/", "--snapshot", "--values"]);
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Json>(&lines.next().unwrap().unwrap()).unwrap();
    let present = next();
    assert_eq!(
        (&present["event"], &present["value"]),
        (&json!("present"), &json!(0))
    );
    assert_eq!(next(), json!({"event": "synced"}));
    server.lines(&["set", "w/1", "1"]);
    let set = next();
    assert_eq!(
        (&set["event"], &set["key"], &set["value"]),
        (&json!("set"), &json!("w/1"), &json!(1))
    );
    server.kill_and_restart();
    assert!(server.process.serves_or_ends());
    server.lines(&["delete", "w/1"]);
    // The history may not survive a kill: then the watch begins with the existing entries.
    let seen = next();
    match seen["event"].as_str() {
        Some("reset") => {
            assert_eq!(next()["key"], "w/0");
            assert_eq!(next(), json!({"event": "synced"}));
        }
        _ => assert_eq!(
            (&seen["event"], &seen["key"]),
            (&json!("delete"), &json!("w/1"))
        ),
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn entries_go_to_a_file_and_from_there_to_another_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let from = Server::in_folder(&folder.path().join("from"), &[]);
    let mut lines = String::new();
    for number in 0..1500 {
        lines += &format!("{{\"key\":\"n/{number:04}\",\"value\":{number}.0}}\n");
    }
    std::fs::write(folder.path().join("all.ndjson"), &lines).unwrap();
    let totals = |written, equal, kept| json!({"written": written, "equal": equal, "kept": kept, "expired": 0});
    assert_eq!(
        from.lines(&["import", &path("all.ndjson")]),
        [totals(1500, 0, 0)]
    );
    assert_eq!(
        from.lines(&["import", &path("all.ndjson")]),
        [totals(0, 1500, 0)],
        "run again"
    );
    from.lines(&["set", "session", "1", "--ttl", "1h"]);
    from.lines(&["set", "n/0007", "null"]);
    assert_eq!(
        from.lines(&["import", &path("all.ndjson"), "--keep"]),
        [totals(0, 1499, 1)]
    );

    assert_eq!(
        from.lines(&["export", &path("out.ndjson")]),
        [json!({"exported": 1501})]
    );
    let again = from.run(&["export", &path("out.ndjson")]);
    assert_eq!(again.code, 2, "a file that is there stays: {again:?}");
    let to = Server::in_folder(&folder.path().join("to"), &[]);
    assert_eq!(
        to.lines(&["import", &path("out.ndjson")]),
        [totals(1501, 0, 0)]
    );
    assert_eq!(
        to.lines(&["import", &path("out.ndjson")]),
        [totals(0, 1501, 0)],
        "the deadline is equal, too"
    );
    let deadline = |server: &Server| {
        let entry = server.lines(&["get", "--meta", "session"]);
        humantime::parse_rfc3339(entry[0]["expires_at"].as_str().unwrap()).unwrap()
    };
    let later = deadline(&to).duration_since(deadline(&from)).unwrap();
    assert!(later < Duration::from_secs(3), "{later:?}");
    assert_eq!(to.run(&["get", "n/0001", "n/0007"]).lines.len(), 2);
    assert_eq!(to.run(&["get", "n/0001"]).lines, ["1.0"], "byte for byte");

    // As one object, by standard input and output.
    let object = to.run(&["export", "--format", "json", "--prefix", "n/000"]);
    let parsed: Json = serde_json::from_str(&object.lines.join("")).unwrap();
    assert_eq!(parsed.as_object().unwrap().len(), 10);
    std::fs::write(folder.path().join("one.json"), object.lines.join("\n")).unwrap();
    let third = Server::in_folder(&folder.path().join("third"), &[]);
    assert_eq!(
        third.lines(&["import", &path("one.json")]),
        [totals(10, 0, 0)]
    );

    // Invalid lines are named, and nothing is written.
    std::fs::write(
        folder.path().join("bad.ndjson"),
        "{\"key\":\"x\",\"value\":1}\n{\"key\":\"\",\"value\":1}\n",
    )
    .unwrap();
    let bad = third.run(&["import", &path("bad.ndjson")]);
    assert_eq!(bad.code, 2);
    assert!(bad.errors.contains("line 2 column 8"), "{bad:?}");
    assert_eq!(third.run(&["get", "x"]).code, 3);
    assert_eq!(third.run(&["import", &path("none.ndjson")]).code, 2);
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    // sha256sum of "secret"
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    std::fs::write(&tokens, format!("reader:{hash}:r\n")).unwrap();
    let server = Server::in_folder(
        &folder.path().join("database"),
        &["--tokens-file", tokens.to_str().unwrap()],
    );
    let denied = server.run(&["get", "a"]);
    assert_eq!(denied.code, 7, "{denied:?}");
    assert!(denied.errors.contains("KVSTORE_TOKEN"), "{denied:?}");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "secret\n").unwrap();
    let secret = secret.to_str().unwrap();
    assert_eq!(server.run(&["get", "a", "--token-file", secret]).code, 3);
    assert_eq!(
        ended(server.command(&["get", "a"]).env("KVSTORE_TOKEN", "secret")).code,
        3
    );
    assert_eq!(
        server.run(&["set", "a", "1", "--token-file", secret]).code,
        7
    );

    let nowhere = "http://127.0.0.1:1";
    for command in [&["get", "a"][..], &["set", "a", "1"], &["watch"]] {
        let mut args = vec!["--url", nowhere, "--retry-for", "0s"];
        args.extend(command);
        let down = server.run(&args);
        assert_eq!(down.code, 5, "{down:?}");
        assert!(
            down.errors.contains("kvstore-http") && down.errors.contains(nowhere),
            "{down:?}"
        );
    }
    for (args, words) in [
        (&["set", "a", "Ada"][..], "--text"),
        (&["set", "a", "@/none"], "/none"),
        (&["set", "a//b", "1"], "a//b"),
        (&["set", "a", "1", "--ttl", "soon"], "15m"),
        (&["set", "a", "1", "--if-match", "x"], "etag"),
        (&["get", "a", "--url", "localhost:8000"], "http://HOST:PORT"),
        (&["list", "--tree", "-o", "json"], "for people"),
        (&["delete", "--prefix", "a", "--no-wait"], "cannot be used"),
        (&["jobs", "retry"], "required"),
        (&["watch", "--events", "put"], "delete or expire"),
        (&["get", "a", "--token-file", "/none"], "/none"),
    ] {
        let wrong = server.run(args);
        assert_eq!(wrong.code, 2, "{args:?}: {wrong:?}");
        assert!(wrong.errors.contains(words), "{args:?}: {wrong:?}");
    }
    let help = server.run(&["--help"]);
    assert!(
        help.lines
            .iter()
            .any(|line| line.contains("a condition did not hold")),
        "{help:?}"
    );
}

#[test]
fn completions_and_man_pages_come_from_the_definition() {
    let folder = tempfile::tempdir().unwrap();
    let mut kvstore = clean(Command::new(KVSTORE));
    let man = ended(kvstore.args(["man", folder.path().to_str().unwrap()]));
    assert_eq!(man.code, 0, "{man:?}");
    let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(page("kvstore.1").contains("condition did not hold"));
    assert!(page("kvstore-set.1").contains("if\\-absent"));
    assert!(page("kvstore-jobs-retry.1").contains("dead letters"));
    for (shell, check) in [("bash", true), ("zsh", false), ("fish", false)] {
        let mut kvstore = clean(Command::new(KVSTORE));
        let script = ended(kvstore.args(["completions", shell]));
        let text = script.lines.join("\n");
        assert!(
            text.contains("if-absent") && text.contains("jobs"),
            "{shell}"
        );
        if check {
            let mut bash = clean(Command::new("bash"));
            assert!(bash.args(["-nc", &text]).status().unwrap().success());
        }
    }
}

#[test]
fn a_token_is_printed_alone_and_its_line_goes_into_the_file_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    // As an editor leaves it that does not end the last line.
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    std::fs::write(&tokens, format!("old:{hash}:r")).unwrap();
    let file = tokens.to_str().unwrap();
    let make = |args: &[&str]| {
        let made = kvstore(&[&["token", "--tokens-file", file], args].concat());
        assert_eq!((made.code, &*made.errors), (0, ""), "{made:?}");
        made.lines.concat()
    };
    let writer = make(&["writer"]);
    let team = make(&["team", "--rights", "r", "--keys", "team/"]);
    let text = std::fs::read_to_string(&tokens).unwrap();
    assert!(
        !text.contains(&writer) && text.lines().count() == 3,
        "{text}"
    );
    let server = Server::start("memory:", &["--tokens-file", file]);
    let run =
        |token: &str, args: &[&str]| ended(server.command(args).env("KVSTORE_TOKEN", token)).code;
    assert_eq!(run(&writer, &["set", "team/a", "1"]), 0);
    assert_eq!(run(&team, &["get", "team/a"]), 0);
    assert_eq!(run(&team, &["set", "team/a", "2"]), 7);
    assert_eq!(run(&team, &["get", "other"]), 7);
    assert_eq!(run("secret", &["get", "team/a"]), 0, "the old one");

    // An invalid one is rejected, and the file stays as it is.
    let text = std::fs::read_to_string(&tokens).unwrap();
    for args in [
        &["a b"][..],
        &["writer"],
        &["a", "--rights", "w"],
        &["a", "--keys", "x\ny"],
        &[],
    ] {
        let refused = kvstore(&[&["token", "--tokens-file", file], args].concat());
        assert_eq!(
            (refused.code, refused.lines.len()),
            (2, 0),
            "{args:?}: {refused:?}"
        );
    }
    assert_eq!(kvstore(&["token", "a"]).code, 2, "no file");
    assert_eq!(std::fs::read_to_string(&tokens).unwrap(), text);
    let made = folder.path().join("made");
    assert_eq!(
        kvstore(&["token", "a", "--tokens-file", made.to_str().unwrap()]).code,
        0
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(&made.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn health_shows_whether_a_server_is_ready() {
    let mut server = Server::start("memory:", &["--drain-delay", "60s"]);
    let (address, port) = (server.address.to_string(), server.address.port());
    let health = |listen: &str| kvstore(&["health", "--listen", listen]);
    for listen in [
        address.clone(),
        format!("localhost:{port}"),
        port.to_string(),
        format!(":{port}"),
    ] {
        let ready = health(&listen);
        assert_eq!(
            (ready.code, &ready.lines[..]),
            (0, &["ready".to_owned()][..]),
            "{listen}"
        );
    }
    assert_eq!(health(&format!("0.0.0.0:{port}")).code, 0);
    assert_eq!(server.run(&["health"]).code, 0, "by KVSTORE_URL");
    // As in an image, where all programs share one environment.
    let mut command = clean(Command::new(KVSTORE));
    command.arg("health").env("KVSTORE_LISTEN", "127.0.0.1:1");
    assert_eq!(ended(&mut command).code, 1);
    assert_eq!(ended(command.env("KVSTORE_ADMIN_LISTEN", &address)).code, 0);

    server.process.signal("TERM");
    let begun = std::time::Instant::now();
    while health(&address).code == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it stays ready");
    }
    let draining = health(&address);
    assert_eq!(draining.code, 1);
    assert!(draining.errors.contains("is not ready: "), "{draining:?}");
    server.kill();
    let gone = health(&address);
    assert_eq!(gone.code, 1);
    assert!(gone.errors.contains(&address), "{gone:?}");
}

#[test]
fn a_password_in_an_argument_is_not_repeated() {
    for url in [
        "redish://:Qx7Zj@h",
        "redis://:Qx7Zj@h:1?x=1",
        "redis://h?password=Qx7Zj",
        "http://u:Qx7Zj@h",
    ] {
        for args in [
            &["verify", url][..],
            &["status", "file:database", url],
            &["import", url, "--to", "memory:", "--none"],
            &["import", "a", "--to", url],
            &["export", "--from", url, "--format", "x"],
            &["get", "a", "--url", url],
            &[url],
        ] {
            let refused = kvstore(args);
            assert_ne!(refused.code, 0, "{args:?}");
            assert!(!refused.errors.contains("Qx7Zj"), "{args:?}: {refused:?}");
        }
    }
}
