//! Does each URL mean what its writer intended, and does it never leak its password? (In the crate,
//! to see the parsed form.)

use std::path::Path;

use proptest::prelude::*;

use super::url::Target;
use super::{StoreUrl, open};
use crate::error::{Error, Result};
use crate::limits::{CHANGES_MAX, QUEUE_JOBS_DEFAULT};
use crate::model::command::{Command, Operation};
use crate::model::job::NewJob;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::store::Retention;

fn parsed(url: &str) -> StoreUrl {
    url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn message(result: Result<impl std::fmt::Debug>) -> String {
    match result {
        Err(Error::Config(message)) => message,
        other => panic!("{other:?} is not a wrong setting"),
    }
}

#[test]
fn folder_is_everything_between_scheme_and_parameters() {
    for (url, folder) in [
        ("file:database", "database"),
        ("file:./a/b", "./a/b"),
        ("file:../a", "../a"),
        ("file:/var/lib/kvstore", "/var/lib/kvstore"),
        ("file:///var/lib/kvstore", "/var/lib/kvstore"),
        ("file:with space and %20", "with space and %20"),
        ("file:C:old", "C:old"),
        ("file:database?", "database"),
    ] {
        assert_eq!(parsed(url).folder(), Some(Path::new(folder)), "{url}");
    }
}

#[test]
fn stores_that_cannot_be_followed_are_rejected() {
    for (url, part) in [
        ("memory:", "belongs to one process"),
        ("redis://host", "needs no follower"),
        ("file:x?keep_edit=true", "takes none"),
    ] {
        let reason = message(parsed(url).folder_to_follow());
        assert!(reason.contains(part), "{url}: {reason}");
    }
    let folder = parsed("file:x");
    assert_eq!(folder.folder_to_follow().unwrap(), Path::new("x"));
}

#[test]
fn parameters_are_taken() {
    let url = parsed(
        "file:x?data_bytes=2GiB&queue_jobs=7&queue_bytes=64KiB&snapshot_bytes=1MiB&keep_edit=true&apply_on_acceptance=false&changes=3&outcomes=4&dead_letters=5",
    );
    let Target::File(file) = &url.target else {
        panic!("{url} is a folder");
    };
    let options = file.options(Some(1000));
    assert_eq!(options.data_bytes_max, Some(2 << 30));
    assert_eq!(options.snapshot_bytes_min, 1 << 20);
    assert!(options.keep_edit);
    assert!(!options.apply_on_acceptance);
    let retention = Retention {
        changes: 3,
        outcomes: 4,
        dead_letters: 5,
    };
    assert_eq!(options.retention, retention);
    assert_eq!(
        (options.queue.jobs_max, options.queue.bytes_max),
        (7, 65536)
    );

    let Target::File(file) = parsed("file:x").target else {
        panic!("a folder");
    };
    assert_eq!(file.options(Some(1000)).data_bytes_max, Some(500));
    assert_eq!(file.options(None).data_bytes_max, None);

    let url = parsed("memory:?partitions=8&outcomes=4");
    let Target::Memory {
        partitions,
        queue,
        retention,
    } = url.target
    else {
        panic!("{url} is in memory");
    };
    let options = queue.options(partitions);
    assert_eq!(options.partitions.get(), 8);
    assert_eq!(options.jobs_max, QUEUE_JOBS_DEFAULT);
    assert_eq!((retention.outcomes, retention.changes), (4, CHANGES_MAX));
}

#[test]
fn errors_name_what_is_wrong() {
    for (url, part) in [
        ("", "file:database"),
        ("database", "file:database"),
        ("./x/data.json", "file:database"),
        ("/x:y", "file:database"),
        (
            "valkey://localhost",
            "redis+unix:, redis+cluster: or rediss+cluster:",
        ),
        (
            "redis://localhost?ca_file=ca.crt",
            "use a URL that begins with rediss:",
        ),
        (
            "rediss://localhost?key_file=x",
            "cert_file and key_file go together",
        ),
        ("redis://localhost?wait_replicas=0", "it must be at least 1"),
        ("FILE:x", "expected file:, memory:"),
        (
            "redis://localhost?durability=none",
            "neither relaxed nor checked",
        ),
        (
            "redis://localhost?data_bytes=1",
            "it has an unknown parameter",
        ),
        ("file:", "a folder must follow"),
        ("file://", "an absolute path must follow"),
        ("file://host/path", "an absolute path must follow"),
        ("memory:x", "no path"),
        ("memory:?partitions=0", "from 1 to 65535"),
        ("memory:?partitions=65536", "from 1 to 65535"),
        ("memory:?partitions=", "from 1 to 65535"),
        ("memory:?data_bytes=1", "it has an unknown parameter"),
        ("file:x?partitions=1", "it has an unknown parameter"),
        (
            "file:x?password=hunter2",
            "it has an unknown parameter: expected data_bytes,",
        ),
        ("file:x?queue_jobs", "has no value"),
        ("file:x?queue_jobs=1&queue_jobs=1", "twice"),
        ("file:x?queue_jobs=0", "at least 1"),
        ("file:x?queue_jobs=-1", "queue_jobs"),
        ("file:x?queue_bytes=1KB", "64MiB"),
        ("file:x?data_bytes=+1", "64MiB"),
        ("file:x?snapshot_bytes=0", "at least 1"),
        ("file:x?keep_edit=1", "neither true nor false"),
        ("memory:?keep_edit=true", "it has an unknown parameter"),
        ("file:x?data_bytes=99999999999TiB", "64MiB"),
    ] {
        let message = message(url.parse::<StoreUrl>());
        assert!(message.contains(part), "{url}: {message}");
        assert!(!message.contains("hunter2"), "{url}: {message}");
    }
}

#[test]
fn server_address_is_checked_before_opening() {
    for (url, shown) in [
        ("redis://localhost", "redis://localhost"),
        (
            "redis://:secret@10.0.0.1:6380/2?prefix=x&partitions=8&durability=relaxed",
            "redis://***@10.0.0.1:6380/2?prefix=x&partitions=8&durability=relaxed",
        ),
        ("redis://user:secret@host", "redis://***@host"),
        ("redis://secret@host", "redis://***@host"),
        ("redis://:sec@ret@host", "redis://***@host"),
        (
            "redis+unix:///run/redis.sock?password_file=/run/a@b/c",
            "redis+unix:///run/redis.sock?password_file=/run/a@b/c",
        ),
        (
            "redis+cluster://one:7000,two:7000,three?prefix=x",
            "redis+cluster://one:7000,two:7000,three?prefix=x",
        ),
        (
            "redis+cluster://:sec,ret@one:7000,two:7001?partitions=8",
            "redis+cluster://***@one:7000,two:7001?partitions=8",
        ),
        (
            "rediss+cluster://:p@[::1]:7000",
            "rediss+cluster://***@[::1]:7000",
        ),
    ] {
        let url = parsed(url);
        assert_eq!(url.to_string(), shown);
        assert_eq!(format!("{url:?}"), format!("{shown:?}"));
        assert!(url.is_shared());
    }
    for url in [
        "redis:localhost",
        "redis://host:x",
        "redis://:hunter2@",
        "redis://:hunter2#x@host",
        "redis://user:1#hunter2@host",
        "redis://:hunter2@host#x",
        "redis://:x@y/hunter2@host",
        "redis+cluster://",
        "redis+cluster://:hunter2@one,",
        "redis+cluster://:hunter2@one,two/0",
    ] {
        let message = message(url.parse::<StoreUrl>());
        assert!(
            message.contains("redis://[:password@]host"),
            "{url}: {message}"
        );
        assert!(!message.contains("hunter2"), "{url}: {message}");
    }
    let url = parsed("rediss://localhost?ca_file=/not/there");
    let Target::Redis(target) = &url.target else {
        panic!("{url} is a server");
    };
    let message = message(target.options());
    assert!(message.contains("/not/there cannot be read"), "{message}");
}

/// Fragments that occur nowhere else, around every character that has a meaning in a URL.
fn password() -> impl Strategy<Value = (Vec<String>, String)> {
    let piece = "[GJQXZ][gjqxz][0-9][GJQXZ][gjqxz]";
    let mark = prop_oneof![
        4 => proptest::sample::select(vec!["@", "/", "?", "#", "%", ":", " ", "&", "=", ",", "\\", "ä", "\u{1F511}", "://", "@/", "?a=", "%4", "\t", "\n", ".", "[", "'", "\""]),
        1 => any::<char>().prop_map(|mark| mark.to_string().leak() as &str),
    ];
    (
        proptest::collection::vec((mark, piece), 1..4),
        proptest::bool::ANY,
    )
        .prop_map(|(parts, is_first)| {
            let pieces = parts.iter().map(|(_, piece)| piece.clone()).collect();
            let text = parts.iter().map(|(mark, piece)| match is_first {
                true => format!("{piece}{mark}"),
                false => format!("{mark}{piece}"),
            });
            (pieces, text.collect())
        })
}

/// Where a password belongs in a URL, and where people put it by mistake.
const PLACES: &[&str] = &[
    "redis://:PW@127.0.0.1:1/0",
    "redis://:PW@127.0.0.1:1/0?prefix=x&partitions=3",
    "redis://user:PW@127.0.0.1:1",
    "redis://PW@127.0.0.1:1",
    "rediss://:PW@127.0.0.1:1",
    "redis+cluster://:PW@127.0.0.1:1,127.0.0.1:2",
    "rediss+cluster://:PW@127.0.0.1:1,127.0.0.1:2",
    "redis:/:PW@127.0.0.1:1",
    "redis:PW@127.0.0.1:1",
    "redish://:PW@127.0.0.1:1",
    "redis://:PW@127.0.0.1:port",
    "redis://:PW@127.0.0.1:1/zero",
    "redis://:PW@127.0.0.1:1?password_file",
    "redis://127.0.0.1:1?password=PW",
    "redis://127.0.0.1:1?PW",
    "redis://127.0.0.1:1?PW=1",
    "redis://127.0.0.1:1?queue_jobs=PW",
    "redis://127.0.0.1:1?durability=PW",
    "redis+unix://:PW@/nowhere?partitions=0",
    "file:x?password=PW",
    "memory:PW",
    "PW",
    ":PW@127.0.0.1",
    "PW:x",
];

proptest! {
    #[test]
    fn no_piece_of_a_password_is_shown((pieces, password) in password()) {
        for place in PLACES {
            let url = place.replace("PW", &password);
            let mut shown = Vec::new();
            match url.parse::<StoreUrl>() {
                Ok(parsed) => {
                    shown.extend([format!("{parsed}"), format!("{parsed:?}")]);
                    for other in ["memory:", "file:x", "redis://a"] {
                        let other: StoreUrl = other.parse().unwrap();
                        let checks = [parsed.check_queue(&other), other.check_queue(&parsed)];
                        shown.extend(checks.map(|check| format!("{check:?}")));
                    }
                    shown.push(format!("{:?}", parsed.folder_to_follow()));
                }
                Err(error) => shown.extend([format!("{error}"), format!("{error:?}")]),
            }
            for text in shown {
                for piece in &pieces {
                    prop_assert!(!text.contains(piece), "{url}: {text}");
                }
            }
        }
    }
}

#[test]
fn queue_must_match_its_store() {
    let check = |store: &str, queue: &str| parsed(store).check_queue(&parsed(queue));
    assert!(check("file:a", "file:a").is_ok());
    assert!(check("memory:", "memory:").is_ok());
    assert!(check("redis://:x@a", "redis://:x@a").is_ok());
    assert!(check("file:a", "redis://b?queue_jobs=7").is_ok());
    for (store, queue, part) in [
        ("file:a", "file:b", "folder"),
        ("file:a", "memory:", "lose"),
        ("memory:", "file:a", "outlive"),
        ("memory:", "memory:?partitions=2", "belongs"),
        ("redis://a", "redis://b", "one server"),
        ("redis://:x@a", "redis://:y@a", "one server"),
        ("redis://a", "file:b", "one server"),
        ("memory:", "redis://b", "outlive"),
        ("file:a?data_bytes=1GiB", "redis://b", "data_bytes"),
        ("file:a?queue_jobs=7", "redis://b", "in its URL"),
    ] {
        let message = message(check(store, queue));
        assert!(message.contains(part), "{store} {queue}: {message}");
    }
}

#[tokio::test]
async fn opened_backends_have_the_bounds_of_their_url() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!(
        "file:{}?queue_jobs=1&data_bytes=1KiB",
        folder.path().display()
    );
    let set = |bytes: usize| {
        let value = Value::parse(format!("\"{}\"", "x".repeat(bytes))).unwrap();
        NewJob::new(Command::One(Operation::set(Key::new("k").unwrap(), value)))
    };
    for url in [file.as_str(), "memory:?queue_jobs=1"] {
        let url = &parsed(url);
        let opened = open(url, Some(url)).await.unwrap();
        let answers = opened.queue.enqueue(vec![set(1), set(1)]).await;
        assert!(
            matches!(&answers[..], [Ok(_), Err(Error::Full { limit: 1, .. })]),
            "{url}: {answers:?}"
        );
        opened.close().await.unwrap();
    }
    let opened = open(&parsed("memory:?partitions=3"), None).await.unwrap();
    assert_eq!(opened.queue.partitions().get(), 3);

    let full = format!("file:{}/full?data_bytes=1KiB", folder.path().display());
    let opened = open(&parsed(&full), None).await.unwrap();
    let answers = opened.queue.enqueue(vec![set(2000)]).await;
    assert!(
        matches!(&answers[..], [Err(Error::StorageFull { .. })]),
        "{answers:?}"
    );
    opened.close().await.unwrap();
}
