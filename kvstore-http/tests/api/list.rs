//! §4: `/v1/kv` and `/v1/mget`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::server::Server;
use kvstore_testing::client::{Request, request};
use kvstore_testing::events::Events;

async fn put(server: &Server, key: &str, value: &str) -> String {
    let reply = server
        .ask(&request("PUT", &format!("/v1/kv/{key}")).body(value))
        .await;
    reply.header("etag").expect("it was applied").to_owned()
}

/// Returns a page without its position in the changes.
async fn page(server: &Server, query: &str) -> Value {
    page_and_place(server, query).await.0
}

async fn page_and_place(server: &Server, query: &str) -> (Value, String) {
    let reply = server.ask(&request("GET", &format!("/v1/kv{query}"))).await;
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let mut page = reply.json();
    let place = page.as_object_mut().unwrap().remove("as_of").unwrap();
    (page, place.as_str().unwrap().to_owned())
}

fn names(page: &Value) -> Vec<&str> {
    let keys = page["keys"].as_array().expect("a list");
    keys.iter()
        .map(|key| key["key"].as_str().expect("a text"))
        .collect()
}

/// Returns all pages, each requested with the cursor of the previous one.
async fn pages(server: &Server, query: &str) -> Vec<Value> {
    let mut pages = vec![page(server, &format!("?{query}")).await];
    while let Some(cursor) = pages.last().and_then(|page| page.get("cursor")) {
        let cursor = cursor.as_str().expect("a text");
        let next = page(server, &format!("?{query}&cursor={cursor}")).await;
        pages.push(next);
        assert!(pages.len() < 1000, "the cursors never end");
    }
    pages
}

#[tokio::test]
async fn a_watch_from_a_page_tells_what_comes_after_it() {
    let server = Server::start().await;
    put(&server, "a", "1").await;
    let (page, place) = page_and_place(&server, "").await;
    assert_eq!(names(&page), ["a"]);
    let tag = put(&server, "b", "2").await;
    let watch = request("GET", &format!("/v1/watch?since={place}"));
    let mut events = Events::open(server.address, &watch).await;
    let (name, data) = events.told().await;
    assert_eq!(
        (name.as_str(), &data["key"], &data["etag"]),
        ("set", &json!("b"), &json!(tag))
    );
}

#[tokio::test]
async fn keys_are_listed_in_byte_order_with_what_describes_them() {
    let server = Server::start().await;
    assert_eq!(page(&server, "").await, json!({"keys": [], "prefixes": []}));
    let mut tags = BTreeMap::new();
    for (key, value) in [
        ("b", "12"),
        ("a", r#"{"x":1}"#),
        ("B", "3"),
        ("%C3%A9", "4"),
    ] {
        tags.insert(key, put(&server, key, value).await);
    }
    assert_eq!(
        page(&server, "?count=1").await,
        json!({
            "keys": [
                {"key": "B", "etag": tags["B"], "size": 1, "expires_at": null},
                {"key": "a", "etag": tags["a"], "size": 7, "expires_at": null},
                {"key": "b", "etag": tags["b"], "size": 2, "expires_at": null},
                {"key": "é", "etag": tags["%C3%A9"], "size": 1, "expires_at": null},
            ],
            "prefixes": [],
            "count": 4,
        })
    );
    server
        .ask(&request("PUT", "/v1/kv/t?ttl=60").body("1"))
        .await;
    let limited = page(&server, "?prefix=t").await;
    let deadline = limited["keys"][0]["expires_at"].as_str().unwrap();
    assert!(humantime::parse_rfc3339(deadline).is_ok(), "{deadline}");
}

#[tokio::test]
async fn values_come_on_demand_and_byte_for_byte() {
    let server = Server::start().await;
    put(&server, "a", "1.0").await;
    put(&server, "b", r#"{"x":1e400,"x":2}"#).await;
    let reply = server.ask(&request("GET", "/v1/kv?include=value")).await;
    for value in [r#""value":1.0}"#, r#""value":{"x":1e400,"x":2}}"#] {
        assert!(reply.text().contains(value), "{}", reply.text());
    }
}

#[tokio::test]
async fn page_with_values_shows_no_half_of_a_batch_that_comes_while_they_are_read() {
    use kvstore_core::Key;
    use kvstore_core::model::commit::Commit;
    use kvstore_core::model::write::{Change, Write};
    use kvstore_testing::faulty::Fault;

    for (first, second, pages_seen) in [
        // The batch replaces the second listed entry, and creates one before it.
        (
            "b",
            "ab",
            [json!([["a", 1]]), json!([["ab", 2], ["b", 2], ["c", 1]])],
        ),
        // It replaces the first one.
        (
            "a",
            "ab",
            [json!([["a", 2]]), json!([["ab", 2], ["b", 1], ["c", 1]])],
        ),
    ] {
        let server = Server::start_idle(Default::default()).await;
        for key in ["a", "b", "c"] {
            server.put(key, "1").await;
        }
        let set = |key| Write {
            key: Key::new(key).unwrap(),
            change: Change::Set {
                value: kvstore_core::Value::parse("2").unwrap(),
                expires_at: None,
            },
        };
        let batch = Commit {
            writes: vec![set(first), set(second)],
            ..Commit::default()
        };
        server.faults.set(Some(Fault::Preceded(batch)));
        let page_one = page(&server, "?include=value").await;
        server.faults.set(None);
        let cursor = page_one["cursor"].as_str().unwrap();
        let page_two = page(&server, &format!("?include=value&cursor={cursor}")).await;
        for (page, expected) in [page_one, page_two].iter().zip(pages_seen) {
            let keys = page["keys"].as_array().unwrap().iter();
            let pairs: Value = keys.map(|it| json!([it["key"], it["value"]])).collect();
            assert_eq!(pairs, expected);
        }
    }
}

#[tokio::test]
async fn pages_follow_each_other_until_there_is_no_cursor() {
    let server = Server::start().await;
    for number in 0..25 {
        put(&server, &format!("p:{number:02}"), "1").await;
    }
    put(&server, "q", "1").await;
    let pages = pages(&server, "prefix=p:&limit=10&count=1").await;
    let sizes: Vec<_> = pages.iter().map(|page| names(page).len()).collect();
    assert_eq!(sizes, [10, 10, 5]);
    let all: Vec<_> = pages.iter().flat_map(names).collect();
    let expected: Vec<_> = (0..25).map(|number| format!("p:{number:02}")).collect();
    assert_eq!(all, expected);
    assert!(pages.iter().all(|page| page["count"] == 25));
}

#[tokio::test]
async fn default_page_has_a_hundred_keys_and_the_largest_a_thousand() {
    let server = Server::start().await;
    for number in 0..101 {
        put(&server, &format!("{number}"), "1").await;
    }
    assert_eq!(names(&page(&server, "").await).len(), 100);
    assert_eq!(names(&page(&server, "?limit=1000").await).len(), 101);
    for limit in ["0", "1001", "-1", "x", "99999999999999999999999"] {
        let reply = server
            .ask(&request("GET", &format!("/v1/kv?limit={limit}")))
            .await;
        assert_eq!(reply.status, 422, "{limit}");
        assert_eq!(reply.json()["errors"][0]["loc"], json!(["query", "limit"]));
    }
}

#[tokio::test]
async fn page_with_values_ends_at_eight_mebibytes() {
    let server = Server::start().await;
    let value = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    for number in 0..18 {
        put(&server, &format!("{number:02}"), &value).await;
    }
    assert_eq!(
        names(&page(&server, "").await).len(),
        18,
        "keys alone are small"
    );
    let pages = pages(&server, "include=value").await;
    let sizes: Vec<_> = pages.iter().map(|page| names(page).len()).collect();
    assert_eq!(sizes, [8, 8, 2]);
    let all: Vec<_> = pages.iter().flat_map(names).collect();
    let expected: Vec<_> = (0..18).map(|number| format!("{number:02}")).collect();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn delimiter_folds_keys_and_no_folded_prefix_comes_twice() {
    let server = Server::start().await;
    for key in ["a/1", "a/2", "b", "c/d/1", "c/2", "d"] {
        put(&server, key, "1").await;
    }
    let whole = page(&server, "?delimiter=/").await;
    assert_eq!(names(&whole), ["b", "d"]);
    assert_eq!(whole["prefixes"], json!(["a/", "c/"]));
    let inner = page(&server, "?delimiter=/&prefix=c/").await;
    assert_eq!(
        (names(&inner), &inner["prefixes"]),
        (vec!["c/2"], &json!(["c/d/"]))
    );
    let pages = pages(&server, "delimiter=/&limit=1").await;
    let found: Vec<_> = pages
        .iter()
        .flat_map(|page| {
            let prefixes = page["prefixes"].as_array().unwrap().iter();
            let prefixes = prefixes.map(|prefix| prefix.as_str().unwrap());
            names(page).into_iter().chain(prefixes).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(found, ["a/", "b", "c/", "d"]);
}

#[tokio::test]
async fn cursor_of_another_listing_is_refused() {
    let server = Server::start().await;
    for key in ["a:1", "a:2", "a:3"] {
        put(&server, key, "1").await;
    }
    let first = page(&server, "?prefix=a:&limit=1").await;
    let cursor = first["cursor"].as_str().unwrap();
    for query in [
        format!("?cursor={cursor}"),
        format!("?prefix=a&cursor={cursor}"),
        format!("?prefix=a:&delimiter=/&cursor={cursor}"),
        "?prefix=a:&cursor=x".to_owned(),
        "?cursor=%00".to_owned(),
    ] {
        let reply = server.ask(&request("GET", &format!("/v1/kv{query}"))).await;
        assert_eq!(reply.status, 400, "{query}");
        assert_eq!(reply.json()["type"], "/problems/malformed");
    }
    let again = page(&server, &format!("?prefix=a:&limit=1&cursor={cursor}")).await;
    assert_eq!(names(&again), ["a:2"]);
}

#[tokio::test]
async fn unknown_include_is_refused_and_unknown_parameters_are_ignored() {
    let server = Server::start().await;
    let reply = server.ask(&request("GET", "/v1/kv?include=values")).await;
    assert_eq!(reply.status, 422);
    page(&server, "?includes=x&order=desc").await;
    let head = server.ask(&request("HEAD", "/v1/kv")).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let reply = server.ask(&request("POST", "/v1/kv").body("1")).await;
    assert_eq!(
        (reply.status, reply.header("allow")),
        (405, Some("GET, HEAD, DELETE"))
    );
}

#[tokio::test]
async fn listings_wait_for_their_sync_token() {
    let mut server = Server::start_idle(Default::default()).await;
    let put = request("PUT", "/v1/kv/a")
        .body("1")
        .header("prefer", "respond-async");
    let token = server
        .ask(&put)
        .await
        .header("sync-token")
        .unwrap()
        .to_owned();
    let reads = [
        request("GET", "/v1/kv").header("sync-token", &token),
        request("GET", &format!("/v1/kv?after={token}")),
        mget(r#"["a"]"#).header("sync-token", &token),
    ];
    let mut waiting = Vec::new();
    for read in reads {
        let mut connection = server.connect().await;
        waiting.push(tokio::spawn(async move { connection.ask(&read).await }));
    }
    server.work();
    for answer in waiting {
        let reply = answer.await.unwrap();
        assert_eq!(reply.status, 200);
        assert!(reply.text().contains(r#""key":"a""#), "{}", reply.text());
    }
}

fn mget(keys: &str) -> Request {
    request("POST", "/v1/mget").body(format!(r#"{{"keys":{keys}}}"#))
}

#[tokio::test]
async fn several_entries_come_in_the_order_asked_for() {
    let server = Server::start().await;
    let (a, b) = (
        put(&server, "a", "1.0").await,
        put(&server, "b", "null").await,
    );
    let reply = server.ask(&mget(r#"["b","none","a"]"#)).await;
    assert_eq!(reply.status, 200);
    let (a, b) = (Value::from(a), Value::from(b));
    assert_eq!(
        reply.text(),
        format!(
            r#"{{"entries":[{{"key":"b","value":null,"etag":{b},"expires_at":null}},{{"key":"a","value":1.0,"etag":{a},"expires_at":null}}],"missing":["none"]}}"#
        )
    );
    let none = server.ask(&mget("[]")).await;
    assert_eq!(
        (none.status, none.text()),
        (200, r#"{"entries":[],"missing":[]}"#)
    );
}

#[tokio::test]
async fn bad_requests_for_several_entries_say_what_is_wrong() {
    let server = Server::start().await;
    let many = serde_json::to_string(&vec!["k"; 1001]).unwrap();
    for (body, place) in [
        (
            r#"{"keys":["a","","b//c"]}"#.to_owned(),
            json!(["body", "keys", 1]),
        ),
        (format!(r#"{{"keys":{many}}}"#), json!(["body", "keys"])),
        (r#"{"keys":[1]}"#.to_owned(), json!(["body"])),
        (r#"{"keys":["\ud800"]}"#.to_owned(), json!(["body"])),
        ("{}".to_owned(), json!(["body"])),
        ("[".to_owned(), json!(["body"])),
        (String::new(), json!(["body"])),
    ] {
        let reply = server
            .ask(&request("POST", "/v1/mget").body(body.as_str()))
            .await;
        assert_eq!(reply.status, 422, "{body}");
        assert_eq!(reply.json()["type"], "/problems/invalid");
        assert_eq!(reply.json()["errors"][0]["loc"], place, "{body}");
    }
    let enough = serde_json::to_string(&vec!["k"; 1000]).unwrap();
    assert_eq!(server.ask(&mget(&enough)).await.status, 200);
    let text = mget("[]").header("content-type", "text/xml");
    assert_eq!(server.ask(&text).await.status, 415);
    let reply = server.ask(&request("GET", "/v1/mget")).await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
}

#[tokio::test]
async fn as_many_of_the_longest_keys_as_one_may_ask_for_can_be_asked_for() {
    let server = Server::start().await;
    let keys: Vec<_> = (0..1000)
        .map(|number| format!("{}{number:03}", "💡".repeat(509)))
        .collect();
    let reply = server
        .ask(&mget(&serde_json::to_string(&keys).unwrap()))
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["missing"].as_array().unwrap().len(), 1000);
}

#[tokio::test]
async fn more_values_than_an_answer_holds_are_refused() {
    let server = Server::start().await;
    let value = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    put(&server, "a", &value).await;
    let keys = |count| serde_json::to_string(&vec!["a"; count]).unwrap();
    let reply = server.ask(&mget(&keys(8))).await;
    assert_eq!(reply.status, 200);
    let reply = server.ask(&mget(&keys(9))).await;
    assert_eq!(
        (reply.status, &reply.json()["limit_bytes"]),
        (413, &json!(8 << 20))
    );
}
