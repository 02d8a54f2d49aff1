//! Is the line for `ACL SETUSER` in docs/configuration.md sufficient, on one server and on a
//! cluster, and is each right in it necessary? The conformance suite runs with exactly these
//! rights; here each is taken away in turn.

use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::id::PartitionCount;
use kvstore_core::model::job::NewJob;
use kvstore_core::redis::{Options, Redis};
use kvstore_core::{Error, JobQueue, Key, StoreExt, Value};
use kvstore_testing::cluster::Cluster;
use kvstore_testing::redis::{DURABLE, RedisServer, free_port, rights};

fn options() -> Options {
    Options {
        partitions: Some(PartitionCount::new(4).unwrap()),
        ..Options::default()
    }
}

fn set_user<'r>(rights: impl IntoIterator<Item = &'r str>) -> Vec<&'r str> {
    let user = ["acl", "setuser", "kvstore", "reset", "on", ">password"];
    user.into_iter().chain(rights).collect()
}

/// Returns why `url` cannot be opened.
async fn refusal(url: &str) -> String {
    match Redis::open(url, options()).await {
        Err(Error::Config(message)) => message,
        other => panic!("{other:?} is not a wrong setting"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named_at_start() {
    let port = free_port();
    let server = RedisServer::start_with(&[&DURABLE[..], &["--port", &port.to_string()]].concat());
    let url = format!("redis://kvstore:password@127.0.0.1:{port}");
    let rights = rights("kv");
    let rights: Vec<&str> = rights.iter().map(String::as_str).collect();
    assert!(rights.len() > 30, "{rights:?}");
    server.ask(&set_user(rights.iter().copied()));
    let redis = Redis::open(&url, options()).await.unwrap();
    redis.store().set("a", &1).await.unwrap();
    let with_file = Options {
        password: Some("password".to_owned()),
        ..options()
    };
    let named = url.replace(":password", "");
    Redis::open(&named, with_file).await.unwrap();
    let before = server.ask(&["hgetall", "kv:meta"]);
    for missing in &rights {
        let others = rights.iter().copied().filter(|right| right != missing);
        server.ask(&set_user(others));
        let message = refusal(&url).await;
        // Without the right to connect or to inspect the server, the server's answer or the setting
        // names it.
        let name = missing.trim_start_matches('+').replace('|', " ");
        let told = message.to_lowercase().replace('|', " ");
        assert!(told.contains(&name), "{missing}: {message}");
        assert!(!message.contains("password"), "{message}");
    }
    assert_eq!(server.ask(&["hgetall", "kv:meta"]), before);

    // All missing rights are reported at once.
    server.ask(&set_user(
        rights
            .iter()
            .copied()
            .filter(|right| !right.starts_with("+z")),
    ));
    let message = refusal(&url).await;
    assert!(message.contains("+zadd +zcard"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_while_the_server_is_down_is_found_before_the_next_write() {
    let port = free_port().to_string();
    let settings = [&DURABLE[..], &["--port", &port]].concat();
    let mut server = RedisServer::start_with(&settings);
    let url = format!("redis://kvstore:password@127.0.0.1:{port}");
    let rights = rights("kv");
    let rights = || rights.iter().map(String::as_str);
    server.ask(&set_user(rights()));
    let redis = Redis::open(&url, options()).await.unwrap();
    redis.store().set("a", &1).await.unwrap();
    server.kill_and_start_with(&settings);
    server.ask(&set_user(rights().filter(|right| *right != "+xadd")));
    let job = NewJob::new(Command::One(Operation::set(
        Key::new("a").unwrap(),
        Value::parse("2").unwrap(),
    )));
    let error = loop {
        match redis.queue().enqueue(vec![job.clone()]).await.remove(0) {
            Err(error) if error.to_string().contains("rights") => break error,
            // While the connection is being re-established.
            Err(Error::Unavailable { .. } | Error::Unknown { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("+xadd"), "{error}");
    server.ask(&set_user(rights()));
    redis.queue().enqueue(vec![job]).await.remove(0).unwrap();
    assert_eq!(redis.queue().depth().await.unwrap().jobs, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_needs_one_right_more() {
    let cluster = Cluster::start();
    let rights = rights("kv");
    let rights = || rights.iter().map(String::as_str);
    for node in 0..3 {
        cluster.ask(node, &set_user(rights().chain(["+cluster|slots"])));
    }
    let url = cluster.url().replace("://", "://kvstore:password@");
    let redis = Redis::open(&url, options()).await.unwrap();
    for number in 0..20 {
        let key = format!("key {number}");
        redis.store().set(&key, &number).await.unwrap();
        assert_eq!(redis.store().get_as(&key).await.unwrap(), Some(number));
    }
    // Each server has its own users, and is checked.
    let others = rights().filter(|right| *right != "+xadd");
    cluster.ask(2, &set_user(others.chain(["+cluster|slots"])));
    let message = refusal(&url).await;
    assert!(message.contains("+xadd"), "{message}");
    for node in 0..3 {
        cluster.ask(node, &set_user(rights()));
    }
    let message = refusal(&url).await;
    assert!(message.contains("cluster|slots"), "{message}");
}
