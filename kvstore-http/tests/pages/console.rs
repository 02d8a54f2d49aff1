//! Does the console at `/` serve a person with a browser: viewing, editing, watching changes,
//! handling dead letters, and never overwriting another person's edit?

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::browser::{Browser, click, fill};
use crate::support::server::Server;
use kvstore_core::clock::SystemClock;
use kvstore_core::memory::{MemoryQueue, MemoryStore};
use kvstore_core::open::{Opened, open};
use kvstore_core::queue::QueueOptions;
use kvstore_http::{Options, Tokens, token_line};
use kvstore_testing::client::request;
use kvstore_testing::redis::RedisServer;
use serde_json::{Value, json};

/// A value that a program changes if it parses its numbers.
const EXACT: &str =
    r#"{"n":1.0,"big":12345678901234567890123456789.50,"e":1e400,"text":"\u00e9<b>","n":[]}"#;

/// The same value as formatted by the page.
const FORMATTED: &str = r#"{
  "n": 1.0,
  "big": 12345678901234567890123456789.50,
  "e": 1e400,
  "text": "\u00e9<b>",
  "n": []
}"#;

async fn open_page(server: &Server, hash: &str) -> Browser {
    let browser = Browser::start().await;
    let url = format!("http://{}/{hash}", server.address);
    browser.open(&url).await;
    browser
}

fn in_memory() -> Opened {
    let clock = Arc::new(SystemClock);
    Opened {
        store: Arc::new(MemoryStore::new(clock.clone())),
        queue: Arc::new(MemoryQueue::new(QueueOptions::default(), clock)),
    }
}

/// Returns a script that checks whether an element shows `text`.
fn shows(selector: &str, text: &str) -> String {
    format!(
        "const found = document.querySelector({}); return !!found && found.checkVisibility() && found.innerText.includes({});",
        json!(selector),
        json!(text)
    )
}

/// Returns a script that clicks the row `name` of the tree.
fn click_row(name: &str) -> String {
    format!(
        "const row = [...document.querySelectorAll('#tree [role=treeitem]:not([hidden])')].find(row => row.title === {}); \
         if (row) row.click(); return !!row;",
        json!(name)
    )
}

/// Returns a script that reads the text of the row `name` of the tree.
fn row(name: &str) -> String {
    format!(
        "const row = [...document.querySelectorAll('#tree [role=treeitem]:not([hidden])')].find(row => row.title === {}); \
         return row ? row.innerText : null;",
        json!(name)
    )
}

async fn write(server: &Server, key: &str, value: &str) -> Value {
    let put = request("PUT", &format!("/v1/kv/{key}")).body(value);
    let reply = server.ask(&put).await;
    assert!(matches!(reply.status, 200 | 201), "{reply:?}");
    reply.json()
}

async fn stored(server: &Server, key: &str) -> Option<String> {
    let reply = server.ask(&request("GET", &format!("/v1/kv/{key}"))).await;
    (reply.status == 200).then(|| reply.text().to_owned())
}

/// Performs all actions of a visitor on a store.
async fn visit(opened: Opened) {
    let mut server = Server::start_on(opened, Options::default()).await;
    server.put("buried", "1").await;
    let put = request("PUT", "/v1/kv/waits")
        .body("1")
        .header("prefer", "respond-async");
    let job = server.ask(&put).await.json()["job_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let browser = open_page(&server, "#jobs").await;

    // First a waiting job, then a dead one.
    browser
        .until("what waits is counted", &shows("#tile-jobs", "1"))
        .await;
    browser
        .until("and listed", &shows("#jobs-queued", "waits"))
        .await;
    server.bury(&job).await;
    browser
        .until(
            "a dead letter is shown with its reason",
            &shows("#jobs-dead", "it was refused"),
        )
        .await;
    browser
        .until("it is counted", &shows("#dead-count", "1"))
        .await;
    server.work();
    browser
        .until("it can be retried", &click("#jobs-dead td.buttons button"))
        .await;
    browser
        .until("it is gone", &shows("#jobs-dead", "No dead letters"))
        .await;
    browser
        .until("nothing waits", &shows("#jobs-queued", "Nothing waits"))
        .await;
    let done = async {
        while stored(&server, "buried").await.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(30), done).await;
    done.expect("what the dead letter said is done");

    // The tree, with counts and live changes.
    browser.run("location.hash = '#data'; return 1").await;
    browser
        .until("changes are heard of", &shows("#live", "Live"))
        .await;
    write(&server, "user/1/name", EXACT).await;
    let folder = browser.until("a folder appears", &row("user/")).await;
    assert!(folder.as_str().unwrap().starts_with("user/"), "{folder}");
    browser.until("it can be opened", &click_row("user/")).await;
    browser
        .until("and what is in it", &click_row("user/1/"))
        .await;
    write(&server, "user/2", "2").await;
    browser.until("a key appears in it", &row("user/2")).await;
    let counted = "const row = [...document.querySelectorAll('.folder')].find(row => row.title === 'user/'); return row.innerText.replace(/\\s/g, ' ').endsWith('2');";
    browser.until("keys are counted", counted).await;

    // A value, formatted and byte for byte.
    browser
        .until("a key can be chosen", &click_row("user/1/name"))
        .await;
    let value = "return document.querySelector('#value')?.textContent";
    assert_eq!(browser.until("its value is shown", value).await, FORMATTED);
    browser
        .until("it can be seen as stored", &click("#stored"))
        .await;
    assert_eq!(browser.run(value).await, EXACT);
    assert_eq!(
        browser
            .run("return document.querySelector('#deadline').textContent")
            .await,
        "none"
    );

    // A live change of the entry shown, with a deadline that counts down.
    let put = request("PUT", "/v1/kv/user/1/name?ttl=600").body(EXACT);
    let etag = server.ask(&put).await.json()["etag"].clone();
    let newer = format!("return document.querySelector('#etag').textContent === {etag}");
    browser.until("the newer version is shown", &newer).await;
    let counts = "const now = document.querySelector('#deadline').textContent; \
                  window.before ??= now; return /^9:\\d\\d$/.test(now) && now !== before";
    browser.until("the time left counts down", counts).await;

    // An edit keeps every byte that it does not touch, and the deadline.
    browser.until("it can be edited", &click("#edit")).await;
    assert_eq!(
        browser
            .run("return document.querySelector('#text').value")
            .await,
        FORMATTED
    );
    let edited = FORMATTED.replace("1.0", "1.00");
    browser
        .until("a text can be typed", &fill("#text", &edited))
        .await;
    browser.until("it can be saved", &click("#save")).await;
    browser
        .until(
            "it is saved",
            "return document.querySelector('#value')?.textContent.includes('1.00')",
        )
        .await;
    let reply = server.ask(&request("GET", "/v1/kv/user/1/name")).await;
    assert_eq!(reply.text(), EXACT.replace("1.0", "1.00"));
    assert!(reply.header("x-ttl").is_some(), "{reply:?}");

    // The page refuses invalid JSON.
    browser
        .until("it can be edited again", &click("#edit"))
        .await;
    browser
        .until("nonsense can be typed", &fill("#text", "{nonsense"))
        .await;
    browser.until("and tried", &click("#save")).await;
    browser
        .until("the page says why not", &shows("#fault", "JSON"))
        .await;

    // Concurrent edits: the later person sees both versions, and nothing unseen is overwritten.
    browser
        .until("something is typed", &fill("#text", r#"{"by":"me"}"#))
        .await;
    write(&server, "user/1/name", r#"{"by":"somebody else"}"#).await;
    browser
        .until(
            "the page warns while one types",
            &shows("#meanwhile", "changed this key"),
        )
        .await;
    browser
        .until("it is saved nevertheless", &click("#save"))
        .await;
    browser
        .until(
            "the other side is shown",
            &shows("#theirs", "somebody else"),
        )
        .await;
    browser
        .until("and one's own", &shows("#mine", r#""by": "me""#))
        .await;
    let marked =
        "return [...document.querySelectorAll('#conflict mark')].map(it => it.innerText.trim())";
    assert_eq!(
        browser.run(marked).await,
        json!([r#""by": "somebody else""#, r#""by": "me""#])
    );
    assert_eq!(
        stored(&server, "user/1/name").await.unwrap(),
        r#"{"by":"somebody else"}"#
    );
    // A third edit happens between viewing and deciding.
    write(&server, "user/1/name", r#"{"by":"a third"}"#).await;
    browser
        .until("the own one can be kept", &click("#overwrite"))
        .await;
    browser
        .until("the third is shown", &shows("#theirs", "a third"))
        .await;
    browser
        .until("the own one is kept after all", &click("#overwrite"))
        .await;
    browser
        .until(
            "the own one is shown",
            "return document.querySelector('#value')?.textContent.includes('me')",
        )
        .await;
    assert_eq!(
        stored(&server, "user/1/name").await.unwrap(),
        r#"{"by":"me"}"#
    );

    // A new key, unless another client created it first.
    browser.until("a key can be made", &click("#create")).await;
    write(&server, "made", "1").await;
    browser.until("it has a name", &fill("#key", "made")).await;
    browser.until("and a value", &fill("#text", "2")).await;
    browser.until("it can be created", &click("#save")).await;
    browser
        .until("it is there already", &shows("#theirs", "1"))
        .await;
    browser.until("theirs is kept", &click("#discard")).await;
    browser
        .until(
            "theirs is shown",
            "return document.querySelector('#value')?.textContent === '1'",
        )
        .await;
    browser.run("location.hash = '#new'; return 1").await;
    browser
        .until("another name", &fill("#key", "made too"))
        .await;
    browser.until("and a value", &fill("#text", "[ 1 ]")).await;
    browser.until("it can be created", &click("#save")).await;
    browser
        .until(
            "what was created is shown, as stored like the last one",
            "return document.querySelector('#value')?.textContent === '[1]'",
        )
        .await;
    browser
        .until("it can be formatted", &click("#formatted"))
        .await;
    browser
        .until(
            "it is formatted",
            "return document.querySelector('#value')?.textContent === '[\\n  1\\n]'",
        )
        .await;
    assert_eq!(stored(&server, "made%20too").await.unwrap(), "[1]");

    // A deletion of the version that was seen.
    browser.until("it can be deleted", &click("#delete")).await;
    browser
        .until("the page asks", &shows("#confirm", "Delete this key?"))
        .await;
    write(&server, "made%20too", "[2]").await;
    browser.until("it is meant", &click("#confirm-yes")).await;
    browser
        .until("it was another version", &shows("#notice", "Not deleted"))
        .await;
    assert_eq!(stored(&server, "made%20too").await.unwrap(), "[2]");
    browser
        .until(
            "the new one is shown",
            "return document.querySelector('#value')?.textContent.includes('2')",
        )
        .await;
    browser.until("it can be deleted", &click("#delete")).await;
    browser.until("it is meant", &click("#confirm-yes")).await;
    browser
        .until("it is gone", &shows("#absent", "no such key"))
        .await;
    assert_eq!(stored(&server, "made%20too").await, None);
    browser.until("from the tree, too", "return ![...document.querySelectorAll('.row:not([hidden])')].some(row => row.title === 'made too')").await;

    // Search, and the changes of this visit.
    browser
        .until("a prefix can be typed", &fill("#search", "user/1"))
        .await;
    browser
        .until("one key is left", &shows("#total", "1 key under “user/1”"))
        .await;
    browser.run("location.hash = '#changes'; return 1").await;
    browser
        .until(
            "deletes are shown",
            &shows("#changes tr.delete", "made too"),
        )
        .await;

    // The conflicts cause 412; no other message is permitted.
    let log = browser.log().await;
    let severe: Vec<_> = log
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["level"] == "SEVERE")
        .filter(|entry| {
            !entry["message"]
                .as_str()
                .unwrap()
                .contains("the server responded with a status of 4")
        })
        .collect();
    assert!(severe.is_empty(), "{severe:#?}");
}

#[tokio::test]
async fn console_shows_edits_and_heals_on_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}?apply_on_acceptance=false", folder.path().display());
    visit(open(&url.parse().unwrap(), None).await.unwrap()).await;
}

#[tokio::test]
async fn console_shows_edits_and_heals_on_redis() {
    let redis = RedisServer::start();
    visit(open(&redis.url().parse().unwrap(), None).await.unwrap()).await;
}

#[tokio::test]
async fn save_that_waits_in_the_queue_is_seen_through_to_its_conflict() {
    let mut server = Server::start_on(in_memory(), Options::default()).await;
    server.put("key", "1").await;
    let browser = open_page(&server, "#key=key").await;
    browser.until("it can be edited", &click("#edit")).await;
    // No worker runs, and another client is ahead in the queue.
    let put = request("PUT", "/v1/kv/key").body("2");
    server.ask(&put.header("prefer", "respond-async")).await;
    browser.until("it is typed", &fill("#text", "3")).await;
    browser.until("it is saved", &click("#save")).await;
    browser
        .until(
            "it waits, and the page says so",
            &shows("#notice", "It waits in the queue"),
        )
        .await;
    server.work();
    browser
        .until("theirs came first", &shows("#theirs", "2"))
        .await;
    browser
        .until("the own one is kept", &click("#overwrite"))
        .await;
    browser.until("it is shown", &shows("#value", "3")).await;
    assert_eq!(stored(&server, "key").await.unwrap(), "3");
}

#[tokio::test]
async fn tab_out_of_sight_leaves_its_place_and_misses_nothing() {
    let mut server = Server::start_on(in_memory(), Options::default()).await;
    server.work();
    let browser = open_page(&server, "").await;
    browser.until("it listens", &shows("#live", "Live")).await;
    let seen = |is_hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{ value: {is_hidden}, configurable: true }}); \
             document.dispatchEvent(new Event('visibilitychange')); return 1;"
        )
    };
    browser.run(&seen(true)).await;
    browser
        .until("it listens no more", &shows("#live", "Paused"))
        .await;
    write(&server, "meanwhile", "1").await;
    assert_eq!(browser.run(&row("meanwhile")).await, Value::Null);
    browser.run(&seen(false)).await;
    browser
        .until("the change is shown", &row("meanwhile"))
        .await;
    browser.has_no_complaints().await;
}

const TAB: char = '\u{e004}';
const ENTER: char = '\u{e007}';
const SHIFT: char = '\u{e008}';
const CONTROL: char = '\u{e009}';
const RIGHT: char = '\u{e014}';
const DOWN: char = '\u{e015}';

/// Presses `keys` until the element with this id has the focus.
async fn press_to(browser: &Browser, keys: &[char], id: &str) {
    for _ in 0..40 {
        if browser.run("return document.activeElement.id").await == id {
            return;
        }
        browser.press(keys).await;
    }
    panic!("no way to {id} by {keys:?}");
}

#[tokio::test]
async fn console_is_operated_by_keyboard_and_everything_has_a_name() {
    let mut server = Server::start_on(in_memory(), Options::default()).await;
    server.work();
    server.put("user/ada", "1").await;
    server.put("user/alan", "2").await;
    let browser = open_page(&server, "").await;
    browser.until("the folder is there", &row("user/")).await;
    press_to(&browser, &[TAB], "tree").await;
    browser.press(&[RIGHT]).await;
    browser.until("it is open", &row("user/alan")).await;
    browser.press(&[DOWN]).await;
    browser.press(&[DOWN]).await;
    browser.press(&[ENTER]).await;
    browser
        .until("the value is shown", &shows("#value", "2"))
        .await;
    assert_eq!(browser.nameless().await, Vec::<Value>::new());
    press_to(&browser, &[TAB], "edit").await;
    browser.press(&[ENTER]).await;
    press_to(&browser, &[TAB], "text").await;
    assert_eq!(browser.nameless().await, Vec::<Value>::new());
    browser.press(&[CONTROL, 'a']).await;
    browser.press(&['3']).await;
    browser.press(&[CONTROL, ENTER]).await;
    browser.until("it is saved", &shows("#value", "3")).await;
    // The focus is still in the entry; the next step reaches its buttons.
    assert_eq!(
        browser.run("return document.activeElement.id").await,
        "entry"
    );
    browser.press(&[TAB]).await;
    press_to(&browser, &[TAB], "delete").await;
    browser.press(&[ENTER]).await;
    browser
        .until("it asks", &shows("#confirm", "Delete this key?"))
        .await;
    assert_eq!(
        browser.run("return document.activeElement.id").await,
        "confirm-no"
    );
    press_to(&browser, &[SHIFT, TAB], "confirm-yes").await;
    browser.press(&[ENTER]).await;
    browser
        .until("it is gone", &shows("#absent", "no such key"))
        .await;
}

#[tokio::test]
async fn all_dead_letters_are_retried_or_forgotten_at_once() {
    let server = Server::start_on(in_memory(), Options::default()).await;
    for key in ["a", "b", "c"] {
        let put = request("PUT", &format!("/v1/kv/{key}")).body("1");
        let put = put.header("prefer", "respond-async");
        let job = server.ask(&put).await.json()["job_id"].clone();
        server.bury(job.as_str().unwrap()).await;
    }
    server.put("buried", "1").await;
    let browser = open_page(&server, "#jobs").await;
    let count = "return document.querySelectorAll('#jobs-dead tbody tr').length";
    browser
        .until("three are there", &format!("{} === 3", count))
        .await;
    assert_eq!(browser.nameless().await, Vec::<Value>::new());
    let forget = click("#jobs-dead tr:first-child td.buttons .danger");
    browser.until("one can be forgotten", &forget).await;
    browser
        .until("it asks", &shows("#confirm", "Forget this dead letter?"))
        .await;
    browser.run(&click("#confirm-no")).await;
    browser.run(&forget).await;
    browser.run(&click("#confirm-yes")).await;
    browser
        .until("two are left", &format!("{} === 2", count))
        .await;
    browser
        .until("all can be retried", &click("#retry-all"))
        .await;
    browser
        .until("they wait again", &shows("#notice", "2 jobs queued again"))
        .await;
    browser
        .until("none is left", &shows("#jobs-dead", "No dead letters"))
        .await;

    // The jobs become dead letters again.
    let waiting = server.ask(&request("GET", "/v1/jobs")).await;
    for job in waiting.json()["jobs"].as_array().unwrap() {
        server.bury(job["id"].as_str().unwrap()).await;
    }
    browser
        .until("two are there", &format!("{} === 2", count))
        .await;
    browser
        .until("all can be forgotten", &click("#forget-all"))
        .await;
    browser.run(&click("#confirm-yes")).await;
    browser
        .until("none is left", &shows("#jobs-dead", "No dead letters"))
        .await;
    assert_eq!(
        stored(&server, "buried").await.unwrap(),
        "1",
        "nothing was done"
    );
    browser.has_no_complaints().await;
}

/// Starts a server with a token that may write, one that may read, and one that may read one team's
/// keys.
async fn with_tokens() -> Server {
    let lines = [
        token_line("writer", "w-secret", "rw", ""),
        token_line("reader", "r-secret", "r", ""),
        token_line("team", "t-secret", "rw", "team/"),
    ];
    let lines: Vec<String> = lines.into_iter().map(Result::unwrap).collect();
    let options = Options {
        tokens: Some(Arc::new(Tokens::parse(&lines.join("\n")).unwrap())),
        ..Options::default()
    };
    let mut server = Server::start_on(in_memory(), options).await;
    server.work();
    server.put("secret/key", "1").await;
    server.put("team/key", "2").await;
    server
}

#[tokio::test]
async fn console_asks_for_a_token_and_offers_what_it_may_do() {
    let server = with_tokens().await;
    let browser = open_page(&server, "#key=secret%2Fkey").await;
    let enter = |token: &'static str| {
        [
            fill("#token-text", token),
            click("#token-dialog [type=submit]"),
        ]
    };
    browser
        .until(
            "it asks for a token",
            &shows("#token-dialog", "only to those with a token"),
        )
        .await;
    for script in enter("wrong") {
        browser.until("a wrong one is tried", &script).await;
    }
    browser
        .until("it is refused", &shows("#token-error", "not known here"))
        .await;
    for script in enter("r-secret") {
        browser.until("one that may read is tried", &script).await;
    }
    browser
        .until("the value is shown", &shows("#value", "1"))
        .await;
    browser
        .until("what may be done is said", &shows("#rights", "Read-only"))
        .await;
    let writes = "return [...document.querySelectorAll('#create, #edit, #delete')].filter(it => it.checkVisibility()).length";
    assert_eq!(browser.run(writes).await, 0);
    assert_eq!(
        browser
            .run("return [sessionStorage.length, localStorage.length, document.cookie]")
            .await,
        json!([1, 0, ""])
    );

    // After a reload the page still has the token. Once forgotten, it is requested again, and
    // another token may allow more.
    browser
        .open(&format!("http://{}/#jobs", server.address))
        .await;
    browser
        .until("the queue is shown", &shows("#tile-jobs", "0"))
        .await;
    browser
        .until("the token can be changed", &click("#token"))
        .await;
    browser
        .until("and forgotten", &click("#token-forget"))
        .await;
    browser
        .until(
            "it is asked for again",
            &shows("#token-dialog", "only to those with a token"),
        )
        .await;
    for script in enter("t-secret") {
        browser.until("one of a team is tried", &script).await;
    }
    browser
        .until("it is said what is shown", &shows("#jobs", "“team/”"))
        .await;
    browser.run("location.hash = '#data'; return 1").await;
    browser
        .until("its keys are shown", &click_row("team/key"))
        .await;
    browser
        .until("it may write them", &shows("#edit", "Edit"))
        .await;
    let titles =
        "return [...document.querySelectorAll('.row:not([hidden])')].map(row => row.title)";
    assert_eq!(browser.run(titles).await, json!(["team/key"]));
}

#[tokio::test]
async fn program_is_told_what_its_token_may_do() {
    let server = with_tokens().await;
    for (token, access) in [
        (None, Value::Null),
        (Some("wrong"), Value::Null),
        (Some("w-secret"), json!({ "write": true, "prefix": "" })),
        (Some("r-secret"), json!({ "write": false, "prefix": "" })),
        (
            Some("t-secret"),
            json!({ "write": true, "prefix": "team/" }),
        ),
    ] {
        let mut get = request("GET", "/");
        if let Some(token) = token {
            get = get.header("authorization", &format!("Bearer {token}"));
        }
        let reply = server.ask(&get).await;
        assert_eq!(
            (reply.status, &reply.json()["access"]),
            (200, &access),
            "{token:?}"
        );
    }
}

#[tokio::test]
async fn many_keys_are_few_elements_and_pages() {
    let mut server = Server::start_on(in_memory(), Options::default()).await;
    server.work();
    for number in 0..1200 {
        server.put(&format!("many/{number:05}"), "1").await;
    }
    let browser = open_page(&server, "").await;
    browser
        .until("the folder is there", &click_row("many/"))
        .await;
    browser
        .until("its keys are there", &row("many/00000"))
        .await;
    browser
        .until("they are counted", &shows("#total", "1,200 keys"))
        .await;
    let elements = "return document.querySelectorAll('#tree [role=treeitem]').length";
    let few = browser.run(elements).await.as_u64().unwrap();
    assert!((10..100).contains(&few), "{few}");
    // To the end of the page by keyboard alone, and on to the next pages.
    let press = |key: &str| {
        format!(
            "document.querySelector('#tree').dispatchEvent(new KeyboardEvent('keydown', {{ key: {}, bubbles: true }})); return 1;",
            json!(key)
        )
    };
    for last in ["many/00500", "many/01000"] {
        browser.run(&press("End")).await;
        let next = "const id = document.querySelector('#tree').getAttribute('aria-activedescendant'); \
                    return document.getElementById(id)?.innerText.includes('Next 500');";
        browser.until("the last row is the next page", next).await;
        browser.run(&press("Enter")).await;
        browser.until("the next page is shown", &row(last)).await;
    }
    browser.run(&press("End")).await;
    browser
        .until("the last key is shown", &row("many/01199"))
        .await;
    let few = browser.run(elements).await.as_u64().unwrap();
    assert!(few < 100, "{few}");
    browser.has_no_complaints().await;
}

#[tokio::test]
async fn page_is_for_browsers_small_and_loads_nothing_from_elsewhere() {
    let server = Server::start_on(in_memory(), Options::default()).await;
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let page = server
        .ask(&request("GET", "/").header("accept", browser))
        .await;
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    let text = page.text().to_owned();
    assert!(
        !text.contains("http:") && !text.contains("https:") && !text.contains("style="),
        "{text}"
    );

    // All files named by the page or one of its modules, compressed as a proxy would.
    let mut size = gzipped(&page.body);
    let mut names: Vec<String> = quoted(&text, "console/");
    let mut at = 0;
    while let Some(name) = names.get(at).cloned() {
        let file = server
            .ask(&request("GET", &format!("/console/{name}")))
            .await;
        assert_eq!(file.status, 200, "{name}");
        size += gzipped(&file.body);
        for name in quoted(file.text(), "./") {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        at += 1;
    }
    assert!(names.len() >= 10, "{names:?}");
    assert!(size < 60_000, "{size} bytes");
    // A program without a preference gets JSON.
    for accept in ["*/*", "application/json"] {
        let reply = server
            .ask(&request("GET", "/").header("accept", accept))
            .await;
        assert_eq!(reply.json()["name"], "kvstore", "{accept}");
        assert_eq!(
            reply.json()["access"],
            json!({ "write": true, "prefix": "" })
        );
    }
}

/// Writes the pictures in `docs/`, for review after a change of the page.
#[tokio::test]
#[ignore = "writes files of the repository"]
async fn pictures_for_the_documentation() {
    let mut server = Server::start_on(in_memory(), Options::default()).await;
    server.put("buried", "1").await;
    let later = |key: &str| {
        let put = request("PUT", &format!("/v1/kv/{key}")).body("1");
        put.header("prefer", "respond-async")
    };
    let job = server.ask(&later("orders/1042")).await.json()["job_id"].clone();
    server.bury(job.as_str().unwrap()).await;
    server.work();
    while server.service.queue().depth().await.unwrap().jobs > 0 {
        tokio::task::yield_now().await;
    }
    server.rest();
    for key in ["orders/1043", "orders/1044", "user/grace/visits"] {
        server.ask(&later(key)).await;
    }
    for name in ["ada", "alan", "barbara", "edsger", "grace"] {
        server.put(&format!("user/{name}/settings"), "{}").await;
        server.put(&format!("user/{name}/visits"), "17").await;
    }
    let profile = r#"{"name":"Ada Lovelace","born":1815,"balance":12345678901234567890.50,"rate":1.0,"roles":["author","admin"],"address":{"city":"London","zip":null},"active":true}"#;
    server.put("user/ada/profile", profile).await;
    for (key, value) in [
        ("config/site", r#"{"title":"Engine"}"#),
        ("counter", "42"),
        ("motd", r#""Hello""#),
    ] {
        server.put(key, value).await;
    }
    for number in 0..400 {
        server
            .put(&format!("session/{number:06x}"), r#"{"user":"ada"}"#)
            .await;
    }
    let browser = open_page(&server, "#jobs").await;
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    std::fs::create_dir_all(&docs).unwrap();
    let picture = async |name: &str| {
        tokio::time::sleep(Duration::from_millis(600)).await;
        std::fs::write(docs.join(name), browser.picture().await).unwrap();
    };
    browser.look(1120, 660, "light").await;
    browser
        .until("a letter", &shows("#jobs-dead", "refused"))
        .await;
    picture("console-jobs.png").await;
    server.work();
    browser.run("location.hash = '#data'; return 1").await;
    browser.until("it opens", &click_row("user/")).await;
    browser.until("and this", &click_row("user/ada/")).await;
    browser
        .until("and this", &click_row("user/ada/profile"))
        .await;
    browser
        .until("it is shown", &shows("#value", "Ada Lovelace"))
        .await;
    picture("console.png").await;
    browser.look(1120, 660, "dark").await;
    browser.until("it can be edited", &click("#edit")).await;
    let edited = profile.replace("London", "Ockham").replace("1.0,", "1.25,");
    browser.until("it is typed", &fill("#text", &edited)).await;
    let theirs = profile.replace("London", "Paris");
    server.put("user/ada/profile", &theirs).await;
    browser.until("it is saved", &click("#save")).await;
    browser
        .until("a conflict", &shows("#theirs", "Paris"))
        .await;
    picture("console-conflict-dark.png").await;
    browser.look(390, 700, "light").await;
    browser.until("theirs", &click("#discard")).await;
    browser
        .until("it is shown", &shows("#value", "Paris"))
        .await;
    picture("console-narrow.png").await;
}

/// Returns the names after `start` in quoted texts.
fn quoted(text: &str, start: &str) -> Vec<String> {
    let mut names: Vec<String> = text
        .split(['"', '\''])
        .filter_map(|piece| piece.strip_prefix(start))
        .filter(|name| name.contains('.'))
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

fn gzipped(bytes: &[u8]) -> usize {
    let mut gzip = Command::new("gzip")
        .args(["-9", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip is there");
    gzip.stdin.take().unwrap().write_all(bytes).unwrap();
    gzip.wait_with_output().unwrap().stdout.len()
}
