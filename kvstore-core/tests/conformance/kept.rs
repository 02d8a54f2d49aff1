//! Does each store keep as many outcomes, dead letters and changes as the URL says?

use std::time::Duration;

use kvstore_core::error::Result;
use kvstore_core::model::command::{Command, Operation};
use kvstore_core::model::commit::{Advance, Commit, Committed, Verdict};
use kvstore_core::model::id::{JobId, Partition, Position, QueueId};
use kvstore_core::model::job::{Dead, Failure, JobState, Summary};
use kvstore_core::store::WatchFrom;
use kvstore_core::{Error, Key, Store, StoreExt, Value, open};
use kvstore_testing::redis::RedisServer;

/// Ends job `number` with `verdict`.
async fn end(
    store: &dyn Store,
    queue: QueueId,
    number: u64,
    verdict: Verdict,
) -> Result<Committed> {
    let advance = Advance {
        queue,
        partition: Partition(0),
        from: Position::counted(number - 1),
        to: Position::counted(number),
        outcomes: vec![(Position::counted(number), verdict)],
        lost: false,
    };
    let commit = Commit {
        advance: Some(advance),
        ..Commit::default()
    };
    store.commit(commit).await
}

fn failed() -> Verdict {
    let key = Key::new("a").unwrap();
    Verdict::Failed {
        summary: Summary {
            name: "set".into(),
            key,
            common: None,
        },
        operation: 0,
        reason: Failure::Condition,
        current: None,
    }
}

fn dead() -> Verdict {
    let value = Value::parse("1").unwrap();
    Verdict::Dead(Dead {
        reason: String::new(),
        attempts: 1,
        command: Command::One(Operation::set(Key::new("a").unwrap(), value)),
    })
}

#[tokio::test]
async fn as_many_outcomes_and_dead_letters_are_kept_as_the_url_says() {
    let folder = tempfile::tempdir().unwrap();
    let server = RedisServer::start();
    let urls = [
        "memory:?".to_owned(),
        format!("file:{}?", folder.path().display()),
        format!("{}?partitions=1&", server.url()),
    ];
    for url in urls {
        let url = format!("{url}outcomes=3&dead_letters=2");
        let opened = open(&url.parse().unwrap(), None).await.unwrap();
        // The jobs of a queue elsewhere: one that is here would have to have accepted them.
        let (store, queue) = (&*opened.store, QueueId::random());
        let state = async |number| {
            let job = JobId {
                queue,
                partition: Partition(0),
                position: Position::counted(number),
            };
            store.outcome(&job, Duration::ZERO).await.unwrap()
        };
        for number in 1..=5 {
            end(store, queue, number, failed()).await.unwrap();
        }
        assert_eq!(state(2).await, JobState::Forgotten, "{url}");
        assert!(matches!(state(3).await, JobState::Finished(_)), "{url}");
        for number in 6..=7 {
            end(store, queue, number, dead()).await.unwrap();
        }
        let refused = end(store, queue, 8, dead()).await;
        assert!(
            matches!(refused, Err(Error::Full { limit: 2, .. })),
            "{url}: {refused:?}"
        );
        opened.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_watch_starts_from_as_many_changes_as_the_url_says() {
    let folder = tempfile::tempdir().unwrap();
    for url in [
        "memory:".to_owned(),
        format!("file:{}", folder.path().display()),
    ] {
        let url = format!("{url}?changes=3");
        let opened = open(&url.parse().unwrap(), None).await.unwrap();
        let start = opened.store.watch(&WatchFrom::Now.into()).await.unwrap();
        let from = || WatchFrom::After(start.start.clone()).into();
        for number in 1..=3 {
            opened.store.set("a", &number).await.unwrap();
        }
        opened.store.watch(&from()).await.unwrap();
        opened.store.set("a", &4).await.unwrap();
        let error = opened.store.watch(&from()).await.unwrap_err();
        assert!(matches!(error, Error::Compacted), "{url}: {error}");
        opened.close().await.unwrap();
    }
}
