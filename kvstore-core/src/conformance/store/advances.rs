//! A partition advances with the commit that applied its jobs, once, and only from its current
//! position.

use super::super::StoreHarness;
use super::super::fixture::*;
use crate::error::Error;
use crate::model::commit::Commit;
use crate::model::id::{Partition, Position};

pub async fn a_partition_advances_with_the_writes(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let commit = Commit {
        writes: vec![set(&key("a"), "1")],
        ..named.step(0, 3)
    };
    store.commit(commit).await.unwrap();
    store.commit(named.step(3, 10)).await.unwrap();
    for _ in 0..2 {
        let store = harness.store().await;
        assert_eq!(named.applied(&store).await, at(10));
        assert_eq!(store.active_queue().await.unwrap(), Some(named.queue));
        assert_eq!(text(&store, &key("a")).await.as_deref(), Some("1"));
        harness.restart().await;
    }
}

pub async fn positions_have_two_parts(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let mut from = Position::START;
    for (major, minor) in [
        (0, u64::MAX),
        (1, 0),
        (1, 1),
        (1_763_000_000_000, 0),
        (u64::MAX, u64::MAX),
    ] {
        let to = Position { major, minor };
        let mut commit = named.step(0, 0);
        commit.advance = commit.advance.map(|advance| crate::model::commit::Advance {
            from,
            to,
            ..advance
        });
        store.commit(commit).await.unwrap();
        assert_eq!(named.applied(&store).await, to);
        from = to;
    }
    harness.restart().await;
    assert_eq!(named.applied(&harness.store().await).await, from);
}

pub async fn stale_advance_changes_nothing(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    store.commit(named.step(0, 5)).await.unwrap();
    let version = put(&store, &key("a"), "1").await;
    for from in [0, 4, 6] {
        let commit = Commit {
            writes: vec![set(&key("a"), "2"), set(&key("b"), "2")],
            ..named.step_with(from, 9, vec![(at(9), failed(&key("a"), None))])
        };
        let error = store.commit(commit).await.unwrap_err();
        let Error::Stale { partition, applied } = error else {
            panic!("from {from}: {error}");
        };
        assert_eq!(
            (partition, applied),
            (named.partition, at(5)),
            "from {from}"
        );
    }
    for _ in 0..2 {
        let store = harness.store().await;
        assert_eq!(named.applied(&store).await, at(5));
        assert_eq!(get(&store, &key("a")).await.unwrap().version, version);
        assert_eq!(get(&store, &key("b")).await, None);
        harness.restart().await;
    }
}

pub async fn one_of_many_like_advances_wins(harness: &dyn StoreHarness) {
    let named = Named::new(&harness.store().await);
    let mut tasks = Vec::new();
    for task in 0..6 {
        let store = harness.store().await;
        tasks.push(tokio::spawn(async move {
            let mut won = 0;
            for round in 0..20 {
                let commit = Commit {
                    writes: vec![set(&key(&round.to_string()), &task.to_string())],
                    ..named.step(round, round + 1)
                };
                match store.commit(commit).await {
                    Ok(_) => won += 1,
                    Err(Error::Stale { applied, .. }) => assert!(applied > at(round)),
                    Err(error) => panic!("{error}"),
                }
            }
            won
        }));
    }
    let mut won = 0;
    for task in tasks {
        won += task.await.unwrap();
    }
    assert_eq!(won, 20, "each step was made once");
    assert_eq!(named.applied(&harness.store().await).await, at(20));
}

pub async fn partitions_advance_each_on_its_own(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let count = store
        .partitions()
        .map_or(3, crate::model::id::PartitionCount::get);
    let each = |number| Named {
        partition: Partition(number),
        ..named
    };
    for number in 0..count {
        let to = u64::from(number) + 1;
        store.commit(each(number).step(0, to)).await.unwrap();
    }
    harness.restart().await;
    let store = harness.store().await;
    for number in 0..count {
        assert_eq!(
            each(number).applied(&store).await,
            at(u64::from(number) + 1)
        );
    }
}

pub async fn an_advance_goes_forward(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    store.commit(named.step(0, 5)).await.unwrap();
    for to in [0, 4, 5] {
        let commit = Commit {
            writes: vec![set(&key("a"), "1")],
            ..named.step(5, to)
        };
        let error = store.commit(commit).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "to {to}: {error}");
    }
    assert_eq!(named.applied(&store).await, at(5));
    assert_eq!(get(&store, &key("a")).await, None);
}

pub async fn outcomes_that_make_no_sense_are_refused(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let a = key("a");
    for outcomes in [
        vec![(at(2), failed(&a, None)), (at(1), failed(&a, None))],
        vec![(at(1), failed(&a, None)), (at(1), failed(&a, None))],
        vec![(at(0), failed(&a, None))],
        vec![(at(4), failed(&a, None))],
        vec![(at(1), succeeded(&a, 0, 2))],
        vec![(at(1), succeeded(&a, 2, 1))],
        vec![(at(1), succeeded(&a, usize::MAX, 2))],
    ] {
        let commit = Commit {
            writes: vec![set(&a, "1")],
            ..named.step_with(0, 3, outcomes)
        };
        let error = store.commit(commit.clone()).await.unwrap_err();
        assert!(
            matches!(error, Error::Invalid { .. }),
            "{commit:?}: {error}"
        );
        assert_eq!(named.applied(&store).await, at(0));
        assert_eq!(get(&store, &a).await, None);
    }
}

pub async fn a_second_queue_is_refused_until_adopted(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let (first, second) = (Named::new(&store), Named::new(&store));
    store.commit(first.step(0, 5)).await.unwrap();
    let foreign = |named: Named, from, to| Commit {
        writes: vec![set(&key("a"), "1")],
        ..named.step(from, to)
    };
    let error = store.commit(foreign(second, 0, 1)).await.unwrap_err();
    assert!(matches!(error, Error::WrongQueue { .. }), "{error}");
    assert_eq!(get(&store, &key("a")).await, None);
    assert_eq!(second.applied(&store).await, at(0));

    store.adopt_queue(second.queue).await.unwrap();
    harness.restart().await;
    let store = harness.store().await;
    assert_eq!(store.active_queue().await.unwrap(), Some(second.queue));
    store.commit(foreign(second, 0, 1)).await.unwrap();
    let error = store.commit(foreign(first, 5, 6)).await.unwrap_err();
    assert!(matches!(error, Error::WrongQueue { .. }), "{error}");

    // The store keeps the first queue's position, so switching back to it skips and repeats
    // nothing.
    assert_eq!(first.applied(&store).await, at(5));
    store.adopt_queue(first.queue).await.unwrap();
    store.commit(foreign(first, 5, 6)).await.unwrap();
    assert_eq!(second.applied(&store).await, at(1));
}
