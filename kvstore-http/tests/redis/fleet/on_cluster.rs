//! Servers and workers on a Redis Cluster: is anything lost when they are killed, when a primary is
//! killed, and when slots move between primaries under load? Two rounds by default; more with
//!
//! ```text
//! KVSTORE_CLUSTER_ROUNDS=10 cargo test -p kvstore-http --test redis -- --nocapture fleet_on_a_cluster
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{Client, World};
use kvstore_testing::cluster::Cluster;
use kvstore_testing::history::check;
use kvstore_testing::process::{Process, server_command, worker_command};
use kvstore_testing::variable;

const CLIENTS: usize = 12;
const KEYS: usize = 24;
const SERVERS: usize = 2;
const WORKERS: usize = 3;

/// Number of slots moved at a time; by chance, some of them hold partitions.
const SLOTS_MOVED: usize = 1500;

/// Number of writes accepted between two faults, so that each fault meets a fleet at work.
const ACCEPTED_MIN: usize = 60;

/// Time limit for those: longer than the recovery of a primary, and than claims last.
const PROGRESS_MAX: Duration = Duration::from_secs(60);

struct Fleet {
    cluster: Cluster,
    store: String,
    servers: Vec<Process>,
    workers: Vec<Process>,
    world: Arc<World>,
}

impl Fleet {
    fn start_server(&self) -> Process {
        Process::launch_command(server_command(&[
            "--store",
            &self.store,
            "--worker",
            "none",
        ]))
        .serves()
    }

    fn start_worker(&self) -> Process {
        Process::launch_command(worker_command(&["--store", &self.store]))
    }

    fn kill_server(&mut self, number: usize) {
        self.servers[number].kill();
        let process = self.start_server();
        self.world.servers.lock().unwrap()[number] = process.address;
        self.servers[number] = process;
    }

    fn kill_worker(&mut self, number: usize) {
        self.workers[number].kill();
        self.workers[number] = self.start_worker();
    }

    /// Waits until the fleet has made progress.
    fn goes_on(&self, after: &str) {
        let (begun, before) = (Instant::now(), self.world.accepted());
        while self.world.accepted() < before + ACCEPTED_MIN {
            assert!(begun.elapsed() < PROGRESS_MAX, "no progress after {after}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Injects each fault once. Slots move around in a circle.
    fn break_things(&mut self, round: usize) {
        let (from, to) = (round % 3, (round + 1) % 3);
        self.goes_on("the round before");
        self.kill_worker(round % WORKERS);
        self.goes_on("a killed worker");
        self.kill_server(round % SERVERS);
        self.goes_on("a killed server");
        let before = self.cluster.slots(to);
        self.cluster.move_slots(from, to, SLOTS_MOVED);
        assert_eq!(
            self.cluster.slots(to),
            before + SLOTS_MOVED,
            "they have moved"
        );
        self.goes_on("moved slots");
        self.cluster.kill_and_start(to);
        self.goes_on("a killed primary");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fleet_on_a_cluster_loses_doubles_and_reorders_nothing() {
    let rounds = variable("KVSTORE_CLUSTER_ROUNDS").unwrap_or(2);
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let cluster = tokio::task::block_in_place(Cluster::start);
    let mut fleet = Fleet {
        store: format!("{}?partitions=24", cluster.url()),
        cluster,
        servers: Vec::new(),
        workers: Vec::new(),
        world: Arc::new(World::new(vec![nowhere; SERVERS], KEYS)),
    };
    for number in 0..SERVERS {
        let process = fleet.start_server();
        fleet.world.servers.lock().unwrap()[number] = process.address;
        fleet.servers.push(process);
    }
    for _ in 0..WORKERS {
        fleet.workers.push(fleet.start_worker());
    }
    let world = Arc::clone(&fleet.world);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = Client::new(number, rand::random(), Arc::clone(&world));
            tokio::spawn(client.run())
        })
        .collect();

    let breaking = tokio::task::spawn_blocking(move || {
        (0..rounds).for_each(|round| fleet.break_things(round));
        fleet
    });
    let fleet = breaking.await.expect("every fault happens");
    world.end();
    let mut history = Vec::new();
    let mut reader = Client::new(CLIENTS, rand::random(), world);
    for client in clients {
        let client = client.await.expect("a client that ends");
        assert!(client.wrong.is_empty(), "{:#?}", client.wrong);
        history.extend(client.history);
    }
    for key in 0..KEYS {
        for server in 0..SERVERS {
            reader.read_for_certain(key, server).await;
        }
    }
    reader.check_counters().await;
    assert!(reader.wrong.is_empty(), "{:#?}", reader.wrong);
    history.extend(reader.history);
    let found = check(&history);
    println!(
        "{rounds} rounds: {} operations, {} violations",
        history.len(),
        found.len()
    );
    assert!(found.is_empty(), "{found:#?}");
    assert!(
        history.len() > 500,
        "{} operations say nothing",
        history.len()
    );
    drop(fleet);
}
