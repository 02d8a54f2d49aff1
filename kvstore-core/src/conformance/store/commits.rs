//! A commit is atomic, subject to its checks, and assigns versions to its writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::StoreHarness;
use super::super::fixture::*;
use crate::error::Error;
use crate::model::commit::Commit;
use crate::model::entry::Version;
use crate::model::write::Condition;
use crate::store::{ListRequest, Store};

pub async fn every_write_gets_the_next_version(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let keys = ["a", "b", "c"].map(key);
    let before = put(&store, &keys[1], "0").await;
    let committed = store
        .commit(writes(keys.each_ref().map(|key| set(key, "1"))))
        .await
        .unwrap();
    assert!(committed.first_version > before);
    assert_eq!(committed.existed, [false, true, false]);
    for (key, offset) in keys.iter().zip(0..) {
        let version = get(&store, key).await.unwrap().version;
        assert_eq!(
            version,
            Version(committed.first_version.0 + offset),
            "{key:?}"
        );
    }
}

pub async fn a_key_may_repeat_in_one_commit(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let (a, b) = (key("a"), key("b"));
    let list = [
        set(&a, "1"),
        set(&b, "2"),
        delete(&a),
        set(&a, "3"),
        set(&a, "4"),
        delete(&b),
    ];
    let committed = store.commit(writes(list)).await.unwrap();
    assert_eq!(committed.existed, [false, false, true, false, true, true]);
    let entry = get(&store, &a).await.unwrap();
    assert_eq!(entry.value, value("4"));
    assert_eq!(entry.version, Version(committed.first_version.0 + 4));
    assert_eq!(get(&store, &b).await, None);
    assert!(put(&store, &b, "5").await.0 > committed.first_version.0 + 5);
}

pub async fn versions_grow_across_delete_and_recreate(harness: &dyn StoreHarness) {
    let key = key("a");
    let mut last = Version(0);
    for round in 0..3 {
        let store = harness.store().await;
        for write in [
            set(&key, "1"),
            set(&key, "1"),
            delete(&key),
            delete(&key),
            set(&key, "1"),
            delete(&key),
        ] {
            let (version, _) = commit_one(&store, write).await;
            assert!(version > last, "{version} after {last} in round {round}");
            last = version;
        }
        harness.restart().await;
    }
}

pub async fn existed_tells_what_was_there_just_before(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    for (write, expected) in [
        (delete(&key), false),
        (set(&key, "1"), false),
        (set(&key, "2"), true),
        (delete(&key), true),
        (delete(&key), false),
        (set(&key, "null"), false),
        (set(&key, "3"), true),
    ] {
        let (_, existed) = commit_one(&store, write.clone()).await;
        assert_eq!(existed, expected, "{write:?}");
    }
}

pub async fn a_commit_without_writes_tells_the_latest_version(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let version = put(&store, &key, "1").await;
    let committed = store.commit(check(&key, Condition::Present)).await.unwrap();
    assert_eq!(
        (committed.first_version, committed.existed),
        (version, vec![])
    );
    let committed = store.commit(Named::new(&store).step(0, 1)).await.unwrap();
    assert_eq!(
        (committed.first_version, committed.existed),
        (version, vec![])
    );
    assert_eq!(get(&store, &key).await.unwrap().version, version);
}

pub async fn conditions_hold_as_they_say(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let (present, absent) = (key("present"), key("absent"));
    let old = put(&store, &present, "1").await;
    let version = put(&store, &present, "1").await;
    let gone = put(&store, &absent, "1").await;
    commit_one(&store, delete(&absent)).await;
    for (key, condition, holds) in [
        (&present, Condition::Any, true),
        (&present, Condition::Absent, false),
        (&present, Condition::Present, true),
        (&present, Condition::Version(version), true),
        (&present, Condition::Version(old), false),
        (&present, Condition::Version(Version(version.0 + 1)), false),
        (&absent, Condition::Any, true),
        (&absent, Condition::Absent, true),
        (&absent, Condition::Present, false),
        (&absent, Condition::Version(gone), false),
        (&present, Condition::one_of(&[old, version]), true),
        (&present, Condition::one_of(&[old, gone]), false),
        (&absent, Condition::one_of(&[old, gone]), false),
        (&present, Condition::one_of(&[]), false),
        (&present, Condition::none_of(&[old, gone], true), true),
        (&present, Condition::none_of(&[old, version], true), false),
        (&absent, Condition::none_of(&[old, gone], true), true),
        (&present, Condition::none_of(&[old, gone], false), true),
        (&present, Condition::none_of(&[version], false), false),
        (&absent, Condition::none_of(&[gone], false), false),
    ] {
        let expected = (key == &present).then_some(version);
        match store.commit(check(key, condition.clone())).await {
            Ok(_) => assert!(holds, "{condition:?} on {key:?}"),
            Err(Error::Conflict {
                key: named,
                check: 0,
                current,
            }) => {
                assert!(!holds, "{condition:?} on {key:?}");
                assert_eq!((&named, current), (key, expected));
            }
            Err(error) => panic!("{condition:?} on {key:?}: {error}"),
        }
    }
}

pub async fn conflict_names_the_first_failed_check(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let (a, b) = (key("a"), key("b"));
    let version = put(&store, &b, "1").await;
    let checks = vec![
        (a.clone(), Condition::Absent),
        (b.clone(), Condition::Present),
        (b.clone(), Condition::Absent),
        (a.clone(), Condition::Present),
    ];
    let error = store
        .commit(Commit {
            checks,
            ..Commit::default()
        })
        .await
        .unwrap_err();
    let Error::Conflict {
        key,
        check,
        current,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((key, check, current), (b, 2, Some(version)));
}

pub async fn a_failed_check_changes_nothing(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let (a, b) = (key("a"), key("b"));
    let version = put(&store, &a, "1").await;
    let named = Named::new(&store);
    let commit = Commit {
        checks: vec![
            (a.clone(), Condition::Version(version)),
            (b.clone(), Condition::Present),
        ],
        writes: vec![set(&a, "2"), set(&b, "2"), delete(&a)],
        advance: Some(named.advance(0, 5)),
    };
    let error = store.commit(commit).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { check: 1, .. }), "{error}");
    let unchanged = async |store: &dyn Store| {
        assert_eq!(get(store, &a).await.unwrap().version, version);
        assert_eq!(get(store, &b).await, None);
        assert_eq!(named.applied(store).await, at(0));
        assert_eq!(store.active_queue().await.unwrap(), None);
    };
    unchanged(&store).await;
    harness.restart().await;
    unchanged(&harness.store().await).await;
}

pub async fn checks_are_judged_before_the_writes_of_their_commit(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let create = || Commit {
        checks: vec![(key.clone(), Condition::Absent)],
        writes: vec![set(&key, "1"), set(&key, "2")],
        advance: None,
    };
    store.commit(create()).await.unwrap();
    let error = store.commit(create()).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
}

pub async fn checks_are_judged_before_the_position(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    store.commit(named.step(0, 5)).await.unwrap();
    let commit = Commit {
        checks: vec![(key("a"), Condition::Present)],
        ..named.step(0, 5)
    };
    let error = store.commit(commit).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
}

pub async fn what_is_acknowledged_is_visible_at_once(harness: &dyn StoreHarness) {
    let mut tasks = Vec::new();
    for task in 0..8 {
        let (writer, reader) = (harness.store().await, harness.store().await);
        tasks.push(tokio::spawn(async move {
            let key = key(&task.to_string());
            for round in 0..25 {
                let version = put(&writer, &key, &round.to_string()).await;
                let entry = get(&reader, &key).await.unwrap();
                assert_eq!((entry.version, entry.value), (version, number(round)));
            }
        }));
    }
    join_all(tasks).await;
}

pub async fn a_commit_is_seen_whole(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let pair = [key("a"), key("b")];
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for reads_pages in [false, false, true] {
        let (store, pair, done) = (harness.store().await, pair.clone(), Arc::clone(&done));
        readers.push(tokio::spawn(async move {
            let mut latest = None;
            while !done.load(Ordering::Relaxed) {
                let seen = if reads_pages {
                    page(&store).await
                } else {
                    many(&store, &pair).await
                };
                match seen[..] {
                    [] => {}
                    [a, b] => {
                        assert_eq!(a.0, b.0, "both have the value of one commit");
                        assert_eq!(a.1.0 + 1, b.1.0, "and versions of one commit");
                        assert!(Some(a.1) >= latest, "a reader never goes back");
                        latest = Some(a.1);
                    }
                    _ => panic!("half a commit: {seen:?}"),
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    let [a, b] = &pair;
    for round in 0..150 {
        let commit = if round % 3 == 2 {
            [delete(a), delete(b)]
        } else {
            pair.each_ref().map(|key| set(key, &round.to_string()))
        };
        store.commit(writes(commit)).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    join_all(readers).await;
}

async fn many(store: &dyn Store, keys: &[crate::model::key::Key]) -> Vec<(u64, Version)> {
    let entries = store.get_many(keys).await.unwrap().into_iter().flatten();
    entries
        .map(|entry| (as_number(&entry.value), entry.version))
        .collect()
}

async fn page(store: &dyn Store) -> Vec<(u64, Version)> {
    let request = ListRequest {
        include_values: true,
        ..ListRequest::default()
    };
    let entries = store.list(&request).await.unwrap().entries.into_iter();
    entries
        .map(|listed| (as_number(&listed.value.unwrap()), listed.version))
        .collect()
}

pub async fn compare_and_set_loses_no_update(harness: &dyn StoreHarness) {
    const TASKS: u64 = 8;
    const ROUNDS: u64 = 15;
    let counter = key("counter");
    put(&harness.store().await, &counter, "0").await;
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        let (store, counter) = (harness.store().await, counter.clone());
        tasks.push(tokio::spawn(async move {
            let mut left = ROUNDS;
            while left > 0 {
                let entry = get(&store, &counter).await.unwrap();
                let commit = Commit {
                    checks: vec![(counter.clone(), Condition::Version(entry.version))],
                    writes: vec![set(&counter, &(as_number(&entry.value) + 1).to_string())],
                    advance: None,
                };
                match store.commit(commit).await {
                    Ok(_) => left -= 1,
                    Err(Error::Conflict { current, .. }) => assert!(current > Some(entry.version)),
                    Err(error) => panic!("{error}"),
                }
            }
        }));
    }
    join_all(tasks).await;
    let entry = get(&harness.store().await, &counter).await.unwrap();
    assert_eq!(as_number(&entry.value), TASKS * ROUNDS);
}

pub async fn only_one_of_many_creates(harness: &dyn StoreHarness) {
    let key = key("a");
    let mut tasks = Vec::new();
    for number in 0..8 {
        let (store, key) = (harness.store().await, key.clone());
        tasks.push(tokio::spawn(async move {
            let commit = Commit {
                checks: vec![(key.clone(), Condition::Absent)],
                writes: vec![set(&key, &number.to_string())],
                advance: None,
            };
            match store.commit(commit).await {
                Ok(_) => Some(number),
                Err(Error::Conflict { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        }));
    }
    let mut winners = Vec::new();
    for task in tasks {
        winners.extend(task.await.unwrap());
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(
        text(&harness.store().await, &key).await,
        Some(winners[0].to_string())
    );
}

pub async fn a_commit_that_nobody_waits_for_is_whole_or_absent(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    for number in 0..50 {
        let pair = [key(&format!("a{number}")), key(&format!("b{number}"))];
        let commit = writes(pair.each_ref().map(|key| set(key, "1")));
        give_up_after_one_poll(store.commit(commit)).await;
    }
    put(&store, &key("after"), "1").await;
    harness.restart().await;
    let store = harness.store().await;
    for number in 0..50 {
        let pair = [key(&format!("a{number}")), key(&format!("b{number}"))];
        let found = store.get_many(&pair).await.unwrap();
        assert_eq!(found[0].is_some(), found[1].is_some(), "pair {number}");
    }
    assert!(get(&store, &key("after")).await.is_some());
}
