//! How does the real server handle public collections of texts that have broken other programs? The
//! JSONTestSuite (texts that a JSON parser must accept or refuse) as values, the Big List of
//! Naughty Strings as values and as keys: each gets the right status and keeps its bytes, even
//! after a kill and after a clean end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use kvstore_testing::client::{Connection, request};
use kvstore_testing::process::Process;
use naughty_strings::BLNS;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Returns the cases by name: those that begin with `y_` are JSON, those that begin with `n_` are
/// not.
fn json_cases() -> BTreeMap<String, Vec<u8>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo is there");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let packages = metadata["packages"].as_array().expect("a list");
    let package = packages.iter().find(|package| package["name"] == "trivet");
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let folder = PathBuf::from(manifest.expect("it is in Cargo.toml"));
    let folder = folder.with_file_name("test").join("json_test_cases");
    std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| name.starts_with("y_") || name.starts_with("n_"))
        .map(|(name, path)| (name, std::fs::read(path).unwrap()))
        .collect()
}

/// Removes the white space between the tokens of a JSON text.
fn compact(text: &[u8]) -> Vec<u8> {
    let (mut in_string, mut is_escaped) = (false, false);
    let keep = |byte: &u8| {
        if in_string {
            in_string = is_escaped || *byte != b'"';
            is_escaped = !is_escaped && *byte == b'\\';
            return true;
        }
        in_string = *byte == b'"';
        !matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
    };
    text.iter().copied().filter(keep).collect()
}

/// Checks the rules for keys, implemented independently of the server.
fn may_be_key(text: &str) -> bool {
    (1..=512).contains(&text.chars().count())
        && !text.contains(char::is_control)
        && text.split('/').all(|part| !["", ".", ".."].contains(&part))
}

fn path(key: &str) -> String {
    format!("/v1/kv/{}", utf8_percent_encode(key, NON_ALPHANUMERIC))
}

/// The stored values by key.
type Stored = BTreeMap<String, Vec<u8>>;

async fn check(process: &Process, stored: &Stored) {
    let mut connection = Connection::open(process.address).await;
    for (key, value) in stored {
        let read = connection.ask(&request("GET", &path(key))).await;
        assert_eq!(read.status, 200, "{key:?}");
        assert!(
            read.body == *value,
            "{key:?} is {:?}",
            read.body.escape_ascii().to_string()
        );
    }
}

/// Checks the values after a kill and after a clean end.
async fn check_through_restarts(mut process: Process, store: &str, stored: &Stored) {
    check(&process, stored).await;
    process.kill();
    let mut process = Process::start(&["--store", store]);
    check(&process, stored).await;
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0));
    assert!(process.errors().is_empty());
    // Any other parser can read the remaining file, too.
    let file = std::fs::read(PathBuf::from(&store["file:".len()..]).join("data.json")).unwrap();
    let file: BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_slice(&file).unwrap();
    assert_eq!(file.len(), stored.len());
    for (key, value) in stored {
        assert!(file[key].get().as_bytes() == value, "{key:?}");
    }
    let process = Process::start(&["--store", store]);
    check(&process, stored).await;
    let metrics = Connection::open(process.address)
        .await
        .ask(&request("GET", "/metrics"))
        .await;
    assert!(metrics.text().contains("\nkvstore_http_panics_total 0\n"));
}

#[tokio::test]
async fn json_test_suite_is_taken_and_refused_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let process = Process::start(&["--store", &store]);
    let mut connection = Connection::open(process.address).await;
    let mut stored = Stored::new();
    let cases = json_cases();
    let count = |start: &str| cases.keys().filter(|name| name.starts_with(start)).count();
    assert_eq!((count("y_"), count("n_")), (95, 186));
    for (name, text) in cases {
        let raw = connection
            .ask(&request("PUT", &path(&name)).body(&*text))
            .await;
        let key = format!("set/{name}");
        let set = [
            format!("{{\"key\":\"{key}\",\"value\":").as_bytes(),
            &text,
            b"}",
        ]
        .concat();
        let set = request("POST", "/set")
            .header("prefer", "wait=20")
            .body(set);
        let set = connection.ask(&set).await;
        if name.starts_with("y_") {
            assert_eq!(
                (raw.status, set.status),
                (201, 200),
                "{name}: {raw:?} {set:?}"
            );
            stored.insert(key, compact(&text));
            stored.insert(name, compact(&text));
        } else {
            assert_eq!(
                (raw.status, set.status),
                (422, 422),
                "{name}: {raw:?} {set:?}"
            );
            assert_eq!(raw.json()["type"], "/problems/invalid", "{name}");
            assert_eq!(
                connection.ask(&request("GET", &path(&name))).await.status,
                404
            );
        }
    }
    check_through_restarts(process, &store, &stored).await;
}

#[tokio::test]
async fn naughty_strings_are_values_and_keys_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let process = Process::start(&["--store", &store]);
    let mut connection = Connection::open(process.address).await;
    let (mut stored, mut refused) = (Stored::new(), 0);
    for (text, number) in BLNS.iter().zip(0..) {
        // As a value in two spellings: unchanged, and with every character escaped.
        let plain = serde_json::to_string(text).unwrap();
        let escaped: String = text
            .encode_utf16()
            .map(|unit| format!("\\u{unit:04X}"))
            .collect();
        for (kind, value) in [
            ("plain", plain.clone()),
            ("escaped", format!("\"{escaped}\"")),
        ] {
            let key = format!("value/{kind}/{number}");
            let put = connection
                .ask(&request("PUT", &path(&key)).body(&*value))
                .await;
            assert_eq!(put.status, 201, "{text:?}");
            stored.insert(key, value.into_bytes());
        }
        // As a key, on both faces.
        let put = connection
            .ask(&request("PUT", &path(text)).body(&*plain))
            .await;
        let set = format!("{{\"key\":{plain},\"value\":{plain}}}");
        let set = request("POST", "/set")
            .header("prefer", "wait=20")
            .body(set);
        let set = connection.ask(&set).await;
        if may_be_key(text) {
            assert!([200, 201].contains(&put.status), "{text:?}: {put:?}");
            assert_eq!(set.status, 200, "{text:?}: {set:?}");
            assert_eq!(
                (&put.json()["key"], &set.json()["key"]),
                (&(*text).into(), &(*text).into())
            );
            stored.insert((*text).to_owned(), plain.into_bytes());
        } else {
            assert_eq!(
                (put.status, set.status),
                (422, 422),
                "{text:?}: {put:?} {set:?}"
            );
            refused += 1;
        }
    }
    println!("{} strings, {refused} of which cannot be keys", BLNS.len());
    assert!(BLNS.len() > 400 && refused > 0 && refused < 50);
    check_through_restarts(process, &store, &stored).await;
}
