//! A dead letter is kept, with its command, until it is dropped.

use std::time::Duration;

use super::super::StoreHarness;
use super::super::fixture::*;
use crate::error::Error;
use crate::limits::{DEAD_LETTERS_MAX, OUTCOME_RETENTION};
use crate::model::commit::{Commit, Verdict};
use crate::model::job::{Dead, JobState, Outcome};
use crate::store::{DeadPage, DeadRequest, Store};

fn dead(number: u64) -> Dead {
    Dead {
        reason: format!("reason {number}"),
        attempts: 5,
        command: set_command(&key(&number.to_string()), "1.50"),
    }
}

fn verdict(number: u64) -> (crate::model::id::Position, Verdict) {
    (at(number), Verdict::Dead(dead(number)))
}

async fn page(store: &dyn Store, after: Option<crate::model::id::JobId>, limit: usize) -> DeadPage {
    store.dead(&DeadRequest { after, limit }).await.unwrap()
}

pub async fn dead_letters_are_listed_in_order(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let now = harness.now().await;
    store
        .commit(named.step_with(0, 9, vec![verdict(2), verdict(3), verdict(9)]))
        .await
        .unwrap();
    store
        .commit(named.step_with(9, 10, vec![verdict(10)]))
        .await
        .unwrap();
    for _ in 0..2 {
        let store = harness.store().await;
        let all = page(&store, None, 100).await;
        assert!(!all.more);
        for (letter, number) in all.letters.iter().zip([2, 3, 9, 10]) {
            assert_eq!(
                (letter.id, &letter.dead),
                (named.job(number), &dead(number))
            );
            assert!(letter.at >= now && letter.at <= harness.now().await);
        }
        let first = page(&store, None, 3).await;
        assert_eq!((&first.letters[..], first.more), (&all.letters[..3], true));
        let rest = page(&store, Some(first.letters[2].id), 3).await;
        assert_eq!((&rest.letters[..], rest.more), (&all.letters[3..], false));
        let exact = page(&store, None, 4).await;
        assert_eq!((exact.letters.len(), exact.more), (4, false));
        harness.restart().await;
    }
}

pub async fn a_forgotten_dead_letter_is_gone(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    store
        .commit(named.step_with(0, 3, vec![verdict(1), verdict(2)]))
        .await
        .unwrap();
    assert!(store.forget(&named.job(1)).await.unwrap());
    assert!(!store.forget(&named.job(1)).await.unwrap());
    assert!(
        !store.forget(&named.job(3)).await.unwrap(),
        "it never was one"
    );
    for _ in 0..2 {
        let store = harness.store().await;
        let left: Vec<_> = page(&store, None, 10)
            .await
            .letters
            .into_iter()
            .map(|letter| letter.id)
            .collect();
        assert_eq!(left, [named.job(2)]);
        let state = store.outcome(&named.job(1), Duration::ZERO).await.unwrap();
        assert_eq!(state, JobState::Forgotten);
        harness.restart().await;
    }
}

pub async fn dead_letters_stay_for_ever(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    store
        .commit(named.step_with(0, 1, vec![verdict(1)]))
        .await
        .unwrap();
    move_clock(harness, 2 * OUTCOME_RETENTION).await;
    store
        .commit(named.step_with(1, 2, vec![(at(2), failed(&key("a"), None))]))
        .await
        .unwrap();
    move_clock(harness, 2 * OUTCOME_RETENTION).await;
    store.commit(named.step(2, 3)).await.unwrap();
    for _ in 0..2 {
        let store = harness.store().await;
        assert_eq!(page(&store, None, 10).await.letters.len(), 1);
        let state = store.outcome(&named.job(1), Duration::ZERO).await.unwrap();
        assert_eq!(state, JobState::Finished(Outcome::Dead(dead(1))));
        harness.restart().await;
    }
}

pub async fn dead_letters_are_bounded(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let named = Named::new(&store);
    let step = 1000;
    let end = DEAD_LETTERS_MAX as u64;
    for from in (0..end).step_by(step as usize) {
        let letters = (from + 1..=from + step).map(verdict).collect();
        store
            .commit(named.step_with(from, from + step, letters))
            .await
            .unwrap();
    }
    let one_more = || Commit {
        writes: vec![set(&key("a"), "1")],
        ..named.step_with(end, end + 1, vec![verdict(end + 1)])
    };
    let error = store.commit(one_more()).await.unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert_eq!(named.applied(&store).await, at(end), "nothing has happened");
    assert_eq!(get(&store, &key("a")).await, None);
    assert!(store.forget(&named.job(1)).await.unwrap());
    store.commit(one_more()).await.unwrap();
    assert_eq!(named.applied(&store).await, at(end + 1));
}
