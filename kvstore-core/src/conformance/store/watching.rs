//! A watch reports every change, in the order of each key, or says that some were missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::StoreHarness;
use super::super::fixture::*;
use crate::error::Error;
use crate::limits::CHANGES_MAX;
use crate::model::entry::Version;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::store::{ChangeId, ChangeKind, ListRequest, Store, WatchFrom, WatchRequest};

pub async fn watch_shows_every_change_in_order(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    put(&store, &key, "0").await;
    let mut watch = harness
        .store()
        .await
        .watch(&WatchFrom::Now.into())
        .await
        .unwrap();
    let mut expected = Vec::new();
    for write in [set(&key, "1"), set(&key, "2"), delete(&key), set(&key, "3")] {
        let kind = match write.change {
            crate::model::write::Change::Set { .. }
            | crate::model::write::Change::SetFor { .. } => ChangeKind::Set,
            crate::model::write::Change::Delete => ChangeKind::Delete,
        };
        expected.push((commit_one(&store, write).await.0, kind));
    }
    let committed = store
        .commit(writes([delete(&key), set(&key, "4")]))
        .await
        .unwrap();
    expected.push((committed.first_version, ChangeKind::Delete));
    expected.push((Version(committed.first_version.0 + 1), ChangeKind::Set));
    for expected in expected {
        let changed = next(&mut watch).await;
        assert_eq!(changed.key, key);
        assert_eq!((changed.version, changed.kind), expected);
    }
}

pub async fn watch_from_now_shows_nothing_older(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    put(&store, &key("a"), "1").await;
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let version = put(&store, &key("a"), "2").await;
    assert_eq!(next(&mut watch).await.version, version);
}

pub async fn a_watch_resumes_behind_any_change(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let committed = store
        .commit(writes([set(&key, "1"), set(&key, "2"), delete(&key)]))
        .await
        .unwrap();
    let mut versions = vec![
        committed.first_version,
        Version(committed.first_version.0 + 1),
        Version(committed.first_version.0 + 2),
    ];
    for number in 3..6 {
        versions.push(put(&store, &key, &number.to_string()).await);
    }
    let mut starts = vec![watch.start.clone()];
    for _ in &versions {
        starts.push(next(&mut watch).await.id);
    }
    for (seen, start) in starts.into_iter().enumerate() {
        // A client passes ids on as text.
        let from = WatchFrom::After(ChangeId::new(start.as_str()));
        let mut resumed = harness.store().await.watch(&from.into()).await.unwrap();
        for version in &versions[seen..] {
            assert_eq!(next(&mut resumed).await.version, *version);
        }
        let version = put(&store, &key, "6").await;
        assert_eq!(
            next(&mut resumed).await.version,
            version,
            "and then follows"
        );
        versions.push(version);
    }
}

/// Entries by key.
type Shown = BTreeMap<Key, (Version, Option<Value>)>;

/// Lists everything below the prefix `p` in pages of `limit`, and returns it with the change id of
/// the first page.
async fn list_all(store: &dyn Store, limit: usize) -> (Shown, ChangeId) {
    let mut request = ListRequest {
        prefix: "p".to_owned(),
        limit,
        include_values: true,
        ..ListRequest::default()
    };
    let mut shown = Shown::new();
    let mut as_of = None;
    loop {
        let page = store.list(&request).await.unwrap();
        as_of.get_or_insert(page.as_of);
        for listed in page.entries {
            shown.insert(listed.key, (listed.version, listed.value));
        }
        match page.next {
            Some(next) => request.after = Some(next),
            None => return (shown, as_of.unwrap()),
        }
    }
}

pub async fn a_watch_from_a_page_misses_nothing_of_what_comes_after_it(harness: &dyn StoreHarness) {
    const LIMITS: [usize; 2] = [2, 100];
    let store = harness.store().await;
    // Order holds within a partition, so each partition has a last change of its own.
    let ends = key_for_each_partition(partitions(&store));
    let listed = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn({
        let (store, ends, listed) = (share(&store), ends.clone(), Arc::clone(&listed));
        async move {
            let (mut round, mut after) = (0, 0);
            // Writes while the pages are read, and a little longer.
            while after < 50 {
                let key = Key::new(&format!("p{}", round % 7)).unwrap();
                match round % 3 {
                    0 => drop(commit_one(&store, delete(&key)).await),
                    _ => drop(put(&store, &key, &round.to_string()).await),
                }
                round += 1;
                after += usize::from(listed.load(Ordering::SeqCst) == LIMITS.len());
            }
            for end in &ends {
                put(&store, end, "0").await;
            }
        }
    });
    let mut readers = Vec::new();
    for limit in LIMITS {
        let (store, listed) = (harness.store().await, Arc::clone(&listed));
        let mut awaited = ends.len();
        readers.push(tokio::spawn(async move {
            let (mut shown, as_of) = list_all(&store, limit).await;
            listed.fetch_add(1, Ordering::SeqCst);
            let mut watch = store.watch(&WatchFrom::After(as_of).into()).await.unwrap();
            while awaited > 0 {
                let changed = next(&mut watch).await;
                if changed.key.as_str().starts_with("key-") {
                    awaited -= 1;
                    continue;
                }
                // A page may show a change that is later than its change id: the watch then reports
                // that change again.
                let known = shown.get(&changed.key).map(|(version, _)| *version);
                if known.is_some_and(|known| known > changed.version) {
                    continue;
                }
                match changed.kind {
                    ChangeKind::Set => {
                        let value = changed.value;
                        shown.insert(changed.key, (changed.version, value))
                    }
                    ChangeKind::Delete | ChangeKind::Expire => shown.remove(&changed.key),
                };
            }
            (shown, list_all(&store, limit).await.0)
        }));
    }
    writer.await.unwrap();
    for reader in readers {
        let (heard, there) = reader.await.unwrap();
        assert!(!there.is_empty());
        assert_eq!(heard, there);
    }
}

pub async fn a_value_goes_out_only_with_its_own_version(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let mut versions = Vec::new();
    for number in 0..20 {
        versions.push(put(&store, &key, &number.to_string()).await);
    }
    let mut last = None;
    for (version, number) in versions.into_iter().zip(0..) {
        let changed = next(&mut watch).await;
        assert_eq!(changed.version, version);
        assert!(
            changed.value.is_none() || changed.value == Some(self::number(number)),
            "{changed:?}"
        );
        last = changed.value;
    }
    assert_eq!(last, Some(number(19)), "the latest version has its value");
    commit_one(&store, delete(&key)).await;
    assert_eq!(next(&mut watch).await.value, None);
}

pub async fn no_expired_value_goes_out(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let deadline = harness.now().await.after(SHORT);
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let (version, _) = commit_one(&store, set_until(&key, "1", deadline)).await;
    harness.set_clock(deadline).await;
    let changed = next(&mut watch).await;
    assert_eq!((changed.version, changed.kind), (version, ChangeKind::Set));
    assert_eq!(changed.value, None, "it is absent by now");
}

pub async fn a_delete_of_nothing_is_not_announced(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let (unused, _) = commit_one(&store, delete(&key)).await;
    let version = put(&store, &key, "1").await;
    assert!(version > unused, "it uses up a version");
    assert_eq!(next(&mut watch).await.version, version);
    commit_one(&store, delete(&key)).await;
    commit_one(&store, delete(&key)).await;
    let last = put(&store, &key, "2").await;
    assert_eq!(next(&mut watch).await.kind, ChangeKind::Delete);
    assert_eq!(next(&mut watch).await.version, last);
}

pub async fn a_mirror_of_the_changes_is_the_store(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let mut random = StdRng::seed_from_u64(7);
    let keys: Vec<Key> = (0..6).map(|number| key(&number.to_string())).collect();
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let start = harness.now().await;
    for round in 0..8 {
        for _ in 0..8 {
            let some: Vec<_> = (0..random.random_range(1..4))
                .map(|_| {
                    let key = &keys[random.random_range(0..keys.len())];
                    let deadline = start.after(SHORT * random.random_range(0..10));
                    match random.random_range(0..4) {
                        0 => delete(key),
                        1 => set(key, "1"),
                        _ => set_until(key, "2", deadline),
                    }
                })
                .collect();
            store.commit(writes(some)).await.unwrap();
        }
        if random.random() {
            harness.set_clock(start.after(SHORT * round)).await;
        }
        if random.random_ratio(1, 3) {
            store.expire(partition(&store)).await.unwrap();
        }
    }
    harness.set_clock(start.after(SHORT * 10)).await;
    while store.expire(partition(&store)).await.unwrap() > 0 {}
    // Only the order of each key is promised, so the mirror is complete once the last change of
    // each key has come.
    let mut last = BTreeMap::new();
    for key in &keys {
        last.insert(key.clone(), put(&store, key, "3").await);
        if random.random() {
            last.insert(key.clone(), commit_one(&store, delete(key)).await.0);
        }
    }
    let (mut mirror, mut latest) = (BTreeMap::new(), BTreeMap::new());
    while latest != last {
        let changed = next(&mut watch).await;
        let before = latest.insert(changed.key.clone(), changed.version);
        assert!(
            before < Some(changed.version),
            "in order: {changed:?} after {before:?}"
        );
        match changed.kind {
            ChangeKind::Set => {
                mirror.insert(changed.key, changed.version);
            }
            ChangeKind::Delete | ChangeKind::Expire => {
                let there = mirror.remove(&changed.key);
                assert!(there.is_some(), "what is absent does not end: {changed:?}");
            }
        }
    }
    let listed = everything(&store)
        .await
        .into_iter()
        .map(|listed| (listed.key, listed.version));
    assert_eq!(mirror, listed.collect());
}

pub async fn watchers_see_what_concurrent_writers_do(harness: &dyn StoreHarness) {
    const WRITERS: u64 = 4;
    const ROUNDS: usize = 40;
    let store = harness.store().await;
    let mut watchers = Vec::new();
    for _ in 0..3 {
        let mut watch = harness
            .store()
            .await
            .watch(&WatchFrom::Now.into())
            .await
            .unwrap();
        watchers.push(tokio::spawn(async move {
            let mut seen: BTreeMap<Key, Vec<Version>> = BTreeMap::new();
            for _ in 0..2 * ROUNDS * WRITERS as usize {
                let changed = next(&mut watch).await;
                seen.entry(changed.key).or_default().push(changed.version);
            }
            seen
        }));
    }
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = share(&store);
        writers.push(tokio::spawn(async move {
            let (own, common) = (key(&writer.to_string()), key("common"));
            for _ in 0..ROUNDS {
                store
                    .commit(writes([set(&own, "1"), set(&common, "1")]))
                    .await
                    .unwrap();
            }
        }));
    }
    join_all(writers).await;
    for watcher in watchers {
        for (key, versions) in watcher.await.unwrap() {
            assert!(
                versions.is_sorted_by(|a, b| a < b),
                "{key:?} in order, none twice"
            );
            assert_eq!(
                versions.last(),
                Some(&get(&store, &key).await.unwrap().version)
            );
        }
    }
}

/// Pushes all earlier changes out of the history.
async fn fill_history(store: &dyn Store) {
    let key = key("filler");
    let mut last = Version(0);
    for _ in 0..2 * CHANGES_MAX / 1000 + 1 {
        let commit = writes(vec![set(&key, "1"); 1000]);
        last = store.commit(commit).await.unwrap().first_version;
    }
    // By now a follower has read all of it, so the watch does not see it arrive bit by bit.
    let entry = store.get(&key).await.unwrap().unwrap();
    assert_eq!(entry.version.0, last.0 + 999);
}

pub async fn a_point_out_of_the_history_is_compacted(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    put(&store, &key("a"), "1").await;
    let early = next(&mut watch).await.id;
    fill_history(&store).await;
    for from in [watch.start, early] {
        let error = store
            .watch(&WatchFrom::After(from).into())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Compacted), "{error}");
    }
}

pub async fn a_point_that_is_no_id_is_refused(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    for text in [
        "",
        "never handed out",
        "-1",
        "1 ",
        "99999999999999999999999",
    ] {
        let from = WatchFrom::After(ChangeId::new(text));
        let error = store.watch(&from.into()).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{text:?}: {error}");
    }
}

pub async fn a_watch_that_falls_behind_ends_with_compacted(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let first = put(&store, &key("filler"), "1").await;
    fill_history(&store).await;
    let mut expected = first.0;
    let error = loop {
        match watch.changes.next().await.expect("it ends with an error") {
            Ok(changed) => {
                assert_eq!(changed.version.0, expected, "nothing is skipped");
                expected += 1;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Compacted), "{error}");
    assert!(watch.changes.next().await.is_none());
}

pub async fn a_watch_over_a_restart_skips_nothing(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    put(&store, &key("a"), "1").await;
    let seen = next(&mut watch).await.id;
    let missed = put(&store, &key("a"), "2").await;
    drop((watch, store));
    harness.restart().await;
    // A store that keeps no history across a restart says so.
    match harness
        .store()
        .await
        .watch(&WatchFrom::After(seen).into())
        .await
    {
        Ok(mut resumed) => assert_eq!(next(&mut resumed).await.version, missed),
        Err(error) => assert!(matches!(error, Error::Compacted), "{error}"),
    }
}

pub async fn a_watch_ends_when_the_store_is_closed(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let watching =
        tokio::spawn(async move { while let Some(Ok(_)) = watch.changes.next().await {} });
    store.close().await.unwrap();
    tokio::time::timeout(SOON, watching)
        .await
        .expect("no call waits forever")
        .unwrap();
}

pub async fn a_watch_shows_what_was_asked_for_alone(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let request = |prefix: &str, kinds: &[ChangeKind], include_values| WatchRequest {
        prefix: key(prefix).as_str().to_owned(),
        kinds: kinds.to_vec(),
        include_values,
        from: WatchFrom::Now,
    };
    let all = ChangeKind::ALL;
    let watch = async |request| store.watch(&request).await.unwrap();
    let mut of_users = watch(request("user:", &[ChangeKind::Set], true)).await;
    let mut of_one = watch(request("user:1", &all, false)).await;
    let mut of_others = watch(request("other:", &all, true)).await;
    let (one, two) = (key("user:1"), key("user:2"));
    put(&store, &key("us"), "0").await;
    let first = put(&store, &one, "1").await;
    commit_one(&store, delete(&one)).await;
    let second = put(&store, &two, "2").await;

    let shown = next(&mut of_users).await;
    assert_eq!((shown.key, shown.version), (one.clone(), first));
    let shown = next(&mut of_users).await;
    assert_eq!((shown.key, shown.version), (two.clone(), second));
    assert_eq!(shown.value, Some(number(2)));
    for kind in [ChangeKind::Set, ChangeKind::Delete] {
        let shown = next(&mut of_one).await;
        assert_eq!((shown.kind, shown.value), (kind, None));
        assert_eq!(shown.key, one);
    }
    // A watch without anything to report advances all the same.
    let started = of_others.start.clone();
    let place = loop {
        let pending = tokio::time::timeout(Duration::from_millis(20), of_others.changes.next());
        assert!(pending.await.is_err(), "it shows an unrequested change");
        let place = (of_others.place)();
        if place != started {
            break place;
        }
    };
    let after = watch(WatchFrom::After(started).into()).await;
    let missed: Vec<_> = after.changes.take(4).collect().await;
    assert!(missed.iter().all(Result::is_ok), "{missed:?}");
    let mut resumed = watch(WatchFrom::After(place).into()).await;
    let third = put(&store, &key("other:1"), "3").await;
    assert_eq!(next(&mut of_others).await.version, third);
    assert_eq!(next(&mut resumed).await.version, third);
}

pub async fn many_who_watch_apart_hear_of_their_own_keys(harness: &dyn StoreHarness) {
    const WATCHERS: u64 = 50;
    const ROUNDS: u64 = 40;
    let store = harness.store().await;
    let name = |watcher, round| key(&format!("w{watcher}:{round}"));
    let mut tasks = Vec::new();
    for number in 0..WATCHERS {
        let request = WatchRequest {
            prefix: key(&format!("w{number}:")).as_str().to_owned(),
            ..WatchRequest::default()
        };
        let mut watch = store.watch(&request).await.unwrap();
        tasks.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                assert_eq!(next(&mut watch).await.key, name(number, round));
            }
        }));
    }
    for writer in 0..4 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                for number in (0..WATCHERS).filter(|number| number % 4 == writer) {
                    put(&store, &name(number, round), "1").await;
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}
