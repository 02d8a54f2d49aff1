//! Reads return what was written.

use std::sync::Arc;

use super::super::StoreHarness;
use super::super::fixture::*;
use crate::limits::{VALUE_BYTES_DEFAULT, VALUE_DEPTH_MAX};
use crate::model::entry::Entry;
use crate::model::id::{Position, QueueId};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::store::{DeadRequest, ListRequest, Page, Store};

pub async fn a_new_store_is_empty(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    assert_eq!(get(&store, &key("a")).await, None);
    assert_eq!(
        store.get_many(&[key("a"), key("b")]).await.unwrap(),
        [None, None]
    );
    let request = ListRequest {
        count: true,
        ..ListRequest::default()
    };
    let page = store.list(&request).await.unwrap();
    let empty = Page {
        count: Some(0),
        ..Page::empty(page.as_of.clone())
    };
    assert_eq!(page, empty);
    assert_eq!(store.active_queue().await.unwrap(), None);
    for partition in partitions(&store).iter() {
        let applied = store.applied(QueueId::random(), partition).await.unwrap();
        assert_eq!(applied, Position::START);
        assert_eq!(store.expire(partition).await.unwrap(), 0);
    }
    let dead = store
        .dead(&DeadRequest {
            after: None,
            limit: 10,
        })
        .await
        .unwrap();
    assert_eq!((dead.letters, dead.more), (vec![], false));
    store.ping().await.unwrap();
}

/// Returns texts that a JSON parser might be tempted to write differently.
fn texts() -> Vec<String> {
    let deep = VALUE_DEPTH_MAX;
    let mut texts: Vec<String> = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1.0",
        "1E400",
        "1e-7",
        "0.1000000000000000055511151231257827",
        "1234567890123456789012345678901234567890",
        r#""""#,
        r#""\u0000""#,
        r#""\u00e9 é 💡 \ud83d\udca1 \/ \" \\""#,
        "\"\u{7f}\u{2028}\"",
        "[]",
        "{}",
        r#"{"b":1,"a":2,"b":3,"":{}}"#,
        r#"[[],{},"[",{"}":"\\"}]"#,
    ]
    .map(String::from)
    .into();
    texts.push("[".repeat(deep) + &"]".repeat(deep));
    texts.push(format!("\"{}\"", "x".repeat(VALUE_BYTES_DEFAULT - 2)));
    // Around the size at which a store may switch from copying to sharing.
    texts.extend([4095, 4096, 4097].map(|length| format!("\"{}\"", "y".repeat(length - 2))));
    texts
}

pub async fn values_come_back_byte_for_byte(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let texts = texts();
    let keys: Vec<Key> = (0..texts.len())
        .map(|number| key(&number.to_string()))
        .collect();
    for (key, text) in keys.iter().zip(&texts) {
        put(&store, key, text).await;
    }
    let same = async |store: Arc<dyn Store>| {
        let many = store.get_many(&keys).await.unwrap();
        let listed = everything(&store).await;
        for ((key, text), entry) in keys.iter().zip(&texts).zip(many) {
            assert_eq!(self::text(&store, key).await.as_ref(), Some(text));
            assert_eq!(entry.unwrap().value.as_str(), text);
            let listed = listed.iter().find(|listed| listed.key == *key).unwrap();
            assert_eq!(listed.value.as_ref().map(Value::as_str), Some(&**text));
            assert_eq!(listed.size, text.len());
        }
    };
    same(store).await;
    harness.restart().await;
    same(harness.store().await).await;
}

pub async fn keys_are_compared_byte_for_byte(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let longest = "💡".repeat(crate::limits::KEY_CHARS_MAX);
    // Composed and decomposed characters, letter case, names that look empty, and names with a
    // meaning to a shell, a path, a pattern or a store's own format.
    let names = [
        "é",
        "e\u{301}",
        "a",
        "A",
        "a ",
        " ",
        "a/b",
        "a:b",
        "a\\b",
        "a\"b",
        "a*",
        "a?",
        "[a]",
        "{}",
        "{a}",
        "}{",
        "%61",
        "\u{10FFFF}",
        "\u{FEFF}",
        "\u{E000}",
        "ß",
        "ss",
        &longest,
    ];
    let keys = names.map(|name| Key::new(name).unwrap());
    for (index, key) in keys.iter().enumerate() {
        let (_, existed) = commit_one(&store, set(key, &index.to_string())).await;
        assert!(!existed, "{key:?} is a key of its own");
    }
    harness.restart().await;
    let store = harness.store().await;
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(text(&store, key).await, Some(index.to_string()), "{key:?}");
    }
    let mut sorted = keys.to_vec();
    sorted.sort();
    let listed: Vec<Key> = everything(&store)
        .await
        .into_iter()
        .map(|listed| listed.key)
        .collect();
    assert_eq!(listed, sorted);
}

pub async fn get_many_answers_in_the_order_asked(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let keys = ["a", "b", "c"].map(|name| Key::new(name).unwrap());
    for key in &keys {
        put(&store, key, &format!("\"{key}\"")).await;
    }
    let absent = Key::new("absent").unwrap();
    let [a, b, c] = keys;
    let asked = [c.clone(), absent, a.clone(), c.clone(), b.clone()];
    let found: Vec<Option<String>> = store
        .get_many(&asked)
        .await
        .unwrap()
        .into_iter()
        .map(|entry| entry.map(|entry| entry.value.as_str().to_owned()))
        .collect();
    let quoted = |key: &Key| Some(format!("\"{key}\""));
    assert_eq!(
        found,
        [quoted(&c), None, quoted(&a), quoted(&c), quoted(&b)]
    );
    assert_eq!(store.get_many(&[]).await.unwrap(), []);
}

pub async fn an_entry_holds_what_its_write_said(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let deadline = harness.now().await.after(SOON);
    let key = key("a");
    let (version, _) = commit_one(&store, set_until(&key, "[1]", deadline)).await;
    let expected = Entry {
        value: value("[1]"),
        version,
        expires_at: Some(deadline),
    };
    assert_eq!(get(&store, &key).await, Some(expected.clone()));
    assert_eq!(
        store.get_many(std::slice::from_ref(&key)).await.unwrap(),
        [Some(expected)]
    );
    let [listed] = everything(&store).await.try_into().unwrap();
    assert_eq!(listed.key, key);
    assert_eq!((listed.version, listed.size), (version, 3));
    assert_eq!(listed.expires_at, Some(deadline));
    assert_eq!(listed.value, Some(value("[1]")));
}

pub async fn a_second_handle_sees_what_the_first_wrote(harness: &dyn StoreHarness) {
    let (first, second) = (harness.store().await, harness.store().await);
    let version = put(&first, &key("a"), "1").await;
    assert_eq!(get(&second, &key("a")).await.unwrap().version, version);
    commit_one(&second, delete(&key("a"))).await;
    assert_eq!(get(&first, &key("a")).await, None);
}

pub async fn entries_survive_a_restart(harness: &dyn StoreHarness) {
    let store = harness.store().await;
    let deadline = harness.now().await.after(SOON);
    put(&store, &key("plain"), "1").await;
    put(&store, &key("gone"), "2").await;
    put(&store, &key("replaced"), "3").await;
    commit_one(&store, set_until(&key("mortal"), "4", deadline)).await;
    commit_one(&store, delete(&key("gone"))).await;
    put(&store, &key("replaced"), "5").await;
    let before = everything(&store).await;
    assert_eq!(before.len(), 3);
    for _ in 0..2 {
        harness.restart().await;
        assert_eq!(everything(&harness.store().await).await, before);
    }
}

pub async fn a_closed_store_refuses(harness: &dyn StoreHarness) {
    use crate::error::Error::Unavailable;
    let store = harness.store().await;
    put(&store, &key("a"), "1").await;
    store.close().await.unwrap();
    store.close().await.expect("closing twice is no error");
    let named = Named::new(&store);
    assert!(matches!(
        store.get(&key("a")).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(
        store.get_many(&[key("a")]).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(
        store.list(&ListRequest::default()).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(
        store.commit(writes([set(&key("a"), "2")])).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(
        store.commit(named.step(0, 1)).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(
        store.outcome(&named.job(1), SHORT).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(
        store.expire(named.partition).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(
        store.watch(&crate::store::WatchFrom::Now.into()).await,
        Err(Unavailable { .. })
    ));
    assert!(matches!(store.ping().await, Err(Unavailable { .. })));
}
