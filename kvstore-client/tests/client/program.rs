//! Does a program written for an embedded store run against a server, with only the line that opens
//! it changed?

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use kvstore_client::Client;
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::write::Condition;
use kvstore_core::store::{ChangeKind, ListRequest, WatchFrom};
use kvstore_core::{Embedded, Error, Key, Result};
// The embedded store gets its convenience methods from this trait; a client has them itself.
#[allow(unused_imports, reason = "the remote program does not need it")]
use kvstore_core::StoreExt;
use kvstore_testing::server::Server;

/// One program, compiled once for each of the two handles.
macro_rules! program {
    ($name:ident, $handle:ty) => {
        async fn $name(kv: $handle) -> Result<()> {
            let (store, service) = (kv.store(), kv.service());
            let hour = Duration::from_secs(3600);

            // Entries.
            assert_eq!(store.get_as::<u64>("a").await?, None);
            let first = store.set("a", &[1, 2]).await?;
            assert_eq!(store.get_as("a").await?, Some(vec![1, 2]));
            assert!(store.set("a", &None::<u8>).await? > first);
            assert_eq!(store.get_as("a").await?, Some(None::<u8>));
            let odd = "odd/ü ?#%&=+\"";
            store.set_for(odd, "x", hour).await?;
            let entry = store.get(&Key::new(odd)?).await?.expect("it was just set");
            assert!(entry.expires_at > Some(Timestamp(0)));
            assert_eq!(entry.value.as_str(), "\"x\"");
            assert!(store.delete("a").await?);
            assert!(!store.delete("a").await?);

            // Conditions.
            let first = store.create("once", &1).await?;
            let late = store.create("once", &2).await.unwrap_err();
            assert!(matches!(late, Error::Conflict { current: Some(version), .. } if version == first));
            let second = store.compare_and_set("once", first, &3).await?;
            let late = store.compare_and_set("once", first, &4).await.unwrap_err();
            assert!(matches!(late, Error::Conflict { current: Some(version), .. } if version == second));
            assert_eq!(store.update("once", |old: Option<u64>| old.unwrap_or(0) + 1).await?, 4);
            assert_eq!(store.update("new", |old: Option<u64>| old.unwrap_or(0) + 1).await?, 1);
            store.update(odd, |_: Option<String>| "y".to_owned()).await?;
            let updated = store.get(&Key::new(odd)?).await?.expect("it is there");
            assert_eq!(updated.expires_at, entry.expires_at, "an update keeps the deadline");

            // Numbers.
            assert_eq!(store.add("hits", 2).await?, 2);
            assert_eq!(store.add("hits", -1).await?, 1);
            let wrong = store.add(odd, 1).await.unwrap_err();
            assert!(matches!(wrong, Error::Invalid { .. }), "{wrong}");

            // Batches.
            let committed = store.batch().set("b", &2).delete("once").commit().await?;
            assert_eq!(committed.existed, [false, true]);
            let late = store.batch().set("c", &2).check("b", Condition::Absent).commit().await;
            assert!(matches!(
                late,
                Err(Error::Conflict { check: 0, current: Some(version), .. }) if version == committed.first_version
            ));
            let bad = store.batch().set("c", &2).delete("a//b").commit().await;
            assert!(matches!(bad, Err(Error::Invalid { .. })));
            assert_eq!(store.get_many_as::<u8>(&["b", "c", "b"]).await?, [Some(2), None, Some(2)]);

            // Collections, listings.
            let numbers = store.collection::<u64>("n/");
            numbers.set("one", &1).await?;
            numbers.create("two", &2).await?;
            assert_eq!(numbers.update("two", |old| old.unwrap_or(0) + 2).await?, 4);
            assert_eq!(numbers.get_many(&["two", "three"]).await?, [Some(4), None]);
            assert_eq!(numbers.count().await?, 2);
            let all: Vec<(String, u64)> = numbers.entries().try_collect().await?;
            assert_eq!(all, [("one".to_owned(), 1), ("two".to_owned(), 4)]);
            let keys: Vec<Key> = store.keys("n/").try_collect().await?;
            assert_eq!(keys.len(), 2);
            let mut folded = ListRequest {
                delimiter: Some("/".to_owned()),
                limit: 1,
                ..ListRequest::default()
            };
            let page = store.list(&folded).await?;
            assert_eq!(page.entries[0].key.as_str(), "b");
            folded.after = page.next;
            folded.limit = 100;
            let prefixes = store.list(&folded).await?.prefixes;
            assert_eq!(prefixes, ["n/", "odd/"]);
            let wrong = store.list(&ListRequest { limit: 0, ..ListRequest::default() }).await;
            assert!(matches!(wrong, Err(Error::Invalid { .. })));

            // Queued writes.
            let set = service.set("q", &1).if_absent().expires_after(hour).idempotency_key("q-1").await?;
            let again = service.set("q", &1).if_absent().expires_after(hour).idempotency_key("q-1").await?;
            assert!(!set.replayed && again.replayed);
            assert_eq!((set.id, set.version()), (again.id, again.version()));
            let other = service.set("q", &2).idempotency_key("q-1").await;
            assert!(matches!(other, Err(Error::KeyReused)));
            let late = service.set("q", &2).if_absent().await.unwrap_err();
            assert!(matches!(late, Error::Conflict { check: 0, .. }));
            let merged = service.set("m", &serde_json::json!({"a": 1, "b": 2})).await?;
            let merged_again = service.merge("m", &serde_json::json!({"b": null, "c": 3})).await?;
            assert!(merged_again.version() > merged.version());
            let value = store.get(&Key::new("m")?).await?.expect("it is there").value;
            assert_eq!(value.as_str(), r#"{"a":1,"c":3}"#);
            let touched = service.touch("m", hour).await?;
            assert_eq!(touched.existed(), Some(true));
            let deadline = store.get(&Key::new("m")?).await?.expect("it is there").expires_at;
            assert_eq!(touched.applied()[0].computed.expires_at, deadline);
            let absent = service.touch("none", hour).await;
            assert!(matches!(absent, Err(Error::NotFound { .. })));
            assert_eq!(service.add("hits", 1).await?.number(), Some(2));
            let most = service.add("hits", i64::MAX).await;
            assert!(matches!(most, Err(Error::Invalid { .. })));
            assert_eq!(service.delete("q").if_present().await?.existed(), Some(true));
            let batch = service.batch().check("q").if_absent().add("x", 1).delete("absent").touch("m", hour);
            let batch = batch.await?;
            let existed: Vec<bool> = batch.applied().iter().map(|write| write.existed).collect();
            assert_eq!((existed, batch.number()), (vec![false, false, true], Some(1)));
            let second = service.batch().add("x", 1).check("m").if_absent().await;
            assert!(matches!(second, Err(Error::Conflict { check: 1, .. })));
            let nothing = service.batch().if_absent().await;
            assert!(matches!(nothing, Err(Error::Invalid { .. })));
            let later = service.set("later", &1).wait(Duration::ZERO).await?;
            service.wait_visible(&later.id).await?;
            assert_eq!(store.get_as("later").await?, Some(1));
            assert!(service.job(&later.id, Duration::ZERO).await?.is_some());
            service.ping().await?;

            // Changes.
            let mut watch = store.watch(&WatchFrom::Now.into()).await?;
            store.set("w", &1).await?;
            store.delete("w").await?;
            let set = watch.changes.next().await.expect("a change")?;
            assert_eq!((set.key.as_str(), set.kind), ("w", ChangeKind::Set));
            let deleted = watch.changes.next().await.expect("a change")?;
            assert_eq!((deleted.key.as_str(), deleted.kind), ("w", ChangeKind::Delete));
            let mut since = store.watch(&WatchFrom::After(watch.start.clone()).into()).await?;
            assert_eq!(since.changes.next().await.expect("a change")?.version, set.version);
            drop((watch, since));

            kv.close().await
        }
    };
}

program!(embedded, Embedded);
program!(remote, Client);

#[tokio::test]
async fn program_runs_on_an_embedded_store() {
    embedded(Embedded::open("memory:").await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn program_runs_on_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(folder.path(), &[]);
    remote(Client::open(&server.url()).await.unwrap())
        .await
        .unwrap();
}
