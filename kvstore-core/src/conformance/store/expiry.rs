//! Past its deadline an entry is absent, in every method, for good.

use std::time::Duration;

use super::super::StoreHarness;
use super::super::fixture::*;
use crate::error::Error;
use crate::limits::EXPIRE_BATCH;
use crate::model::commit::Commit;
use crate::model::write::{Change, Condition, Write};
use crate::store::{ChangeKind, ListRequest, WatchFrom};

pub async fn an_entry_lives_until_its_deadline(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let deadline = harness.now().await.after(2 * SHORT);
    commit_one(&store, set_until(&key, "1", deadline)).await;
    assert!(get(&store, &key).await.is_some());
    harness.set_clock(deadline.before(SHORT / 2)).await;
    assert_eq!(get(&store, &key).await.unwrap().expires_at, Some(deadline));
    harness.set_clock(deadline).await;
    assert_eq!(get(&store, &key).await, None);
}

pub async fn a_time_to_live_counts_from_the_commit(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let (key, ttl) = (key("a"), 2 * SHORT);
    let change = Change::SetFor {
        value: value("1"),
        ttl,
    };
    let begun = harness.now().await;
    let write = Write {
        key: key.clone(),
        change,
    };
    commit_one(&store, write).await;
    let ended = harness.now().await;
    let deadline = get(&store, &key).await.unwrap().expires_at.unwrap();
    assert!((begun.after(ttl)..=ended.after(ttl)).contains(&deadline));
    harness.set_clock(deadline).await;
    assert_eq!(get(&store, &key).await, None);
}

pub async fn a_time_to_live_without_end_ends_late(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let write = Write {
        key: key.clone(),
        change: Change::SetFor {
            value: value("1"),
            ttl: Duration::MAX,
        },
    };
    commit_one(&store, write).await;
    let year = 365 * 24 * 60 * 60;
    harness
        .set_clock(harness.now().await.after(Duration::from_secs(1000 * year)))
        .await;
    assert_eq!(get(&store, &key).await.unwrap().value, value("1"));
}

pub async fn expired_entry_is_absent(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let (mortal, folded, permanent) = (key("a"), key("b/c"), key("d"));
    let deadline = harness.now().await.after(SHORT);
    let list = [
        set_until(&mortal, "1", deadline),
        set_until(&folded, "2", deadline),
        set(&permanent, "3"),
    ];
    store.commit(writes(list)).await.unwrap();
    harness.set_clock(deadline).await;
    for _ in 0..2 {
        let store = harness.store().await;
        assert_eq!(get(&store, &mortal).await, None);
        let many = store
            .get_many(&[mortal.clone(), permanent.clone()])
            .await
            .unwrap();
        assert!(many[0].is_none() && many[1].is_some());
        let request = ListRequest {
            prefix: "{t}".into(),
            delimiter: Some("/".into()),
            count: true,
            ..ListRequest::default()
        };
        let page = store.list(&request).await.unwrap();
        assert_eq!(page.count, Some(1));
        assert_eq!(page.entries.len(), 1);
        assert_eq!(page.prefixes, Vec::<String>::new());
        harness.restart().await;
    }
}

pub async fn expired_entry_is_absent_to_conditions(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let deadline = harness.now().await.after(SHORT);
    let (version, _) = commit_one(&store, set_until(&key, "1", deadline)).await;
    store
        .commit(check(&key, Condition::Version(version)))
        .await
        .unwrap();
    harness.set_clock(deadline).await;
    for condition in [Condition::Present, Condition::Version(version)] {
        let error = store
            .commit(check(&key, condition.clone()))
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Conflict { current: None, .. }),
            "{condition:?}: {error}"
        );
    }
    store.commit(check(&key, Condition::Absent)).await.unwrap();
}

pub async fn expired_entry_is_absent_to_writes(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let (a, b) = (key("a"), key("b"));
    let deadline = harness.now().await.after(SHORT);
    store
        .commit(writes([
            set_until(&a, "1", deadline),
            set_until(&b, "1", deadline),
        ]))
        .await
        .unwrap();
    harness.set_clock(deadline).await;
    let committed = store
        .commit(writes([set(&a, "2"), delete(&b)]))
        .await
        .unwrap();
    assert_eq!(committed.existed, [false, false]);
    assert_eq!(text(&store, &a).await.as_deref(), Some("2"));
    assert_eq!(get(&store, &b).await, None);
}

pub async fn deadline_in_the_past_is_an_applied_write(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let before = put(&store, &key, "1").await;
    let past = harness.now().await.before(SHORT);
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let committed = store
        .commit(writes([
            set_until(&key, "2", past),
            set_until(&key, "3", past),
            set_until(&key, "4", harness.now().await),
        ]))
        .await
        .unwrap();
    assert!(committed.first_version > before);
    assert_eq!(committed.existed, [true, false, false]);
    let announced = next(&mut watch).await;
    assert_eq!(announced.version, committed.first_version);
    assert_ne!(announced.kind, ChangeKind::Set, "the old value ended");
    assert_eq!(get(&store, &key).await, None);
    store.commit(check(&key, Condition::Absent)).await.unwrap();
    assert!(put(&store, &key, "5").await.0 > committed.first_version.0 + 2);
}

pub async fn a_new_value_has_its_own_deadline(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let now = harness.now().await;
    let (permanent, prolonged, shortened) = (key("a"), key("b"), key("c"));
    for key in [&permanent, &prolonged] {
        commit_one(&store, set_until(key, "1", now.after(SHORT))).await;
    }
    commit_one(&store, set_until(&shortened, "1", now.after(SOON))).await;
    put(&store, &permanent, "2").await;
    commit_one(&store, set_until(&prolonged, "2", now.after(SOON))).await;
    commit_one(&store, set_until(&shortened, "2", now.after(SHORT))).await;
    harness.set_clock(now.after(SHORT)).await;
    assert_eq!(store.expire(partition(&store)).await.unwrap(), 1);
    assert_eq!(text(&store, &permanent).await.as_deref(), Some("2"));
    assert_eq!(text(&store, &prolonged).await.as_deref(), Some("2"));
    assert_eq!(get(&store, &shortened).await, None);
}

pub async fn expire_removes_what_has_expired_and_nothing_else(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let deadline = harness.now().await.after(SHORT);
    let total = EXPIRE_BATCH + EXPIRE_BATCH / 2;
    let mortals: Vec<_> = (0..total)
        .map(|number| set_until(&key(&format!("mortal-{number}")), "1", deadline))
        .collect();
    for part in mortals.chunks(1000) {
        store.commit(writes(part)).await.unwrap();
    }
    put(&store, &key("permanent"), "1").await;
    commit_one(&store, set_until(&key("later"), "1", deadline.after(SOON))).await;
    let partition = partition(&store);
    assert_eq!(
        store.expire(partition).await.unwrap(),
        0,
        "nothing has expired yet"
    );
    harness.set_clock(deadline).await;
    let mut removed = 0;
    loop {
        match store.expire(partition).await.unwrap() {
            0 => break,
            some => {
                assert!(some <= EXPIRE_BATCH, "one call has a bounded cost: {some}");
                removed += some;
            }
        }
    }
    assert_eq!(removed, total);
    assert_eq!(everything(&store).await.len(), 2);
}

pub async fn expire_is_announced_with_a_version_of_its_own(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let deadline = harness.now().await.after(SHORT);
    let mut watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let (version, _) = commit_one(&store, set_until(&key, "1", deadline)).await;
    harness.set_clock(deadline).await;
    assert_eq!(store.expire(partition(&store)).await.unwrap(), 1);
    assert_eq!(next(&mut watch).await.kind, ChangeKind::Set);
    let expired = next(&mut watch).await;
    assert_eq!(
        (&expired.key, expired.kind, &expired.value),
        (&key, ChangeKind::Expire, &None)
    );
    assert!(expired.version > version);
    assert!(put(&store, &key, "2").await > expired.version);
}

pub async fn time_never_goes_back(harness: &dyn StoreHarness) {
    let key = key("a");
    let start = harness.now().await;
    let deadline = start.after(SHORT);
    let store = harness.store().await;
    commit_one(&store, set_until(&key, "1", deadline)).await;
    harness.set_clock(deadline).await;
    assert_eq!(get(&store, &key).await, None);
    // A commit evaluated the key at this time, so every later start must treat it the same way.
    let commit = Commit {
        checks: vec![(key.clone(), Condition::Absent)],
        ..writes([set(&super::super::fixture::key("b"), "1")])
    };
    store.commit(commit).await.unwrap();
    harness.set_clock(start).await;
    assert_eq!(get(&store, &key).await, None, "it does not come alive");
    store.commit(check(&key, Condition::Absent)).await.unwrap();
    harness.restart().await;
    assert_eq!(
        get(&harness.store().await, &key).await,
        None,
        "nor after a restart"
    );
}
