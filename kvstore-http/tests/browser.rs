//! Does a person with a browser and no network get along: open `/docs`, send a write from it, and hear of changes?
//!
//! Chromium without a window, driven as WebDriver has it (<https://www.w3.org/TR/webdriver2/>).

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::client::{Connection, request};
use support::process::{Process, run};

/// Longer than a page takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page.
struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    /// There as long as the browser runs, which is a process of the driver's.
    running: PathBuf,
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
            running: PathBuf::new(),
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
        let id = &session["capabilities"]["goog:processID"];
        browser.running = PathBuf::from(format!("/proc/{id}"));
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
        // Only the end of its session ends the browser: one whose driver is killed runs on.
        if let Ok(mut driver) = TcpStream::connect(self.address) {
            let _ = driver.set_read_timeout(Some(PATIENCE));
            let _ = write!(
                driver,
                "DELETE /session{} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
                self.session, self.address
            );
            let _ = driver.read(&mut [0]);
        }
        let _ = self.driver.kill();
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

/// The write that is sent from the page.
const WRITE: &str = "#operations-simple-set";

/// Opens the form of [`WRITE`] and types what is to be written.
async fn fill_in_write(browser: &Browser, body: &str) {
    let control = click(&format!("{WRITE} .opblock-summary-control"));
    browser.until("the write is shown", &control).await;
    let body = fill(&format!("{WRITE} textarea.body-param__text"), body);
    browser.until("its body can be typed", &body).await;
}

/// Sends it, and waits for an answer of this status.
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

    fill_in_write(
        &browser,
        r#"{"key": "from:docs", "value": {"name": "Ada"}}"#,
    )
    .await;
    // The page proposes to wait for the outcome.
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

    let log = browser.log().await;
    let problems: Vec<_> = log
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["level"] == "SEVERE")
        .collect();
    assert!(problems.is_empty(), "{problems:#?}");

    let running = browser.running.clone();
    assert!(running.exists());
    drop(browser);
    assert!(!running.exists(), "the browser runs on");
}

#[tokio::test]
async fn docs_are_open_to_all_and_their_authorize_button_takes_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let made = run(&["token", "writer"], &[]);
    std::fs::write(&file, &made.stdout).unwrap();
    let secret = made.stderr.last().unwrap().rsplit(' ').next().unwrap();
    let tokens = file.to_str().unwrap();
    let process = Process::start(&["--store", "memory:", "--tokens-file", tokens]);
    let browser = Browser::start().await;
    browser
        .open(&format!("http://{}/docs", process.address))
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
            fill(".dialog-ux #auth-bearer-value", secret),
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
