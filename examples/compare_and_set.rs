//! Two writers, one key: versions, a conflict that changes nothing, and `update`, which retries
//! until no change is lost.

use std::sync::Arc;

use kvstore_core::json_file::{JsonFile, Options};
use kvstore_core::{Error, Key, Result, Store, StoreExt};

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = JsonFile::open(folder.path(), Options::default()).await?;
    let store = file.store();

    // Every change of a key gets a larger version, and none is ever used twice.
    let first = store.create("stock", &5).await?;
    let second = store.compare_and_set("stock", first, &4).await?;
    assert!(second > first);
    println!("5 items at version {first}, 4 at version {second}");

    // A writer with an old version is rejected, and learns the current one.
    match store.compare_and_set("stock", first, &100).await {
        Err(Error::Conflict { key, current, .. }) => {
            println!("version {first} of {key} is no longer there, {current:?} is");
            assert_eq!(current, Some(second));
        }
        other => panic!("it should have been refused, and was {other:?}"),
    }
    assert_eq!(store.get_as("stock").await?, Some(4));

    // Read, change, write, and start over if another writer was faster: no increment is lost.
    let mut visitors = Vec::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        visitors.push(tokio::spawn(async move {
            for _ in 0..10 {
                store
                    .update("visits", |visits: Option<u32>| visits.unwrap_or(0) + 1)
                    .await?;
            }
            Ok::<_, Error>(())
        }));
    }
    for visitor in visitors {
        visitor.await.expect("it does not panic")?;
    }
    let entry = store.get(&Key::new("visits")?).await?.expect("it is there");
    println!("8 writers made {} visits", entry.value);
    assert_eq!(entry.value.to::<u32>()?, 80);
    file.close().await
}
