//! A Redis Cluster of three primaries, shared by the tests of one process and ended by process id.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::redis::{DURABLE, free_port};
use crate::tool;

/// Longer than a cluster takes to agree on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The slots of a cluster.
const SLOTS: u16 = 16384;

/// Three primaries, each with a third of the slots, until this is dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    /// The data of the nodes.
    _folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Node {
    process: Child,
    port: u16,
    bus: u16,
    folder: PathBuf,
    tls: Option<Tls>,
}

/// The authority and the certificates of the servers: PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The path of the authority's certificate.
    pub authority: String,
    /// The path of the servers' certificate.
    pub certificate: String,
    /// The path of its private key.
    pub key: String,
}

impl Cluster {
    /// Returns the cluster that another test already uses, or a new one.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Self::start());
            *shared = Arc::downgrade(&new);
            new
        })
    }

    /// Starts a cluster.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts a cluster, with TLS everywhere if certificates are given.
    pub fn start_with(tls: Option<&Tls>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nodes = (0..3).map(|number| Node::start(&folder, number, tls));
        let nodes: Vec<Node> = nodes.collect();
        let cluster = Self {
            nodes,
            _folder: folder,
        };
        for (number, node) in (0_u16..).zip(&cluster.nodes) {
            let first = SLOTS / 3 * number;
            let last = if number == 2 {
                SLOTS - 1
            } else {
                first + SLOTS / 3 - 1
            };
            let range = [first.to_string(), last.to_string()];
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]);
            let [host, port, bus] = cluster.nodes[0].place();
            node.ask(&["CLUSTER", "MEET", &host, &port, &bus]);
        }
        let begun = Instant::now();
        let knows_all = |node: &Node| {
            let info = node.ask(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        while !cluster.nodes.iter().all(knows_all) {
            assert!(begun.elapsed() < PATIENCE, "the servers form no cluster");
            std::thread::sleep(Duration::from_millis(20));
        }
        cluster
    }

    /// Returns the URL of a store there.
    pub fn url(&self) -> String {
        let nodes = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port));
        let nodes = nodes.collect::<Vec<_>>().join(",");
        match self.nodes[0].tls {
            None => format!("redis+cluster://{nodes}"),
            Some(_) => format!("rediss+cluster://{nodes}"),
        }
    }

    /// Kills one of its servers, and restarts it on the data that remains.
    pub fn kill_and_start(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.process.kill().unwrap();
        node.process.wait().unwrap();
        node.process = spawn(node.port, node.bus, &node.folder, node.tls.as_ref());
        assert!(node.comes_up(), "it does not start again");
    }

    /// Moves `count` slots, with everything in them, from one server to another.
    pub fn move_slots(&self, from: usize, to: usize, count: usize) {
        let id = |number: usize| self.nodes[number].ask(&["CLUSTER", "MYID"]);
        let output = tool("redis-cli")
            .args([
                "--cluster",
                "reshard",
                &format!("127.0.0.1:{}", self.nodes[from].port),
            ])
            .args(["--cluster-from", &id(from), "--cluster-to", &id(to)])
            .args(["--cluster-slots", &count.to_string(), "--cluster-yes"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Begins to move a slot from one server to another.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let id = |number: usize| self.nodes[number].ask(&["CLUSTER", "MYID"]);
        let slot = ["CLUSTER", "SETSLOT", &slot.to_string()].map(str::to_owned);
        let [cluster, set, slot] = &slot;
        self.ask(to, &[cluster, set, slot, "IMPORTING", &id(from)]);
        self.ask(from, &[cluster, set, slot, "MIGRATING", &id(to)]);
    }

    /// Moves `count` keys of a slot whose move has begun.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize, count: usize) {
        let (slot, count) = (slot.to_string(), count.to_string());
        let keys = self.ask(from, &["CLUSTER", "GETKEYSINSLOT", &slot, &count]);
        assert!(!keys.is_empty(), "no keys are in slot {slot}");
        let [host, port, _] = self.nodes[to].place();
        for key in keys.lines() {
            self.ask(from, &["MIGRATE", &host, &port, key, "0", "5000"]);
        }
    }

    /// Ends the move of a slot, all of whose keys have moved.
    pub fn end_move(&self, slot: u16, to: usize) {
        let id = self.ask(to, &["CLUSTER", "MYID"]);
        let others = (0..self.nodes.len()).filter(|number| *number != to);
        for number in std::iter::once(to).chain(others) {
            self.ask(
                number,
                &["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id],
            );
        }
    }

    /// Returns how many slots one of its servers has, according to itself.
    pub fn slots(&self, number: usize) -> usize {
        let nodes = self.nodes[number].ask(&["CLUSTER", "NODES"]);
        let own = nodes
            .lines()
            .find(|line| line.contains("myself"))
            .expect("it knows itself");
        let ranges = own
            .split(' ')
            .skip(8)
            .filter(|range| !range.starts_with('['));
        let count = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.parse::<usize>().expect("a slot");
            number(last) - number(first) + 1
        };
        ranges.map(count).sum()
    }

    /// Runs a command on one of its servers.
    pub fn ask(&self, number: usize, command: &[&str]) -> String {
        self.nodes[number].ask(command)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.process.kill();
            let _ = node.process.wait();
        }
    }
}

impl Node {
    fn start(folder: &tempfile::TempDir, number: usize, tls: Option<&Tls>) -> Self {
        // Another process may take a port first.
        for _ in 0..10 {
            let [port, bus] = [(); 2].map(|()| free_port());
            let own = folder.path().join(format!("{number}-{port}"));
            std::fs::create_dir(&own).unwrap();
            let mut node = Self {
                process: spawn(port, bus, &own, tls),
                port,
                bus,
                folder: own,
                tls: tls.cloned(),
            };
            if node.comes_up() {
                return node;
            }
        }
        panic!("there are no free ports");
    }

    fn comes_up(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if self.try_ask(&["PING"]).as_deref() == Some("PONG") {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Returns host, port, and the port of the cluster bus.
    fn place(&self) -> [String; 3] {
        [
            "127.0.0.1".to_owned(),
            self.port.to_string(),
            self.bus.to_string(),
        ]
    }

    fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command)
            .unwrap_or_else(|| panic!("no answer to {command:?}"))
    }

    fn try_ask(&self, command: &[&str]) -> Option<String> {
        let mut cli = tool("redis-cli");
        if let Some(tls) = &self.tls {
            cli.args(["--tls", "--cacert", &tls.authority]);
        }
        let output = cli
            .args(["-e", "-p", &self.port.to_string()])
            .args(command)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| text.trim().to_owned())
    }
}

fn spawn(port: u16, bus: u16, folder: &Path, tls: Option<&Tls>) -> Child {
    let mut server = tool("redis-server");
    match tls {
        None => server.args(["--port", &port.to_string()]),
        Some(tls) => server
            .args(["--port", "0", "--tls-port", &port.to_string()])
            .args(["--tls-ca-cert-file", &tls.authority])
            .args(["--tls-cert-file", &tls.certificate])
            .args(["--tls-key-file", &tls.key])
            .args(["--tls-cluster", "yes", "--tls-auth-clients", "no"]),
    };
    server
        .args(["--bind", "127.0.0.1"])
        .args([
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus.to_string(),
        ])
        .args(DURABLE)
        .args(["--save", ""])
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
