//! A Redis server for one test: on a socket in its own folder, with durable settings, ended by its
//! process id.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::tool;

/// Longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folder of its log, in its own.
const LOG: &str = "appendonlydir";

/// The settings with which a server keeps what it has acknowledged.
pub const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct RedisServer {
    folder: TempDir,
    process: Child,
}

impl RedisServer {
    /// Starts a server with durable settings.
    pub fn start() -> Self {
        Self::start_with(&DURABLE)
    }

    /// Starts a server with `settings`.
    pub fn start_with(settings: &[&str]) -> Self {
        Self::launch(tempfile::tempdir().unwrap(), settings)
    }

    /// Starts a server with durable settings on the data of another one.
    pub fn start_in(folder: TempDir) -> Self {
        Self::launch(folder, &DURABLE)
    }

    fn launch(folder: TempDir, settings: &[&str]) -> Self {
        let process = spawn(&folder, settings);
        let server = Self { folder, process };
        server.wait();
        server
    }

    /// Starts a server on a port, and a replica of it.
    pub fn pair() -> (Self, Self, u16) {
        let number = free_port();
        let port = number.to_string();
        let alone = ["--port", &port, "--repl-diskless-sync-delay", "0"];
        let primary = Self::start_with(&[&DURABLE[..], &alone].concat());
        let behind = ["--replicaof", "127.0.0.1", &port];
        let replica = Self::start_with(&[&DURABLE[..], &behind].concat());
        primary.wait_for_replica();
        (primary, replica, number)
    }

    /// Waits until a replica of it has its data.
    pub fn wait_for_replica(&self) {
        let begun = Instant::now();
        while !self.ask(&["info", "replication"]).contains("state=online") {
            assert!(begun.elapsed() < PATIENCE, "the replica does not connect");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the server. Its files remain.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Restarts a killed server on its files, with durable settings.
    pub fn restart(&mut self) {
        self.restart_with(&DURABLE);
    }

    fn restart_with(&mut self, settings: &[&str]) {
        self.process = spawn(&self.folder, settings);
        self.wait();
    }

    /// Kills the server, and restarts it on its files.
    pub fn kill_and_start(&mut self) {
        self.kill_and_start_with(&DURABLE);
    }

    /// Kills the server, and restarts it on its files, with `settings`.
    pub fn kill_and_start_with(&mut self, settings: &[&str]) {
        self.kill();
        self.restart_with(settings);
    }

    /// Copies its data, while nothing changes.
    pub fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_log(self.folder.path(), copy.path());
        copy
    }

    /// Kills the server, and restarts it on an earlier copy of its data.
    pub fn kill_and_start_from(&mut self, copy: &TempDir) {
        self.kill();
        std::fs::remove_dir_all(self.log_folder()).unwrap();
        copy_log(copy.path(), self.folder.path());
        self.restart();
    }

    /// Pauses the server, or resumes it.
    pub fn pause(&self, is_paused: bool) {
        let signal = if is_paused { "-STOP" } else { "-CONT" };
        let id = self.process.id().to_string();
        let kill = tool("kill").args([signal, &id]).status();
        assert!(kill.unwrap().success());
    }

    /// Returns the path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Returns the path of the folder of its log.
    pub fn log_folder(&self) -> PathBuf {
        self.folder.path().join(LOG)
    }

    /// Returns the URL of a store on the server.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Runs a command on the server, and returns the trimmed answer.
    ///
    /// # Panics
    /// If the answer is an error.
    pub fn ask(&self, command: &[&str]) -> String {
        let answer = tool("redis-cli")
            .args(["-e", "-s"])
            .arg(self.socket())
            .args(command)
            .output()
            .unwrap();
        assert!(answer.status.success(), "{command:?}: {answer:?}");
        let text = String::from_utf8(answer.stdout).expect("an answer in UTF-8");
        text.trim().to_owned()
    }

    /// Returns the number at `name` in a section of `INFO`, or 0 if it is absent.
    pub fn info(&self, section: &str, name: &str) -> u64 {
        let text = self.ask(&["INFO", section]);
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map_or(0, |value| {
            let value = value.trim().trim_start_matches("count=");
            value.parse().expect("a number")
        })
    }

    /// Waits until the server answers.
    fn wait(&self) {
        let begun = Instant::now();
        loop {
            let answer = tool("redis-cli")
                .arg("-s")
                .arg(self.socket())
                .arg("ping")
                .output()
                .unwrap();
            // With a password set, it answers that it requires one; and something else while it
            // still reads its log.
            if answer.stdout.starts_with(b"PONG") || answer.stdout.starts_with(b"NOAUTH") {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "redis-server does not answer: {answer:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns an unused port.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn copy_log(from: &Path, to: &Path) {
    std::fs::create_dir(to.join(LOG)).unwrap();
    for file in std::fs::read_dir(from.join(LOG)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(LOG).join(file.file_name())).unwrap();
    }
}

fn spawn(folder: &TempDir, settings: &[&str]) -> Child {
    tool("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(folder.path().join("socket"))
        .arg("--dir")
        .arg(folder.path())
        .args(settings)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Returns the rights that docs/configuration.md gives to a dedicated user, for another prefix.
pub fn rights(prefix: &str) -> Vec<String> {
    let line = include_str!("../../docs/configuration.md")
        .lines()
        .find_map(|line| line.strip_prefix("ACL SETUSER kvstore on >PASSWORD "))
        .expect("docs/configuration.md has a line for ACL SETUSER");
    let keys = line.replace("kv:", &format!("{prefix}:"));
    keys.split(' ').map(str::to_owned).collect()
}
