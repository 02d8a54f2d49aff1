//! Does each backend keep the contracts? One line per backend; the cases are in `src/conformance`.
//!
//! Beside them: other suites that each backend passes, and what keeps the contracts whole (wrappers
//! that forward them, the layers of the code).

mod applying;
mod behind;
mod followed;
mod forwarding;
mod kept;
mod layout;
mod model;
mod object_store;
mod on_redis;
mod support;

use kvstore_testing::cluster::Cluster;

use applying::Applying;
use behind::Behind;
use followed::Followed;
use on_redis::OnRedis;
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

/// With application on acceptance: the cases about what was accepted, without those about waiting
/// jobs or a worker's batches.
mod json_file_applying {
    use super::*;
    kvstore_core::__conformance_cases! { Applying::new(), queue:
        ids_are_unique_and_ordered
        an_id_is_never_used_again
        start_after_moves_the_numbering
        a_completed_job_is_remembered_as_accepted
        a_key_is_remembered_through_completion_and_restart
        a_key_is_forgotten_after_its_window
        keys_are_bounded_in_number
        a_key_makes_room_for_others_after_its_minimum
    }
    kvstore_core::__conformance_cases! { Applying::new(), together:
        many_workers_and_producers_keep_every_order
        a_condition_is_judged_when_its_turn_comes
        a_batch_takes_effect_whole_or_not_at_all
        time_in_the_queue_does_not_prolong_life
        a_request_sent_again_has_one_effect
        a_store_of_another_queue_is_refused
    }
    kvstore_core::__conformance_cases! { Applying::new(), commands:
        adds_beside_direct_commits_all_count
        an_add_to_anything_but_a_64_bit_integer_fails
        the_deadline_of_a_counter_counts_from_its_creation
        a_merge_changes_what_it_names_and_no_other_byte
        a_merge_into_more_than_its_bound_fails
        a_touch_changes_the_deadline_alone
        a_batch_depends_on_keys_that_it_only_checks
        a_retried_add_counts_once_and_is_answered_alike
        outcomes_of_commands_survive_a_restart
    }
}

/// Written by one handle, read by another that only follows the files.
mod json_file_reader {
    use super::*;
    kvstore_core::store_conformance!(Followed::new());
}

/// The store of a folder, applied from a partitioned queue elsewhere.
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
