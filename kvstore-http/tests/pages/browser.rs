//! A headless Chromium, controlled by WebDriver (<https://www.w3.org/TR/webdriver2/>).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use kvstore_testing::tool;
use serde_json::{Value, json};

use kvstore_testing::client::{Connection, request};

/// Longer than a page takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page.
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    /// Exists while the browser runs, which is a child process of the driver.
    pub(crate) running: PathBuf,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser.
    pub(crate) async fn start() -> Self {
        tool("chromium");
        let mut driver = tool("chromedriver")
            .args(["--port=0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
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

    /// Sends a WebDriver command and returns its value.
    pub(crate) async fn ask(&self, method: &str, command: &str, body: &Value) -> Value {
        let target = format!("/session{}{command}", self.session);
        // The driver refuses requests for any other host name.
        let mut ask = request(method, &target).header("host", &self.address.to_string());
        if method == "POST" {
            ask = ask.body(body.to_string());
        }
        let reply = Connection::open(self.address).await.ask(&ask).await;
        let mut answer = reply.json();
        assert_eq!(reply.status, 200, "{target}: {answer:#}");
        answer["value"].take()
    }

    /// Opens a page and waits until it is loaded.
    pub(crate) async fn open(&self, url: &str) {
        self.ask("POST", "/url", &json!({ "url": url })).await;
    }

    /// Runs a script and returns its result.
    pub(crate) async fn run(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.ask("POST", "/execute/sync", &body).await
    }

    /// Runs a script repeatedly until its result is truthy.
    pub(crate) async fn until(&self, what: &str, script: &str) -> Value {
        let begun = Instant::now();
        loop {
            let value = self.run(script).await;
            if !value.is_null() && value != false && value != "" {
                return value;
            }
            if begun.elapsed() > PATIENCE {
                let log = self.log().await;
                let page = self.run("return document.body.innerText").await;
                let page = page.as_str().unwrap_or_default();
                panic!("it does not come to this: {what}; {log:#}\n{page}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the page's log.
    pub(crate) async fn log(&self) -> Value {
        self.ask("POST", "/se/log", &json!({ "type": "browser" }))
            .await
    }

    /// Sets the size of the window, and a light or dark color scheme.
    pub(crate) async fn look(&self, width: u32, height: u32, scheme: &str) {
        let command = |name: &str, parameters: Value| json!({ "cmd": name, "params": parameters });
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        for command in [
            command("Emulation.setDeviceMetricsOverride", size),
            command("Emulation.setEmulatedMedia", scheme),
        ] {
            self.ask("POST", "/goog/cdp/execute", &command).await;
        }
    }

    /// Presses keys together, and releases them.
    pub(crate) async fn press(&self, keys: &[char]) {
        let action = |kind: &str, key: &char| json!({ "type": kind, "value": key });
        let down = keys.iter().map(|key| action("keyDown", key));
        let up = keys.iter().rev().map(|key| action("keyUp", key));
        let actions: Vec<Value> = down.chain(up).collect();
        let body = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.ask("POST", "/actions", &body).await;
    }

    /// Returns the roles of interactive elements without an accessible name.
    pub(crate) async fn nameless(&self) -> Vec<Value> {
        let command = json!({ "cmd": "Accessibility.getFullAXTree", "params": {} });
        let tree = self.ask("POST", "/goog/cdp/execute", &command).await;
        let operable = [
            "button",
            "link",
            "textbox",
            "searchbox",
            "spinbutton",
            "combobox",
            "tree",
            "treeitem",
            "dialog",
        ];
        let nodes = tree["nodes"].as_array().expect("a list").iter();
        let nodes = nodes.filter(|node| node["ignored"] == false);
        let mut operable: Vec<&Value> = nodes
            .filter(|node| operable.iter().any(|role| node["role"]["value"] == *role))
            .collect();
        assert!(operable.len() > 5, "{operable:#?}");
        operable.retain(|node| node["name"]["value"].as_str().is_none_or(str::is_empty));
        operable
            .into_iter()
            .map(|node| node["role"]["value"].clone())
            .collect()
    }

    /// Returns a screenshot of the window, as PNG.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        let text = self.ask("GET", "/screenshot", &Value::Null).await;
        let text = text.as_str().expect("base64");
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .expect("base64")
    }

    /// Panics if the page has logged a severe message.
    pub(crate) async fn has_no_complaints(&self) {
        let log = self.log().await;
        let entries = log.as_array().expect("a list");
        let severe: Vec<_> = entries
            .iter()
            .filter(|it| it["level"] == "SEVERE")
            .collect();
        assert!(severe.is_empty(), "{severe:#?}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Only the end of its session ends the browser: if just the driver is killed, it remains.
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

/// Returns a script that clicks the element of `selector`.
pub(crate) fn click(selector: &str) -> String {
    format!(
        "const found = document.querySelector({}); if (found) found.click(); return !!found;",
        json!(selector)
    )
}

/// Returns a script that fills a field as a typing person does, with the events that frameworks
/// need.
pub(crate) fn fill(selector: &str, text: &str) -> String {
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
