//! Can the password in a file be replaced while a store is open?

use std::time::Duration;

use futures_util::StreamExt;
use kvstore_core::store::WatchFrom;
use kvstore_core::{Error, Store, StoreExt, open};
use kvstore_testing::cluster::Cluster;
use kvstore_testing::redis::{DURABLE, RedisServer, free_port, rights};
use tempfile::NamedTempFile;

const PATIENCE: Duration = Duration::from_secs(60);

/// Replaces the password of the user on each server, then closes the user's connections there.
fn replace(ask: impl Fn(&[&str]), file: &NamedTempFile, password: &str) {
    let password = format!(">{password}");
    let rights = rights("kv");
    let rights = rights.iter().map(String::as_str);
    let user = ["acl", "setuser", "kvstore", "reset", "on", &password];
    // Redis closes the connections of a user who is deleted.
    ask(&["acl", "deluser", "kvstore"]);
    let of_a_cluster = ["+cluster|slots"];
    ask(&user
        .into_iter()
        .chain(rights)
        .chain(of_a_cluster)
        .collect::<Vec<_>>());
    std::fs::write(file.path(), format!("{}\n", &password[1..])).unwrap();
}

async fn survives_a_new_password(url: &str, ask: impl Fn(&[&str])) {
    let file = NamedTempFile::new().unwrap();
    replace(&ask, &file, "first");
    let login = url.replace("://", "://kvstore@");
    let url = format!(
        "{login}?partitions=4&password_file={}",
        file.path().display()
    );
    let opened = open(&url.parse().unwrap(), None).await.unwrap();
    let store = &opened.store;
    store.set("a", &1).await.unwrap();

    replace(&ask, &file, "second");
    let written = async {
        // What was on its way when the connection closed may be unknown.
        while let Err(error) = store.set("a", &2).await {
            assert!(
                matches!(error, Error::Unavailable { .. } | Error::Unknown { .. }),
                "{error}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Every server of a cluster has a partition, and each has closed its connection.
        for key in ["b", "c", "d", "e", "f", "g"] {
            while store.set(key, &3).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
        store.set("a", &4).await.unwrap();
        watch.changes.next().await.unwrap().unwrap();
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap();
    opened.close().await.unwrap();

    std::fs::write(file.path(), "wrong").unwrap();
    let refused = open(&url.parse().unwrap(), None).await.err();
    assert!(matches!(refused, Some(Error::Config(_))), "{refused:?}");
    std::fs::remove_file(file.path()).unwrap();
    let refused = open(&url.parse().unwrap(), None).await.err();
    let message = refused.map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("cannot be read"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_replaced_while_a_server_is_in_use() {
    let port = free_port();
    let server = RedisServer::start_with(&[&DURABLE[..], &["--port", &port.to_string()]].concat());
    let url = format!("redis://127.0.0.1:{port}");
    survives_a_new_password(&url, |command| drop(server.ask(command))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_replaced_while_a_cluster_is_in_use() {
    let cluster = Cluster::start();
    let everywhere = |command: &[&str]| (0..3).for_each(|node| drop(cluster.ask(node, command)));
    survives_a_new_password(&cluster.url(), everywhere).await;
}
