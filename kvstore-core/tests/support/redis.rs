//! A Redis server for one test: on a socket in its own folder, with durable settings, ended by its
//! process id.
#![allow(dead_code, reason = "no test file needs all of it")]

use std::any::Any;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use kvstore_core::Store;
use kvstore_core::conformance::{QueueBounds, QueueHarness, StoreHarness};
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::{PartitionCount, QueueId};
use kvstore_core::queue::WorkQueue;
use kvstore_core::redis::{Options, Redis};
use kvstore_testing::tool;

/// A server that runs until it is dropped.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    process: Child,
}

impl Server {
    /// Starts a server with durable settings.
    pub(crate) fn start() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = spawn(&folder, settings);
        let server = Self { folder, process };
        server.wait();
        server
    }

    /// Starts one on a port, and a replica of it.
    pub(crate) fn pair() -> (Self, Self, u16) {
        let number = free_port();
        let port = number.to_string();
        let kept = ["--appendonly", "yes", "--appendfsync", "always"];
        let primary = Self::start_with(
            &[
                &kept[..],
                &["--port", &port, "--repl-diskless-sync-delay", "0"],
            ]
            .concat(),
        );
        let replica = Self::start_with(&[&kept[..], &["--replicaof", "127.0.0.1", &port]].concat());
        let begun = Instant::now();
        while !primary
            .ask(&["info", "replication"])
            .contains("state=online")
        {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "the replica does not connect"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        (primary, replica, number)
    }

    /// Kills it, and restarts it on what it has left.
    pub(crate) fn kill_and_start(&mut self) {
        self.kill_and_start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    }

    pub(crate) fn kill_and_start_with(&mut self, settings: &[&str]) {
        self.kill();
        self.process = spawn(&self.folder, settings);
        self.wait();
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Copies its data, while nothing changes.
    pub(crate) fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_log(self.folder.path(), copy.path());
        copy
    }

    /// Kills it, and restarts it on an earlier copy of its data.
    pub(crate) fn kill_and_start_from(&mut self, copy: &tempfile::TempDir) {
        self.kill();
        std::fs::remove_dir_all(self.folder.path().join(LOG)).unwrap();
        copy_log(copy.path(), self.folder.path());
        self.process = spawn(
            &self.folder,
            &["--appendonly", "yes", "--appendfsync", "always"],
        );
        self.wait();
    }

    /// Stops it where it is, or lets it continue.
    pub(crate) fn pause(&self, is_paused: bool) {
        let signal = if is_paused { "-STOP" } else { "-CONT" };
        let id = self.process.id().to_string();
        let kill = tool("kill").args([signal, &id]).status();
        assert!(kill.unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("s").display())
    }

    /// Runs one command there.
    pub(crate) fn cli(&self, command: &[&str]) {
        self.ask(command);
    }

    /// Returns the answer to one command.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        let answer = tool("redis-cli")
            .args(["-e", "-s"])
            .arg(self.folder.path().join("s"))
            .args(command)
            .output()
            .unwrap();
        assert!(answer.status.success(), "{answer:?}");
        String::from_utf8(answer.stdout).unwrap()
    }

    /// Waits until it answers.
    fn wait(&self) {
        let start = Instant::now();
        loop {
            let answer = tool("redis-cli")
                .arg("-s")
                .arg(self.folder.path().join("s"))
                .arg("ping")
                .output()
                .unwrap();
            // With a password set, it answers that it requires one.
            if answer.stdout.starts_with(b"PONG") || answer.stdout.starts_with(b"NOAUTH") {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "it does not answer: {answer:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns an unused port.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Where it keeps its log.
const LOG: &str = "appendonlydir";

fn copy_log(from: &Path, to: &Path) {
    std::fs::create_dir(to.join(LOG)).unwrap();
    for file in std::fs::read_dir(from.join(LOG)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(LOG).join(file.file_name())).unwrap();
    }
}

fn spawn(folder: &tempfile::TempDir, settings: &[&str]) -> Child {
    tool("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(folder.path().join("s"))
        .arg("--dir")
        .arg(folder.path())
        .args(settings)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Returns the rights that docs/configuration.md gives to a dedicated user, for another prefix.
pub(crate) fn rights(prefix: &str) -> Vec<String> {
    let line = include_str!("../../../docs/configuration.md")
        .lines()
        .find_map(|line| line.strip_prefix("ACL SETUSER kvstore on >PASSWORD "))
        .expect("docs/configuration.md has a line for ACL SETUSER");
    let keys = line.replace("kv:", &format!("{prefix}:"));
    keys.split(' ').map(str::to_owned).collect()
}

/// A store under a prefix of its own. Each handle is a connection of its own.
pub(crate) struct OnRedis {
    url: String,
    prefix: String,
    /// Runs while this value lives.
    _server: Box<dyn Any + Send + Sync>,
    partitions: PartitionCount,
    skew_ms: Arc<AtomicI64>,
    /// To be closed at a restart.
    opened: std::sync::Mutex<Vec<Redis>>,
}

impl OnRedis {
    /// Creates one on a server of its own, with exactly the rights in docs/configuration.md.
    pub(crate) fn new(partitions: u16) -> Self {
        let server = Server::start();
        let user = ["acl", "setuser", "default", "reset", "on", "nopass"].map(str::to_owned);
        let new = Self::at(server.url(), (), partitions);
        let user = [&user[..], &rights(&new.prefix)].concat();
        server.cli(&user.iter().map(String::as_str).collect::<Vec<_>>());
        Self {
            _server: Box::new(server),
            ..new
        }
    }

    /// Creates one on `server`, which is at `url`.
    pub(crate) fn at(url: String, server: impl Any + Send + Sync, partitions: u16) -> Self {
        Self {
            url,
            prefix: QueueId::random().to_string(),
            _server: Box::new(server),
            partitions: PartitionCount::new(partitions).unwrap(),
            skew_ms: Arc::default(),
            opened: std::sync::Mutex::default(),
        }
    }

    async fn open(&self, bounds: QueueBounds) -> Redis {
        let options = Options {
            prefix: self.prefix.clone(),
            partitions: Some(self.partitions),
            jobs_max: bounds.jobs,
            bytes_max: bounds.bytes,
            idempotency_keys_max: bounds.idempotency_keys,
            skew_ms: Arc::clone(&self.skew_ms),
            ..Options::default()
        };
        let redis = Redis::open(&self.url, options).await.unwrap();
        self.opened.lock().unwrap().push(redis.clone());
        redis
    }
}

/// The server's time: it runs on this machine.
#[allow(
    clippy::disallowed_methods,
    reason = "the server asks the machine, too"
)]
fn server_now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since_epoch.as_millis()).unwrap()
}

#[async_trait]
impl StoreHarness for OnRedis {
    async fn store(&self) -> Arc<dyn Store> {
        self.open(QueueBounds::default()).await.store()
    }

    async fn restart(&self) {
        let opened = std::mem::take(&mut *self.opened.lock().unwrap());
        for redis in opened {
            redis.close();
        }
    }

    async fn now(&self) -> Timestamp {
        let now = server_now() + self.skew_ms.load(Ordering::SeqCst);
        Timestamp(u64::try_from(now).unwrap())
    }

    async fn set_clock(&self, to: Timestamp) {
        let to = i64::try_from(to.0).unwrap();
        self.skew_ms.store(to - server_now(), Ordering::SeqCst);
    }
}

#[async_trait]
impl QueueHarness for OnRedis {
    async fn queue(&self, bounds: QueueBounds) -> Arc<dyn WorkQueue> {
        self.open(bounds).await.queue()
    }
}
