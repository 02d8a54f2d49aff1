//! Does the real program admit exactly the tokens in its file?

use std::fs;
use std::time::Duration;

use crate::support::tokens::add_token;
use kvstore_testing::client::{Connection, Reply, request};
use kvstore_testing::process::{Process, run};

async fn ask(process: &Process, method: &str, target: &str, secret: &str) -> Reply {
    let asks = request(method, target).header("authorization", &format!("Bearer {secret}"));
    let asks = if method == "PUT" {
        asks.body("1")
    } else {
        asks
    };
    Connection::open(process.address).await.ask(&asks).await
}

#[tokio::test]
async fn tokens_are_made_let_in_exchanged_and_never_logged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let writer = add_token(&file, "writer", "rw", "");
    let team = add_token(&file, "team", "r", "team/");
    assert_ne!(writer, team);
    let path = file.to_str().unwrap();
    let args = [
        "--store",
        "memory:",
        "--tokens-file",
        path,
        "--log",
        "trace",
    ];
    let mut process = Process::start(&args);
    let of_today = process.logged("only these tokens are let in");
    assert_eq!(
        (&of_today["tokens"], &of_today["path"]),
        (&2.into(), &path.into())
    );

    assert_eq!(
        ask(&process, "PUT", "/v1/kv/team/a", &writer).await.status,
        201
    );
    assert_eq!(
        ask(&process, "GET", "/v1/kv/team/a", &team).await.status,
        200
    );
    assert_eq!(
        ask(&process, "PUT", "/v1/kv/team/a", &team).await.status,
        403
    );
    assert_eq!(
        ask(&process, "GET", "/v1/kv/other", &team).await.status,
        403
    );
    let wrong = "a-token-that-nobody-has";
    assert_eq!(
        ask(&process, "GET", "/v1/kv/team/a", wrong).await.status,
        401
    );

    // One token is added, another one removed.
    let kept = fs::read_to_string(&file).unwrap();
    fs::write(&file, kept.lines().next().unwrap().to_owned() + "\n").unwrap();
    let newer = add_token(&file, "newer", "rw", "");
    process.signal("HUP");
    process.logged("the tokens were read again");
    assert_eq!(
        ask(&process, "GET", "/v1/kv/team/a", &newer).await.status,
        200
    );
    assert_eq!(
        ask(&process, "GET", "/v1/kv/team/a", &writer).await.status,
        200
    );
    assert_eq!(
        ask(&process, "GET", "/v1/kv/team/a", &team).await.status,
        401
    );

    // The file is also reloaded without a signal, as when a mounted Secret is replaced.
    let later = add_token(&file, "later", "rw", "");
    let exchanged = async {
        while ask(&process, "GET", "/v1/kv/team/a", &later).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), exchanged)
        .await
        .expect("the file is noticed");

    // A bad file changes nothing.
    fs::write(&file, "newer:abc:rw\n").unwrap();
    process.signal("HUP");
    let error = process.logged("the tokens stay as they were");
    let reason = error["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("line 1: ") && error["path"] == path,
        "{error}"
    );
    assert_eq!(
        ask(&process, "GET", "/v1/kv/team/a", &newer).await.status,
        200
    );

    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0));
    let log = process.whole_log();
    assert!(
        log.iter().any(|fields| fields["level"] == "DEBUG"),
        "{log:#?}"
    );
    for fields in log {
        let line = fields.to_string();
        for secret in [&writer, &team, &newer, wrong] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[test]
fn file_that_is_wrong_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let path = file.to_str().unwrap();
    let refused = || {
        let ended = run(&["--store", "memory:", "--tokens-file", path], &[]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let [problem] = &ended.stderr[..] else {
            panic!("{ended:?}");
        };
        assert!(
            problem.starts_with("error: --tokens-file (KVSTORE_TOKENS_FILE) is "),
            "{problem}"
        );
        assert!(problem.contains(path), "{problem}");
        problem.clone()
    };
    assert!(refused().contains("No such file"));
    fs::write(&file, "# nobody yet\n").unwrap();
    assert!(refused().contains("there is no token in it"));
    add_token(&file, "ada", "rw", "");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{good}\nada b:c\nada\n")).unwrap();
    let problem = refused();
    assert!(
        problem.contains("line 4: ") && problem.contains("line 5: "),
        "{problem}"
    );
    fs::write(&file, format!("{good}{good}")).unwrap();
    assert!(refused().contains("line 4: ada has the same name or token as ada above it"));
}

#[tokio::test]
async fn other_machines_are_served_without_more_words_where_there_are_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let secret = add_token(&file, "ada", "rw", "");
    let args = [
        "--store",
        "memory:",
        "--listen",
        "0.0.0.0:0",
        "--tokens-file",
    ];
    let mut process = Process::start(&[&args[..], &[file.to_str().unwrap()]].concat());
    process.address.set_ip([127, 0, 0, 1].into());
    assert_eq!(ask(&process, "GET", "/v1/kv/a", "").await.status, 401);
    assert_eq!(ask(&process, "GET", "/v1/kv/a", &secret).await.status, 404);
    process.signal("TERM");
    process.ended();
    let warnings = process.whole_log();
    assert!(
        !warnings.iter().any(|fields| fields["level"] == "WARN"),
        "{warnings:#?}"
    );
}

/// Probes and metrics on a separate address need no token, since supervisors send none.
#[tokio::test]
async fn admin_address_asks_for_no_token_and_has_no_data() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    add_token(&file, "ada", "rw", "");
    let path = file.to_str().unwrap();
    let args = [
        "--store",
        "memory:",
        "--admin-listen",
        "127.0.0.1:0",
        "--tokens-file",
        path,
    ];
    let process = Process::start(&args);
    let mut admin = Connection::open(process.logged_address("answering probes")).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(admin.ask(&request("GET", path)).await.status, 200, "{path}");
    }
    for path in ["/v1/kv/a", "/get/a", "/v1/jobs/a"] {
        assert_eq!(admin.ask(&request("GET", path)).await.status, 404, "{path}");
    }
    // The server's own metrics are there, too.
    assert_eq!(ask(&process, "GET", "/v1/kv/a", "").await.status, 401);
    let metrics = admin.ask(&request("GET", "/metrics")).await;
    let counted = r#"kvstore_http_request_duration_seconds_count{route="/v1/kv/{key}",method="GET",status="4xx"} 1"#;
    assert!(metrics.text().contains(counted), "{}", metrics.text());
}
