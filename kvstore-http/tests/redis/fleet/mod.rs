//! Does a fleet on Redis keep its promises to its clients, whatever fails?
//!
//! Three servers and four workers run as processes on a Redis server. Clients read and write a few
//! dozen keys in every possible way and record each request and each answer, with the times.
//! Meanwhile, processes are killed and stopped, connections are cut, and Redis refuses writes.
//! Afterwards the records must be consistent: see `kvstore_testing::history`. Fifteen kills by
//! default; more with
//!
//! ```text
//! KVSTORE_FLEET_KILLS=200 cargo test -p kvstore-http --test redis -- --nocapture fleet_on
//! ```
//!
//! `KVSTORE_FLEET_SEED` repeats the choices of an earlier run, though not its timing. The test
//! checks that each fault really happened. A fault that did not is tried again, and one that never
//! does fails the test.

mod balancer;
mod client;
mod counting;
mod nemesis;
mod on_cluster;
mod processes;
mod proxy;
mod rehearsal;
mod report;

use std::sync::Arc;
use std::time::Instant;

use client::Client;
use kvstore_testing::variable;
use nemesis::Nemesis;
use processes::{Config, Fleet};
use report::Report;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fleet_on_redis_loses_doubles_and_reorders_nothing_whatever_fails() {
    run(Config {
        arguments: |config, redis| {
            let url = format!("redis://{redis}?partitions={}", config.partitions);
            vec!["--store".to_owned(), url]
        },
        servers: 3,
        workers: 4,
        clients: 24,
        keys: 36,
        partitions: 12,
        kills: variable("KVSTORE_FLEET_KILLS").unwrap_or(15),
        seed: variable("KVSTORE_FLEET_SEED").unwrap_or_else(rand::random),
    })
    .await;
}

async fn run(config: Config) {
    println!("{} kills, KVSTORE_FLEET_SEED={}", config.kills, config.seed);
    let begun = Instant::now();
    let fleet = Fleet::start(&config).await;
    let world = Arc::clone(&fleet.world);
    let clients: Vec<_> = (0..config.clients)
        .map(|number| {
            let client = Client::new(number, config.seed ^ number as u64, Arc::clone(&world));
            tokio::spawn(client.run())
        })
        .collect();

    let nemesis = Nemesis::new(fleet, config.seed);
    let breaking = tokio::task::spawn_blocking(move || nemesis.run(&config));
    let (fleet, faults, ended) = breaking.await.expect("every fault happens");
    world.end();

    let mut report = Report::new(faults, ended);
    for client in clients {
        report.add(client.await.expect("a client that ends"));
    }
    // The final values are those that all servers show.
    let mut reader = Client::new(config.clients, config.seed, world);
    for key in 0..config.keys {
        for server in 0..config.servers {
            reader.read_for_certain(key, server).await;
        }
    }
    reader.check_counters().await;
    report.add(reader);
    drop(fleet);
    report.finish(begun.elapsed());
}
