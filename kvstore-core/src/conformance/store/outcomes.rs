//! A job's state follows from the position and the kept outcomes; an unknown outcome is never
//! reported as success.

use std::time::{Duration, Instant};

use super::super::StoreHarness;
use super::super::fixture::*;
use crate::limits::{OUTCOME_RETENTION, OUTCOMES_MAX};
use crate::model::commit::{Advance, Commit, Verdict};
use crate::model::entry::Version;
use crate::model::job::{Applied, Computed, Dead, Failed, Failure, JobState, Outcome, Succeeded};
use crate::store::Store;

async fn state(store: &dyn Store, named: Named, number: u64) -> JobState {
    store
        .outcome(&named.job(number), Duration::ZERO)
        .await
        .unwrap()
}

const PLAIN: JobState = JobState::Finished(Outcome::Succeeded(None));

pub async fn a_job_ahead_of_the_position_is_queued(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    assert_eq!(
        state(&store, named, 1).await,
        JobState::Queued,
        "before the first commit"
    );
    store.commit(named.step(0, 2)).await.unwrap();
    assert_eq!(state(&store, named, 1).await, PLAIN);
    assert_eq!(state(&store, named, 2).await, PLAIN);
    assert_eq!(state(&store, named, 3).await, JobState::Queued);
}

pub async fn kept_outcomes_tell_versions_and_what_existed(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let (a, b) = (key("a"), key("b"));
    put(&store, &b, "0").await;
    let commit = Commit {
        writes: vec![set(&a, "1"), set(&b, "2"), set(&key("c"), "3"), delete(&b)],
        ..named.step_with(
            0,
            5,
            vec![
                (at(1), succeeded(&a, 0, 1)),
                (at(3), succeeded(&a, 1, 2)),
                (at(5), succeeded(&b, 4, 0)),
            ],
        )
    };
    let first = store.commit(commit).await.unwrap().first_version.0;
    let applied = |offset, existed| Applied {
        version: Version(first + offset),
        existed,
        computed: Computed::default(),
    };
    let details = |key, writes| {
        JobState::Finished(Outcome::Succeeded(Some(Succeeded {
            summary: summary(key),
            writes,
        })))
    };
    for _ in 0..2 {
        let store = harness.store().await;
        assert_eq!(
            state(&store, named, 1).await,
            details(&a, vec![applied(0, false)])
        );
        assert_eq!(state(&store, named, 2).await, PLAIN);
        assert_eq!(
            state(&store, named, 3).await,
            details(&a, vec![applied(1, true), applied(2, false)])
        );
        assert_eq!(state(&store, named, 5).await, details(&b, vec![]));
        harness.restart().await;
    }
}

pub async fn failures_are_told_as_they_were(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let a = key("a");
    let version = put(&store, &a, "1").await;
    let dead = Dead {
        reason: "it was \"too\" much".into(),
        attempts: 7,
        command: set_command(&a, "[1.0]"),
    };
    let outcomes = vec![
        (at(1), failed(&a, None)),
        (
            at(2),
            Verdict::Failed {
                summary: summary(&a),
                operation: 3,
                reason: Failure::Condition,
                current: Some(version),
            },
        ),
        (at(3), Verdict::Dead(dead.clone())),
    ];
    store.commit(named.step_with(0, 3, outcomes)).await.unwrap();
    let expected = |operation, current| {
        JobState::Finished(Outcome::Failed(Failed {
            summary: summary(&a),
            operation,
            reason: Failure::Condition,
            current,
        }))
    };
    for _ in 0..2 {
        let store = harness.store().await;
        assert_eq!(state(&store, named, 1).await, expected(0, None));
        assert_eq!(state(&store, named, 2).await, expected(3, Some(version)));
        assert_eq!(
            state(&store, named, 3).await,
            JobState::Finished(Outcome::Dead(dead.clone()))
        );
        harness.restart().await;
    }
}

pub async fn outcome_wakes_when_applied(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let mut waiting = Vec::new();
    for number in [1, 2, 2, 3] {
        let store = harness.store().await;
        waiting.push(tokio::spawn(async move {
            let state = store.outcome(&named.job(number), 4 * SOON).await.unwrap();
            assert_ne!(state, JobState::Queued, "job {number}");
        }));
    }
    for step in 0..3 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        store.commit(named.step(step, step + 1)).await.unwrap();
    }
    tokio::time::timeout(SOON, join_all(waiting))
        .await
        .expect("waiters are woken");
}

pub async fn outcome_waits_no_longer_than_asked(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let start = Instant::now();
    let wait = Duration::from_millis(200);
    let state = store.outcome(&named.job(1), wait).await.unwrap();
    assert_eq!(state, JobState::Queued);
    assert!(start.elapsed() >= wait);
    assert!(start.elapsed() < SOON);
}

pub async fn outcome_of_another_queue_is_unknown(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let (first, second) = (Named::new(&store), Named::new(&store));
    store.commit(first.step(0, 5)).await.unwrap();
    assert_eq!(state(&store, second, 1).await, JobState::Unknown);
    let start = Instant::now();
    assert_eq!(
        store.outcome(&second.job(1), 2 * SOON).await.unwrap(),
        JobState::Unknown
    );
    assert!(start.elapsed() < SOON, "there is nothing to wait for");
    store.adopt_queue(second.queue).await.unwrap();
    store.commit(second.step(0, 1)).await.unwrap();
    assert_eq!(state(&store, first, 5).await, JobState::Unknown);
    assert_eq!(state(&store, second, 1).await, PLAIN);
    assert_eq!(state(&store, second, 2).await, JobState::Queued);
}

pub async fn lost_interval_is_unknown(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let lose = |from, to| Commit {
        advance: Some(Advance {
            lost: true,
            ..named.advance(from, to)
        }),
        ..Commit::default()
    };
    store
        .commit(named.step_with(0, 5, vec![(at(5), failed(&key("a"), None))]))
        .await
        .unwrap();
    store.commit(lose(5, 10)).await.unwrap();
    store.commit(named.step(10, 12)).await.unwrap();
    store.commit(lose(12, 13)).await.unwrap();
    store.commit(named.step(13, 20)).await.unwrap();
    for _ in 0..2 {
        let store = harness.store().await;
        for number in [6, 9, 10, 13] {
            assert_eq!(
                state(&store, named, number).await,
                JobState::Unknown,
                "{number}"
            );
        }
        for number in [4, 11, 12, 14, 20] {
            assert_eq!(state(&store, named, number).await, PLAIN, "{number}");
        }
        assert!(matches!(
            state(&store, named, 5).await,
            JobState::Finished(Outcome::Failed(_))
        ));
        assert_eq!(state(&store, named, 21).await, JobState::Queued);
        harness.restart().await;
    }
}

pub async fn outcomes_are_bounded_in_number(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let a = key("a");
    let step = 1000;
    let end = OUTCOMES_MAX as u64 + 2 * step;
    for from in (0..end).step_by(step as usize) {
        let outcomes = (from + 1..=from + step).map(|number| (at(number), failed(&a, None)));
        store
            .commit(named.step_with(from, from + step, outcomes.collect()))
            .await
            .unwrap();
    }
    for _ in 0..2 {
        let store = harness.store().await;
        assert_eq!(state(&store, named, 1).await, JobState::Forgotten);
        assert_eq!(state(&store, named, step).await, JobState::Forgotten);
        assert!(matches!(
            state(&store, named, end).await,
            JobState::Finished(Outcome::Failed(_))
        ));
        harness.restart().await;
    }
}

pub async fn outcomes_are_bounded_in_age(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let a = key("a");
    store
        .commit(named.step_with(0, 2, vec![(at(2), failed(&a, None))]))
        .await
        .unwrap();
    move_clock(harness, OUTCOME_RETENTION - Duration::from_secs(10)).await;
    store
        .commit(named.step_with(2, 4, vec![(at(4), failed(&a, None))]))
        .await
        .unwrap();
    assert!(matches!(
        state(&store, named, 2).await,
        JobState::Finished(Outcome::Failed(_))
    ));
    move_clock(harness, Duration::from_secs(20)).await;
    store.commit(named.step(4, 6)).await.unwrap();
    for _ in 0..2 {
        let store = harness.store().await;
        assert_eq!(
            state(&store, named, 1).await,
            JobState::Forgotten,
            "it may have been the one that failed"
        );
        assert_eq!(state(&store, named, 2).await, JobState::Forgotten);
        assert!(matches!(
            state(&store, named, 4).await,
            JobState::Finished(Outcome::Failed(_))
        ));
        assert_eq!(state(&store, named, 6).await, PLAIN);
        harness.restart().await;
    }
}
