//! Does each backend keep the contracts? One line a backend; the cases are in `src/conformance`.

#[path = "support/behind.rs"]
mod behind;
#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/followed.rs"]
mod followed;
#[path = "support/redis.rs"]
mod redis_server;
mod support;

use behind::Behind;
use cluster::Cluster;
use followed::Followed;
use redis_server::OnRedis;
use support::{Folder, Memory};

mod memory {
    use super::*;
    kvstore_core::store_conformance!(Memory::new(1));
    kvstore_core::queue_conformance!(Memory::new(1));
}

mod memory_partitioned {
    use super::*;
    kvstore_core::queue_conformance!(Memory::new(5));
}

mod json_file {
    use super::*;
    kvstore_core::store_conformance!(Folder::new());
    kvstore_core::queue_conformance!(Folder::new());
}

/// Written by one handle, read by another that only follows the files.
mod json_file_reader {
    use super::*;
    kvstore_core::store_conformance!(Followed::new());
}

/// The store of a folder, applied from a queue with partitions that stands elsewhere.
mod json_file_behind_redis {
    use super::*;
    kvstore_core::queue_conformance!(Behind::new());
}

mod redis {
    use super::*;
    kvstore_core::store_conformance!(OnRedis::new(4));
    kvstore_core::queue_conformance!(OnRedis::new(4));
}

/// Three primaries, each with some of the partitions.
mod redis_cluster {
    use super::*;

    fn on_cluster() -> OnRedis {
        let cluster = Cluster::shared();
        OnRedis::at(cluster.url(), cluster, 4)
    }

    kvstore_core::store_conformance!(on_cluster());
    kvstore_core::queue_conformance!(on_cluster());
}

#[tokio::test]
async fn partitions_are_on_all_servers_of_a_cluster() {
    use kvstore_core::conformance::StoreHarness as _;
    use kvstore_core::model::commit::Commit;
    use kvstore_core::model::write::{Change, Write};
    use kvstore_core::{Key, Value};

    let cluster = std::sync::Arc::new(Cluster::start());
    let harness = OnRedis::at(cluster.url(), std::sync::Arc::clone(&cluster), 12);
    let store = harness.store().await;
    for number in 0..100 {
        let write = Write {
            key: Key::new(&format!("key:{number}")).unwrap(),
            change: Change::Set {
                value: Value::parse("1").unwrap(),
                expires_at: None,
            },
        };
        let commit = Commit {
            writes: vec![write],
            ..Commit::default()
        };
        store.commit(commit).await.unwrap();
    }
    for number in 0..3 {
        let keys: usize = cluster.ask(number, &["DBSIZE"]).parse().unwrap();
        assert!(keys > 20, "server {number} has {keys} keys");
    }
}
