//! A server and its clients: the names of the embedded store over HTTP, retries that take effect
//! once, and live changes.

use std::error::Error;

use futures_util::{StreamExt, TryStreamExt};
use kvstore_client::{Client, Event};
use kvstore_core::{Embedded, Error as StoreError};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A server like `kvstore-http`; yours runs elsewhere.
    let folder = tempfile::tempdir()?;
    let embedded = Embedded::open(&format!("file:{}", folder.path().display())).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let (service, options) = (embedded.service().clone(), kvstore_http::Options::default());
    let server = kvstore_http::serve(listener, service, options, async { drop(stopped.await) });
    let server = tokio::spawn(server);

    // The same verbs as in the embedded store.
    let kv = Client::open(&url).await?;
    let first = kv.store().create("user:1", "Ada").await?;
    kv.store()
        .compare_and_set("user:1", first, "Ada Lovelace")
        .await?;
    let late = kv.store().compare_and_set("user:1", first, "Grace").await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })));
    println!(
        "user:1 is {:?}",
        kv.store().get_as::<String>("user:1").await?
    );

    // A request that is repeated under its key, by this program or by the next one after a crash,
    // counts once.
    for _ in 0..3 {
        let order = kv
            .service()
            .add("orders", 1)
            .idempotency_key("order-17")
            .await?;
        println!(
            "orders: {:?}, seen before: {}",
            order.number(),
            order.replayed
        );
        assert_eq!(order.number(), Some(1));
    }

    // The existing entries, and then each change as it happens. The stream survives restarts of the
    // server.
    let mut events = kv.watch("user:").snapshot().values().stream();
    println!("{:?}", events.next().await.expect("it does not end")?);
    assert_eq!(events.try_next().await?, Some(Event::Synced));
    kv.store().set("user:2", "Grace").await?;
    match events.try_next().await? {
        Some(Event::Changed(change)) => println!("{:?} {}", change.kind, change.key),
        other => panic!("{other:?}"),
    }

    drop(events);
    kv.close().await?;
    drop(stop);
    server.await??;
    Ok(embedded.close().await?)
}
