//! A Redis server for one bench, on a socket in its own folder, ended by its process id.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::scratch_folder;

const INSTALL: &str = "apt-get install -y redis-server redis-tools";

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    folder: TempDir,
    process: Child,
}

impl Server {
    /// Starts it, with a log that is synced before each answer, or without any.
    pub(crate) fn start(is_durable: bool) -> Self {
        let folder = scratch_folder();
        let log = if is_durable { "yes" } else { "no" };
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket", "s"])
            .args(["--appendonly", log, "--appendfsync", "always", "--dir"])
            .arg(folder.path())
            .current_dir(&folder)
            .stdout(Stdio::null())
            .spawn()
            .expect(INSTALL);
        let server = Self { folder, process };
        while server.cli(&["PING"]).trim() != "PONG" {
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// Returns the URL of a store there, for the server's settings as they are.
    pub(crate) fn url(&self, partitions: u16) -> String {
        let socket = self.socket();
        let socket = socket.display();
        // With bounds that no backlog reaches.
        let queue = "queue_jobs=10000000&queue_bytes=8GiB";
        format!("redis+unix://{socket}?partitions={partitions}&durability=relaxed&{queue}")
    }

    /// Returns the answer to a command.
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .arg("-s")
            .arg(self.socket())
            .args(command)
            .output()
            .expect(INSTALL);
        String::from_utf8(output.stdout).expect("it answers in text")
    }

    /// Returns the sum of the fields `names` of `INFO`.
    pub(crate) fn info(&self, names: &[&str]) -> f64 {
        let text = self.cli(&["INFO"]);
        let figures = text.lines().filter_map(|line| line.split_once(':'));
        figures
            .filter(|(name, _)| names.contains(name))
            .map(|(_, figure)| figure.trim().parse::<f64>().expect("a number"))
            .sum()
    }

    /// Returns the processor time used so far, in seconds, without that of its children.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.info(&["used_cpu_user", "used_cpu_sys"])
    }

    /// Runs redis-benchmark with `command` over 50 connections, 16 requests at a time in each.
    pub(crate) fn benchmark(&self, requests: usize, command: &[&str]) {
        let ended = Command::new("redis-benchmark")
            .args(["-P", "16", "-c", "50", "-r", "100000", "-q", "-n"])
            .arg(requests.to_string())
            .arg("-s")
            .arg(self.socket())
            .args(command)
            .stdout(Stdio::null())
            .status()
            .expect(INSTALL);
        assert!(ended.success(), "redis-benchmark: {ended}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
