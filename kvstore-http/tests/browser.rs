//! Does a person with a browser and no network get along: open `/docs`, send a write from it, and hear of changes?
//!
//! Chromium without a window, driven as WebDriver has it (<https://www.w3.org/TR/webdriver2/>).

mod support;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::client::{Connection, request};
use support::process::Process;

/// Longer than a page takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page.
struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .args(["--port=0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is missing: apt-get install chromium chromium-driver");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port: u16 = lines
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, port) = line.split_once("started successfully on port ")?;
                port.trim_end_matches('.').parse().ok()
            })
            .expect("chromedriver says its port");
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self {
            driver,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            _profile: profile,
        };
        let args = json!([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            format!("--user-data-dir={}", browser._profile.path().display()),
        ]);
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.ask("POST", "", &wanted).await;
        browser.session = format!("/{}", session["sessionId"].as_str().expect("a session"));
        browser
    }

    async fn ask(&self, method: &str, command: &str, body: &Value) -> Value {
        let target = format!("/session{}{command}", self.session);
        // It listens to nobody who calls it by another name.
        let mut ask = request(method, &target).header("host", &self.address.to_string());
        if method == "POST" {
            ask = ask.body(body.to_string());
        }
        let reply = Connection::open(self.address).await.ask(&ask).await;
        let mut answer = reply.json();
        assert_eq!(reply.status, 200, "{target}: {answer:#}");
        answer["value"].take()
    }

    async fn open(&self, url: &str) {
        self.ask("POST", "/url", &json!({ "url": url })).await;
    }

    /// What a script returns.
    async fn run(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.ask("POST", "/execute/sync", &body).await
    }

    /// Runs a script until it returns something that holds.
    async fn until(&self, what: &str, script: &str) -> Value {
        let begun = Instant::now();
        loop {
            let value = self.run(script).await;
            if !value.is_null() && value != false && value != "" {
                return value;
            }
            if begun.elapsed() > PATIENCE {
                let log = self.log().await;
                panic!("it does not come to this: {what}; {log:#}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the page had to complain about.
    async fn log(&self) -> Value {
        self.ask("POST", "/se/log", &json!({ "type": "browser" }))
            .await
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends its browser with it.
        let id = self.driver.id().to_string();
        let _ = Command::new("kill").args(["-s", "TERM", &id]).status();
        let _ = self.driver.wait();
    }
}

/// Clicks what `selector` finds.
fn click(selector: &str) -> String {
    format!(
        "const found = document.querySelector({}); if (found) found.click(); return !!found;",
        json!(selector)
    )
}

/// What a person does who types: frameworks hear of it.
fn fill(selector: &str, text: &str) -> String {
    format!(
        "const field = document.querySelector({}); if (!field) return false;
         const kind = field.tagName === 'TEXTAREA' ? HTMLTextAreaElement : HTMLInputElement;
         Object.getOwnPropertyDescriptor(kind.prototype, 'value').set.call(field, {});
         field.dispatchEvent(new Event('input', {{ bubbles: true }}));
         field.dispatchEvent(new Event('change', {{ bubbles: true }}));
         return true;",
        json!(selector),
        json!(text)
    )
}

#[tokio::test]
async fn write_is_sent_from_the_docs_and_heard_of_by_an_event_source() {
    let process = Process::start(&["--store", "memory:"]);
    let browser = Browser::start().await;
    let url = format!("http://{}", process.address);
    browser.open(&format!("{url}/docs")).await;
    let title = "return document.body.innerText.includes('applied exactly once')";
    browser.until("the promise is shown", title).await;

    // In the same page, as a page of one's own would.
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

    let write = "#operations-simple-set";
    browser
        .until(
            "the write is shown",
            &click(&format!("{write} .opblock-summary-control")),
        )
        .await;
    let body = r#"{"key": "from:docs", "value": {"name": "Ada"}}"#;
    browser
        .until(
            "its body can be typed",
            &fill(&format!("{write} textarea.body-param__text"), body),
        )
        .await;
    browser
        .until("it can be sent", &click(&format!("{write} button.execute")))
        .await;
    let status = format!(
        "const cell = document.querySelector('{write} .live-responses-table tr.response .response-col_status'); return cell && cell.innerText;"
    );
    let status = browser.until("it is answered", &status).await;
    // The page proposes to wait for the outcome.
    assert_eq!(status, "200");

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

    let log = browser.log().await;
    let problems: Vec<_> = log
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["level"] == "SEVERE")
        .collect();
    assert!(problems.is_empty(), "{problems:#?}");
}
