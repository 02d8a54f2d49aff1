//! Does each backend agree with a plain map, for any order of calls?
//!
//! Two questions: sequences of random calls (jobs, direct commits, dying workers, clock, restarts)
//! against a model that is a `BTreeMap` and knows nothing of logs; and concurrent histories,
//! checked by what must be true of each key afterwards. A few hundred cases by default;
//! `PROPTEST_CASES=10000` runs that many of each.

mod history;
mod map;
mod run;
mod steps;

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use crate::support::{Folder, Memory};
use history::{history, plan};
use run::agree;
use steps::steps;

/// Sets the number of cases, unless `PROPTEST_CASES` does.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource(
            "proptest-regressions",
        ))),
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn memory_agrees_with_the_model(steps in steps()) {
        run(agree(Memory::new(1), steps));
    }

    #[test]
    fn partitioned_memory_agrees_with_the_model(steps in steps()) {
        run(agree(Memory::new(4), steps));
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn memory_keeps_every_order(plan in plan()) {
        run(history(Arc::new(Memory::new(1)), plan));
    }

    #[test]
    fn partitioned_memory_keeps_every_order(plan in plan()) {
        run(history(Arc::new(Memory::new(4)), plan));
    }
}

// Each case syncs files and reopens them, so there are fewer.
proptest! {
    #![proptest_config(config(32))]

    #[test]
    fn json_file_agrees_with_the_model(steps in steps()) {
        run(agree(Folder::new(), steps));
    }
}

proptest! {
    #![proptest_config(config(8))]

    #[test]
    fn json_file_keeps_every_order(plan in plan()) {
        run(history(Arc::new(Folder::new()), plan));
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}
