//! A Redis server of a test's own, on a socket in a folder of its own, ended by its id.
#![allow(dead_code, reason = "no test file needs all of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use kvstore_testing::tool;

/// Longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// One that keeps what it acknowledges, and runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Redis {
    folder: tempfile::TempDir,
    process: Child,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// The same, on what a folder holds of another one.
    pub(crate) fn start_in(folder: tempfile::TempDir) -> Self {
        let process = launch(&folder);
        let redis = Self { folder, process };
        redis.wait_until_it_answers();
        redis
    }

    /// Kills it. What it has written stays.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("our own child");
        self.process.wait().expect("our own child");
    }

    /// Starts it again after a kill, on what it has written.
    pub(crate) fn restart(&mut self) {
        self.process = launch(&self.folder);
        self.wait_until_it_answers();
    }

    /// Kills it at once, and starts it again on what it has left.
    pub(crate) fn kill_and_start(&mut self) {
        self.kill();
        self.restart();
    }

    /// Kills it at once, and starts it again on a copy of its log from before.
    pub(crate) fn kill_and_start_from(&mut self, copy: &Path) {
        self.kill();
        std::fs::remove_dir_all(self.log_folder()).unwrap();
        copy_folder(copy, &self.log_folder());
        self.restart();
    }

    fn wait_until_it_answers(&self) {
        let begun = Instant::now();
        // Another answer than this, while it still reads its log, is none.
        while self.try_ask(&["PING"]).as_deref() != Some("PONG") {
            assert!(begun.elapsed() < PATIENCE, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Where it keeps what it acknowledges.
    pub(crate) fn log_folder(&self) -> PathBuf {
        self.folder.path().join("appendonlydir")
    }

    /// The URL of a store there.
    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// The answer to a command, as text.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command)
            .unwrap_or_else(|| panic!("redis-server does not answer {command:?}"))
    }

    fn try_ask(&self, command: &[&str]) -> Option<String> {
        let output = tool("redis-cli")
            .arg("-s")
            .arg(self.socket())
            .args(command)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).expect("an answer in UTF-8");
        output.status.success().then(|| text.trim().to_owned())
    }

    /// The number at `name` in what `INFO` says, 0 if it is not there.
    pub(crate) fn info(&self, section: &str, name: &str) -> u64 {
        let text = self.ask(&["INFO", section]);
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map_or(0, |value| {
            let value = value.trim().trim_start_matches("count=");
            value.parse().expect("a number")
        })
    }
}

/// Copies the files of a folder that is flat.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn launch(folder: &tempfile::TempDir) -> Child {
    tool("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket", "socket"])
        .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
        .arg(folder.path())
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
