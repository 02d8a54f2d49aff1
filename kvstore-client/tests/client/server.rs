//! Does the client work as documented against the real server, by each kind of connection?

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use kvstore_client::{Client, Event, JobOutcome, Options};
use kvstore_core::error::Unit;
use kvstore_core::store::{ChangeId, ChangeKind, WatchFrom};
use kvstore_core::{Error, Key, Value};
#[cfg(feature = "tls")]
use kvstore_testing::certificates::certificates;
use kvstore_testing::server::Server;

use crate::support::{Clients as _, relay_unix};

async fn started(folder: &Path) -> (Server, Client) {
    let server = Server::in_folder(folder, &[]);
    let client = server.client();
    client.service().ping().await.unwrap();
    (server, client)
}

#[tokio::test]
async fn values_are_byte_exact_and_many() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, client) = started(folder.path()).await;
    let text = r#"{"x":1.0,"x":1e400,"é":"\u00e9"}"#;
    let exact = Value::parse(text).unwrap();
    let raw: Box<serde_json::value::RawValue> = serde_json::from_str(text).unwrap();
    client.store().set("exact", &raw).await.unwrap();
    let entry = client
        .store()
        .get(&Key::new("exact").unwrap())
        .await
        .unwrap();
    assert_eq!(entry.unwrap().value, exact);
    let listed: Vec<_> = client.store().entries("exact").try_collect().await.unwrap();
    assert_eq!(listed[0].1.value, exact);
    // More than a page, and more than one batch.
    for chunk in 0..3 {
        let mut batch = client.service().batch();
        for number in 0..900 {
            batch = batch.set(&format!("many/{chunk}/{number:03}"), &number);
        }
        batch.await.unwrap();
    }
    let keys: Vec<Key> = client.store().keys("many/").try_collect().await.unwrap();
    assert_eq!(keys.len(), 2700);
    assert!(keys.is_sorted());
    let entries = client.store().get_many(&keys).await.unwrap();
    assert!(entries.iter().all(Option::is_some));
    assert_eq!(client.store().delete_all("many/2/").await.unwrap(), 900);
    assert_eq!(client.store().keys("many/2").count().await, 0);
    let keys = &keys[..1800];
    // Concurrent requests share connections.
    let gets = keys.iter().map(|key| client.store().get(key));
    let gets = futures_util::stream::iter(gets).buffer_unordered(100);
    assert_eq!(gets.try_collect::<Vec<_>>().await.unwrap().len(), 1800);
}

#[tokio::test]
async fn client_keeps_to_the_limits_of_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let limits = ["--mget-max", "7", "--page-max", "9", "--batch-max", "5"];
    let server = Server::in_folder(folder.path(), &limits);
    let store = server.client().store().clone();
    let names: Vec<String> = (10..30).map(|number| format!("{number}")).collect();
    for name in &names {
        store.set(name, name).await.unwrap();
    }
    let keys: Vec<Key> = store.keys("").try_collect().await.unwrap();
    assert_eq!(keys.len(), 20);
    let entries = store.get_many(&keys).await.unwrap();
    assert!(entries.iter().all(Option::is_some));
    let mut batch = store.batch();
    for name in &names[..6] {
        batch = batch.set(name, &0);
    }
    let error = batch.commit().await.unwrap_err();
    let unit = Unit::Operations;
    assert!(
        matches!(error, Error::TooLarge { limit: 5, unit: seen, .. } if seen == unit),
        "{error}"
    );
}

#[tokio::test]
async fn batch_puts_its_checks_on_its_writes() {
    use kvstore_core::model::write::Condition;
    let folder = tempfile::tempdir().unwrap();
    let (_server, client) = started(folder.path()).await;
    let batch = client.store().batch().check("a", Condition::Absent);
    batch.set("a", &1).commit().await.unwrap();
    let batch = client
        .store()
        .batch()
        .check("b", Condition::Absent)
        .check("a", Condition::Absent);
    let late = batch.set("a", &2).commit().await.unwrap_err();
    assert!(matches!(late, Error::Conflict { check: 1, .. }), "{late:?}");
    assert_eq!(client.store().get_as("a").await.unwrap(), Some(1));
}

#[tokio::test]
async fn watch_resumes_after_a_restart_and_skips_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, client) = started(folder.path()).await;
    client.store().set("w/0", &0).await.unwrap();
    let mut events = client.watch("w/").snapshot().values().stream();
    let present = events.next().await.unwrap().unwrap();
    assert!(
        matches!(present, Event::Present { ref value, .. } if value.as_ref().unwrap().as_str() == "0")
    );
    assert_eq!(events.next().await.unwrap().unwrap(), Event::Synced);
    let writer = tokio::spawn({
        let client = client.clone();
        async move {
            for number in 1..=100 {
                client
                    .store()
                    .set(&format!("w/{number}"), &number)
                    .await
                    .unwrap();
            }
        }
    });
    let mut seen = BTreeMap::new();
    while seen.len() < 100 {
        match events.next().await.unwrap().unwrap() {
            Event::Changed(change) => {
                assert_eq!(change.kind, ChangeKind::Set);
                seen.insert(change.key, change.value.unwrap());
            }
            // The history does not survive every kill: in that case everything is sent again.
            Event::Reset => seen.clear(),
            Event::Present { key, value, .. } if key.as_str() != "w/0" => {
                seen.insert(key, value.unwrap());
            }
            _ => {}
        }
        if seen.len() == 30 || seen.len() == 60 {
            server.kill_and_restart();
        }
    }
    writer.await.unwrap();
    for (key, value) in seen {
        assert_eq!(key.as_str(), format!("w/{value}"));
    }
}

#[tokio::test]
async fn watch_of_a_lost_history_begins_with_the_existing_entries() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, client) = started(folder.path()).await;
    client.store().set("a", &1).await.unwrap();
    let now = client
        .store()
        .watch(&WatchFrom::Now.into())
        .await
        .unwrap()
        .start;
    // An id from a history that never existed.
    let lost = ChangeId::new(format!("9{}", now.as_str()));
    let error = client
        .store()
        .watch(&WatchFrom::After(lost.clone()).into())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Compacted), "{error:?}");
    let mut plain = client.watch("").since(lost.clone()).stream();
    assert!(matches!(plain.next().await.unwrap(), Err(Error::Compacted)));
    assert!(plain.next().await.is_none());
    let mut events = client.watch("").since(lost).snapshot().stream();
    assert_eq!(events.next().await.unwrap().unwrap(), Event::Reset);
    let present = events.next().await.unwrap().unwrap();
    assert!(matches!(present, Event::Present { ref key, value: None, .. } if key.as_str() == "a"));
    assert_eq!(events.next().await.unwrap().unwrap(), Event::Synced);
    let mut deletes = client
        .watch("")
        .kinds(&[ChangeKind::Delete])
        .since(now)
        .stream();
    client.store().set("b", &1).await.unwrap();
    client.store().delete("a").await.unwrap();
    let change = deletes.next().await.unwrap().unwrap();
    assert!(matches!(change, Event::Changed(change) if change.key.as_str() == "a"));
}

#[tokio::test]
async fn job_is_known_by_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, client) = started(folder.path()).await;
    let service = client.service();
    let set = service.set("a", &1).wait(Duration::ZERO).await.unwrap();
    let job = service
        .job(&set.id, Duration::from_secs(5))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((job.id, job.op.as_deref()), (set.id, Some("set")));
    assert!(matches!(job.outcome, JobOutcome::Succeeded(Some(applied)) if !applied.existed));
    let set = service
        .set("a", &2)
        .if_absent()
        .wait(Duration::ZERO)
        .await
        .unwrap();
    let job = service
        .job(&set.id, Duration::from_secs(5))
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(
        job.outcome,
        JobOutcome::Failed {
            current: Some(_),
            operation: 0,
            ..
        }
    ));
    let mut unknown = set.id;
    unknown.position.minor += 1_000_000;
    assert_eq!(service.job(&unknown, Duration::ZERO).await.unwrap(), None);
    let error = service.wait_visible(&unknown).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
}

#[tokio::test]
async fn token_decides_what_is_permitted() {
    let folder = tempfile::tempdir().unwrap();
    // sha256sum of the secret
    let (secret, hash) = (
        "secret",
        "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
    );
    let file = folder.path().join("tokens");
    std::fs::write(&file, format!("reader:{hash}:r\n")).unwrap();
    let store = format!("file:{}", folder.path().join("database").display());
    let server = Server::start(&store, &["--tokens-file", file.to_str().unwrap()]);
    let with = |token: Option<String>| {
        server.client_with(Options {
            token,
            ..Options::default()
        })
    };
    let reader = with(Some(secret.to_owned()));
    reader.service().ping().await.unwrap();
    assert_eq!(reader.store().get_as::<u8>("a").await.unwrap(), None);
    let denied = reader.store().set("a", &1).await.unwrap_err();
    assert!(matches!(denied, Error::Denied { .. }), "{denied:?}");
    for token in [None, Some("wrong".to_owned())] {
        let denied = with(token).store().get_as::<u8>("a").await.unwrap_err();
        assert!(matches!(denied, Error::Denied { .. }), "{denied:?}");
    }
    let mut watch = with(None).watch("").stream();
    assert!(matches!(
        watch.next().await.unwrap(),
        Err(Error::Denied { .. })
    ));
    let shown = format!("{reader:?}");
    assert!(!shown.contains(secret), "{shown}");
}

#[tokio::test]
async fn server_with_its_probes_on_another_port_answers_pings() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file:{}", folder.path().display());
    let server = Server::start(&store, &["--admin-listen", "127.0.0.1:0"]);
    server.client().service().ping().await.unwrap();
}

#[tokio::test]
async fn server_is_reached_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = started(folder.path()).await;
    let socket = folder.path().join("http.sock");
    relay_unix(&socket, server.address);
    let client = Client::open(&format!("unix:{}", socket.display()))
        .await
        .unwrap();
    // The host that it names is one that this server serves.
    assert_eq!(client.store().add("hits", 1).await.unwrap(), 1);
    client.close().await.unwrap();
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn server_is_reached_over_tls_if_its_certificate_is_right() {
    let folder = certificates(&[("server", "DNS:localhost")]);
    let (server, _) = started(&folder.path().join("database")).await;
    let port = relay_tls(folder.path(), server.address).await;
    let client = |host: &str, ca_file: Option<&str>| {
        let options = Options {
            ca_file: ca_file.map(|name| folder.path().join(name)),
            retry_for: Duration::ZERO,
            ..Options::default()
        };
        Client::open_with(&format!("https://{host}:{port}").parse().unwrap(), options)
    };
    let right = client("localhost", Some("ca.crt")).unwrap();
    assert_eq!(right.store().add("hits", 1).await.unwrap(), 1);
    // Another name, and the machine's authorities, which do not include this one.
    for wrong in [
        client("127.0.0.1", Some("ca.crt")),
        client("localhost", None),
    ] {
        // A machine without authorities reports that at once.
        let Ok(wrong) = wrong else { continue };
        let error = wrong.store().add("hits", 1).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    }
    for unreadable in ["none.crt", "server.key"] {
        let error = client("localhost", Some(unreadable)).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
    }
    assert_eq!(right.store().get_as("hits").await.unwrap(), Some(1));
}

/// Accepts TLS connections and forwards them.
#[cfg(feature = "tls")]
async fn relay_tls(folder: &Path, to: std::net::SocketAddr) -> u16 {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_file(folder.join("server.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut near = acceptor.accept(stream).await?;
                let mut far = tokio::net::TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    port
}
