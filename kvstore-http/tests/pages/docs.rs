//! Does `/docs` serve a person with a browser and no network: opening it, sending a write from it,
//! and watching changes?

use crate::browser::{Browser, click, fill};
use crate::support::tokens::add_token;
use kvstore_testing::client::{Connection, request};
use kvstore_testing::process::Process;
use serde_json::json;

/// The write that is sent from the page.
const WRITE: &str = "#operations-simple-set";

/// Opens the form of [`WRITE`] and types the body.
async fn fill_in_write(browser: &Browser, body: &str) {
    let control = click(&format!("{WRITE} .opblock-summary-control"));
    browser.until("the write is shown", &control).await;
    let body = fill(&format!("{WRITE} textarea.body-param__text"), body);
    browser.until("its body can be typed", &body).await;
}

/// Sends the write, and waits for an answer with this status.
async fn send_write(browser: &Browser, status: u16) {
    let execute = click(&format!("{WRITE} button.execute"));
    browser.until("it can be sent", &execute).await;
    let answered = format!(
        "const cell = document.querySelector('{WRITE} .live-responses-table tr.response .response-col_status');
         return cell && cell.innerText.trim() === '{status}';"
    );
    let what = format!("it is answered {status}");
    browser.until(&what, &answered).await;
}

#[tokio::test]
async fn write_is_sent_from_the_docs_and_heard_of_by_an_event_source() {
    let process = Process::start(&["--store", "memory:"]);
    let browser = Browser::start().await;
    let url = format!("http://{}", process.address);
    browser.open(&format!("{url}/docs")).await;
    let title = "return document.body.innerText.includes('applied exactly once')";
    browser.until("the promise is shown", title).await;
    // HEAD operations are not listed, and without tokens nothing is locked.
    let listed = "return document.querySelectorAll('.opblock').length > 15
        && !document.querySelector('.opblock-head') && !document.querySelector('.authorization__btn')";
    browser
        .until("every operation is listed once", listed)
        .await;

    // A script in the same page, as in a page of one's own.
    browser
        .run(
            "window.heard = [];
             window.source = new EventSource('/v1/watch?snapshot=1&include=value');
             for (const name of ['set', 'delete', 'synced'])
               source.addEventListener(name, event => heard.push([name, JSON.parse(event.data)]));",
        )
        .await;
    browser
        .until(
            "it is connected",
            "return heard.some(([name]) => name === 'synced')",
        )
        .await;

    fill_in_write(
        &browser,
        r#"{"key": "from:docs", "value": {"name": "Ada"}}"#,
    )
    .await;
    // The page's default is to wait for the outcome.
    send_write(&browser, 200).await;

    let heard = "return heard.find(([, data]) => data.key === 'from:docs')";
    let heard = browser.until("the change is heard of", heard).await;
    assert_eq!(
        (&heard[0], &heard[1]["value"]),
        (&json!("set"), &json!({"name": "Ada"}))
    );
    let mut connection = Connection::open(process.address).await;
    let reply = connection.ask(&request("GET", "/get/from:docs")).await;
    assert_eq!(
        reply.text(),
        r#"{"key":"from:docs","value":{"name": "Ada"}}"#.replace(": \"", ":\"")
    );

    browser.has_no_complaints().await;

    let running = browser.running.clone();
    assert!(running.exists());
    drop(browser);
    assert!(!running.exists(), "the browser runs on");
}

#[tokio::test]
async fn docs_are_open_to_all_and_their_authorize_button_takes_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let secret = add_token(&file, "writer", "rw", "");
    let tokens = file.to_str().unwrap();
    let process = Process::start(&["--store", "memory:", "--tokens-file", tokens]);
    let browser = Browser::start().await;
    browser
        .open(&format!("http://{}/docs", process.address))
        .await;
    let locks = "return document.querySelectorAll('.authorization__btn').length > 15";
    browser
        .until("what needs a token has a padlock", locks)
        .await;
    fill_in_write(&browser, r#"{"key": "from:docs", "value": 1}"#).await;
    send_write(&browser, 401).await;

    for (what, script) in [
        (
            "there is a button",
            click(".auth-wrapper > button.authorize"),
        ),
        (
            "a token can be typed",
            fill(".dialog-ux #auth-bearer-value", &secret),
        ),
        (
            "it can be given",
            click(".dialog-ux button.authorize[type=submit]"),
        ),
        ("the form can be closed", click(".dialog-ux .btn-done")),
    ] {
        browser.until(what, &script).await;
    }
    send_write(&browser, 200).await;
    let mut connection = Connection::open(process.address).await;
    let get = request("GET", "/get/from:docs").header("authorization", &format!("Bearer {secret}"));
    assert_eq!(
        connection.ask(&get).await.text(),
        r#"{"key":"from:docs","value":1}"#
    );
}
