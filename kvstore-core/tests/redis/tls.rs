//! Is a Redis server reached by TLS, only if its certificate is trusted, and only with the
//! certificate that it requires?

use std::path::Path;
use std::time::Duration;

use kvstore_core::model::command::{Command as Write, Operation};
use kvstore_core::model::job::NewJob;
use kvstore_core::open::Opened;
use kvstore_core::{Error, Key, Result, StoreExt, Value};
use kvstore_testing::certificates::certificates;
use kvstore_testing::cluster::{Cluster, Tls};
use kvstore_testing::redis::{DURABLE, RedisServer, free_port};

/// Starts a server with TLS on a port; with `asks`, clients have to present a certificate.
fn start(folder: &Path, asks: bool) -> (RedisServer, u16) {
    let port = free_port();
    let file = |name: &str| folder.join(name).display().to_string();
    let [certificate, key, authority] = ["server.crt", "server.key", "ca.crt"].map(file);
    let settings = [
        "--bind",
        "127.0.0.1 127.0.0.2",
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
        "--tls-auth-clients",
        if asks { "yes" } else { "no" },
    ];
    let server = RedisServer::start_with(&[&DURABLE[..], &settings].concat());
    (server, port)
}

async fn open(url: &str) -> Result<Opened> {
    kvstore_core::open(&url.parse()?, None).await
}

async fn write_and_read(opened: &Opened) {
    opened.store.set("a", &1).await.unwrap();
    assert_eq!(opened.store.get_as::<i32>("a").await.unwrap(), Some(1));
    let operation = Operation::set(Key::new("b").unwrap(), Value::parse("1").unwrap());
    let job = NewJob::new(Write::One(operation));
    let accepted = opened.queue.enqueue(vec![job]).await.remove(0).unwrap();
    let state = opened
        .store
        .outcome(&accepted.id, Duration::from_millis(10))
        .await;
    state.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_reached_by_tls_if_who_is_trusted_vouches_for_it() {
    let folder = certificates(&[("server", "DNS:localhost,IP:127.0.0.1")]);
    let (_server, port) = start(folder.path(), false);
    let ca = folder.path().join("ca.crt");
    let ca = ca.display();
    let opened = open(&format!("rediss://127.0.0.1:{port}?ca_file={ca}")).await;
    write_and_read(&opened.unwrap()).await;

    for (url, reason) in [
        // The system does not trust that authority.
        (format!("rediss://127.0.0.1:{port}"), "UnknownIssuer"),
        // A name that is not in the certificate.
        (
            format!("rediss://127.0.0.2:{port}?ca_file={ca}"),
            "NotValidForName",
        ),
    ] {
        let error = open(&url).await.unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{url}: {error}");
        let said = error.to_string();
        assert!(
            said.contains(reason) || said.contains("not valid for name"),
            "{url}: {said}"
        );
    }
    // Without TLS the server does not understand the client, which must not take forever.
    let error = open(&format!("redis://127.0.0.1:{port}"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_is_told_who_is_there() {
    let folder = certificates(&[("server", "IP:127.0.0.1"), ("client", "DNS:client")]);
    let (_server, port) = start(folder.path(), true);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let [ca, certificate, key] = ["ca.crt", "client.crt", "client.key"].map(file);
    let url = format!("rediss://127.0.0.1:{port}?ca_file={ca}");
    let error = open(&url).await.unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error}");
    let url = format!("{url}&cert_file={certificate}&key_file={key}");
    write_and_read(&open(&url).await.unwrap()).await;

    let refused = |error: Error, part: &str| {
        let is_told = matches!(&error, Error::Config(message) if message.contains(part));
        assert!(is_told, "{error}");
    };
    let exchanged = url
        .replace("cert_file", "x")
        .replace("key_file", "cert_file")
        .replace("x=", "key_file=");
    refused(open(&exchanged).await.unwrap_err(), "cannot be used");
    let half = format!("rediss://127.0.0.1:{port}?cert_file={certificate}");
    refused(
        open(&half).await.unwrap_err(),
        "cert_file and key_file go together",
    );
    let plain = format!("redis://127.0.0.1:{port}?ca_file={ca}");
    refused(
        open(&plain).await.unwrap_err(),
        "use a URL that begins with rediss:",
    );
    let missing = format!("rediss://127.0.0.1:{port}?ca_file=/nowhere/ca.crt");
    refused(
        open(&missing).await.unwrap_err(),
        "ca_file /nowhere/ca.crt cannot be read",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_reached_by_tls_each_of_its_servers() {
    let folder = certificates(&[("server", "IP:127.0.0.1")]);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let tls = Tls {
        authority: file("ca.crt"),
        certificate: file("server.crt"),
        key: file("server.key"),
    };
    let cluster = Cluster::start_with(Some(&tls));
    let url = format!("{}?partitions=6&ca_file={}", cluster.url(), tls.authority);
    let opened = open(&url).await.unwrap();
    write_and_read(&opened).await;
    // So that every server has some.
    for number in 0..20 {
        opened
            .store
            .set(&format!("key {number}"), &number)
            .await
            .unwrap();
    }
    for server in 0..3 {
        assert_ne!(cluster.ask(server, &["DBSIZE"]), "0");
    }
    let error = open(&cluster.url()).await.unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error}");
}
