//! Pages hold the keys in byte order, each exactly once.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::super::StoreHarness;
use super::super::fixture::*;
use crate::error::Error;
use crate::limits::PAGE_ENTRIES_MAX;
use crate::model::entry::Version;
use crate::model::key::Key;
use crate::store::{ListRequest, Page, Store};

fn prefixed(prefix: &str) -> ListRequest {
    ListRequest {
        prefix: prefix.into(),
        ..ListRequest::default()
    }
}

fn names(page: &Page) -> Vec<&str> {
    page.entries
        .iter()
        .map(|listed| listed.key.as_str())
        .collect()
}

async fn fill(store: &dyn Store, names: &[&str]) {
    for name in names {
        put(store, &Key::new(name).unwrap(), "1").await;
    }
}

pub async fn list_is_in_byte_order(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let mut keys = [
        "b", "a", "a/b", "a-b", "ab", "B", "é", "z", "💡", "\u{FFFD}", "a0", "10", "9",
    ];
    fill(&store, &keys).await;
    keys.sort_unstable();
    let page = store.list(&ListRequest::default()).await.unwrap();
    assert_eq!(names(&page), keys);
    assert_eq!((page.next, page.count), (None, None));
}

pub async fn list_takes_a_prefix_literally(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    fill(
        &store,
        &[
            "a",
            "a*",
            "a*b",
            "ab",
            "a\\",
            "a[b]",
            "é",
            "éa",
            "\u{10FFFF}",
            "\u{10FFFF}a",
        ],
    )
    .await;
    for (prefix, expected) in [
        ("a*", &["a*", "a*b"][..]),
        ("a[", &["a[b]"]),
        ("a\\", &["a\\"]),
        ("é", &["é", "éa"]),
        ("\u{10FFFF}", &["\u{10FFFF}", "\u{10FFFF}a"]),
        ("ab", &["ab"]),
        ("abc", &[]),
        ("/", &[]),
    ] {
        let page = store.list(&prefixed(prefix)).await.unwrap();
        assert_eq!(names(&page), expected, "{prefix:?}");
    }
}

pub async fn list_hands_out_values_only_if_asked(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let key = key("a");
    let version = put(&store, &key, "[1,2]").await;
    for include_values in [false, true] {
        let request = ListRequest {
            include_values,
            ..ListRequest::default()
        };
        let page = store.list(&request).await.unwrap();
        let listed = &page.entries[0];
        assert_eq!(listed.value, include_values.then(|| value("[1,2]")));
        assert_eq!(
            (listed.version, listed.size, listed.expires_at),
            (version, 5, None)
        );
    }
}

pub async fn list_counts_all_keys_of_the_prefix(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    fill(&store, &["a/1/x", "a/1/y", "a/2", "a/3", "b"]).await;
    let request = ListRequest {
        limit: 1,
        delimiter: Some("/".into()),
        count: true,
        ..prefixed("a/")
    };
    let first = store.list(&request).await.unwrap();
    assert_eq!(first.count, Some(4));
    let second = ListRequest {
        after: first.next,
        ..request
    };
    assert_eq!(store.list(&second).await.unwrap().count, Some(4));
    let count = ListRequest {
        count: true,
        ..prefixed("c")
    };
    assert_eq!(store.list(&count).await.unwrap().count, Some(0));
}

pub async fn list_folds_at_the_delimiter(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    fill(
        &store,
        &["a", "a/b", "a/b/c", "a/d", "b::c", "b::d::e", "b:e"],
    )
    .await;
    for (prefix, delimiter, entries, prefixes) in [
        ("", "/", &["a", "b::c", "b::d::e", "b:e"][..], &["a/"][..]),
        ("a", "/", &["a"], &["a/"]),
        ("a/", "/", &["a/b", "a/d"], &["a/b/"]),
        ("a/b", "/", &["a/b"], &["a/b/"]),
        ("", "::", &["a", "a/b", "a/b/c", "a/d", "b:e"], &["b::"]),
        ("b::", "::", &["b::c"], &["b::d::"]),
        (
            "",
            "é",
            &["a", "a/b", "a/b/c", "a/d", "b::c", "b::d::e", "b:e"],
            &[],
        ),
    ] {
        let request = ListRequest {
            delimiter: Some(delimiter.into()),
            ..prefixed(prefix)
        };
        let page = store.list(&request).await.unwrap();
        assert_eq!(names(&page), entries, "{prefix:?} {delimiter:?}");
        assert_eq!(page.prefixes, prefixes, "{prefix:?} {delimiter:?}");
    }
}

pub async fn the_last_page_has_no_next(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    fill(&store, &["a", "b", "c/d", "c/e"]).await;
    for (limit, delimiter, pages) in [
        (1, None, 4),
        (2, None, 2),
        (3, None, 2),
        (4, None, 1),
        (5, None, 1),
        (3, Some("/"), 1),
        (2, Some("/"), 2),
    ] {
        let mut request = ListRequest {
            limit,
            delimiter: delimiter.map(String::from),
            ..ListRequest::default()
        };
        let mut seen = 0;
        loop {
            let page = store.list(&request).await.unwrap();
            seen += 1;
            assert!(page.entries.len() + page.prefixes.len() <= limit);
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, pages, "limit {limit}, delimiter {delimiter:?}");
    }
}

pub async fn a_list_request_out_of_bounds_is_refused(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let limits = [0, PAGE_ENTRIES_MAX + 1, usize::MAX].map(|limit| ListRequest {
        limit,
        ..ListRequest::default()
    });
    let empty_delimiter = ListRequest {
        delimiter: Some(String::new()),
        ..ListRequest::default()
    };
    for request in limits.iter().chain([&empty_delimiter]) {
        let error = store.list(request).await.unwrap_err();
        assert!(
            matches!(error, Error::Invalid { .. }),
            "{request:?}: {error}"
        );
    }
    for limit in [1, PAGE_ENTRIES_MAX] {
        let request = ListRequest {
            limit,
            ..ListRequest::default()
        };
        store.list(&request).await.unwrap();
    }
}

/// Computes the expected listing from a map, without pages: entries and common prefixes in byte
/// order.
fn expected<'a>(
    map: &'a BTreeMap<String, Version>,
    request: &ListRequest,
) -> (Vec<(&'a str, Version)>, Vec<&'a str>) {
    let (mut entries, mut prefixes) = (Vec::new(), Vec::new());
    for (key, &version) in map
        .iter()
        .filter(|(key, _)| key.starts_with(&request.prefix))
    {
        let rest = &key[request.prefix.len()..];
        let cut = request
            .delimiter
            .as_ref()
            .and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()));
        match cut {
            None => entries.push((&**key, version)),
            Some(cut) => {
                let prefix = &key[..request.prefix.len() + cut];
                if prefixes.last() != Some(&prefix) {
                    prefixes.push(prefix);
                }
            }
        }
    }
    (entries, prefixes)
}

pub async fn list_agrees_with_a_sorted_map(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let mut random = StdRng::seed_from_u64(7);
    // Few letters, so that prefixes often collide; among them the one that sorts last, and two that
    // share their first byte.
    let letters = ["a", "b", "/", "/", "é", "è", "\u{10FFFF}", "{", "}", "-"];
    let word = |random: &mut StdRng, length| -> String {
        (0..random.random_range(0..=length))
            .filter_map(|_| letters.choose(random).copied())
            .collect()
    };
    let mut map = BTreeMap::new();
    for round in 0..12 {
        for _ in 0..20 {
            let Ok(key) = Key::new(&word(&mut random, 6)) else {
                continue;
            };
            if random.random_ratio(1, 4) {
                commit_one(&store, delete(&key)).await;
                map.remove(key.as_str());
            } else {
                map.insert(key.as_str().to_owned(), put(&store, &key, "1").await);
            }
        }
        for _ in 0..40 {
            let mut request = ListRequest {
                prefix: word(&mut random, 2),
                limit: *[1, 2, 3, 5, 10, 1000].choose(&mut random).unwrap(),
                delimiter: Some(word(&mut random, 2)).filter(|delimiter| !delimiter.is_empty()),
                count: true,
                ..ListRequest::default()
            };
            let context = format!("round {round}, {request:?}");
            let (entries, prefixes) = expected(&map, &request);
            let total = map
                .keys()
                .filter(|key| key.starts_with(&request.prefix))
                .count();
            let (mut listed, mut folded, mut pages) = (Vec::new(), Vec::new(), 0);
            loop {
                let page = store.list(&request).await.unwrap();
                let size = page.entries.len() + page.prefixes.len();
                assert!(size <= request.limit, "{context}");
                assert!(
                    size == request.limit || page.next.is_none(),
                    "{context}: a page but the last is full"
                );
                assert_eq!(page.count, Some(total as u64), "{context}");
                listed.extend(
                    page.entries
                        .into_iter()
                        .map(|listed| (listed.key, listed.version)),
                );
                folded.extend(page.prefixes);
                pages += 1;
                match page.next {
                    Some(next) => request.after = Some(next),
                    None => break,
                }
            }
            let listed: Vec<_> = listed
                .iter()
                .map(|(key, version)| (key.as_str(), *version))
                .collect();
            assert_eq!(listed, entries, "{context}");
            assert_eq!(folded, prefixes, "{context}");
            let fewest = (entries.len() + prefixes.len())
                .div_ceil(request.limit)
                .max(1);
            assert_eq!(pages, fewest, "{context}");
        }
    }
}

pub async fn a_key_that_stays_appears_once_while_others_come_and_go(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let staying: Vec<Key> = (0..30)
        .map(|number| key(&format!("{number:02}-stays")))
        .collect();
    let passing: Vec<Key> = (0..30)
        .map(|number| key(&format!("{number:02}-passes")))
        .collect();
    store
        .commit(writes(
            staying.iter().map(|key| set(key, "1")).collect::<Vec<_>>(),
        ))
        .await
        .unwrap();
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..5 {
        let mut request = ListRequest {
            limit: 4,
            ..ListRequest::default()
        };
        let mut seen = Vec::new();
        loop {
            let page = store.list(&request).await.unwrap();
            seen.extend(page.entries.into_iter().map(|listed| listed.key));
            let Some(next) = page.next else { break };
            request.after = Some(next);
            // Also removes, now and then, the very key at which the next page starts.
            for _ in 0..5 {
                let key = passing.choose(&mut random).unwrap();
                let write = if random.random() {
                    set(key, "1")
                } else {
                    delete(key)
                };
                commit_one(&store, write).await;
            }
            put(&store, staying.choose(&mut random).unwrap(), "2").await;
        }
        assert!(
            seen.is_sorted_by(|a, b| a < b),
            "in order, none twice: {seen:?}"
        );
        seen.retain(|key| staying.contains(key));
        assert_eq!(seen, staying);
    }
}
