//! Is a copy of the folder, made file by file while the store is written to and takes snapshots,
//! ever silently wrong?
//!
//! The files that exist when the copy begins are copied in any order; anything may happen between
//! them. If one has disappeared by then, copying fails, as `cp` does. Otherwise the copy is sound
//! and holds every write acknowledged before it began, or `verify` reports that it is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::json_file::JsonFile;
use crate::json_file::disk::Disk;
use crate::json_file::disk::simulated::SimulatedDisk;
use crate::json_file::inspect::{Beside, Salvage};
use crate::json_file::tests::crash::{Seen, block_on, contents, job, options, work};
use crate::model::commit::Commit;
use crate::model::key::Key;
use crate::model::value::Value;
use crate::model::write::{Change, Write};
use crate::queue::JobQueue;
use crate::store::Store;

const KEYS: u64 = 7;

/// Creates the `number`th commit, which changes two keys.
fn commit(number: u64) -> Commit {
    let set = |key: String| Write {
        key: Key::new(&key).unwrap(),
        change: Change::Set {
            value: Value::from_serialize(&number).unwrap(),
            expires_at: None,
        },
    };
    Commit {
        writes: vec![set("latest".into()), set(format!("k{}", number % KEYS))],
        ..Commit::default()
    }
}

/// Returns the entries that the commits leave after the `latest`, without those of jobs.
fn model(latest: u64) -> BTreeMap<String, u64> {
    let mut entries = BTreeMap::new();
    for number in 1..=latest {
        entries.insert("latest".to_owned(), number);
        entries.insert(format!("k{}", number % KEYS), number);
    }
    entries
}

/// A store that continues to run.
struct Running {
    file: JsonFile,
    seen: Seen,
    commits: u64,
    jobs: u64,
}

impl Running {
    async fn go_on(&mut self, random: &mut StdRng) {
        for _ in 0..random.random_range(0..4) {
            match random.random_range(0..6) {
                0 => self.file.store().compact().await.unwrap(),
                1 => {
                    let accepted = self.file.queue().enqueue(vec![job(self.jobs)]).await;
                    assert!(accepted.iter().all(Result::is_ok));
                    self.jobs += 1;
                }
                2 => drop(work(&self.file, &mut self.seen).await.unwrap()),
                _ => {
                    self.commits += 1;
                    self.file
                        .store()
                        .commit(commit(self.commits))
                        .await
                        .unwrap();
                }
            }
        }
    }
}

#[test]
fn copy_of_a_running_folder_is_complete_or_says_that_it_is_not() {
    block_on(async {
        let (mut failed, mut refused, mut right) = (0, 0, 0);
        for seed in 0..600 {
            let mut random = StdRng::seed_from_u64(seed);
            let disk = SimulatedDisk::new();
            let file = JsonFile::start(Arc::new(disk.clone()), &options(), None).unwrap();
            let mut running = Running {
                file,
                seen: Seen::default(),
                commits: 0,
                jobs: 0,
            };
            for _ in 0..4 {
                running.go_on(&mut random).await;
            }
            let (commits, jobs) = (running.commits, running.jobs);
            let mut names = disk.names().unwrap();
            names.shuffle(&mut random);
            let copy = SimulatedDisk::new();
            let mut is_whole = true;
            for name in names {
                match disk.read(&name).unwrap() {
                    Some(text) => copy.put(&name, &text),
                    None => is_whole = false,
                }
                running.go_on(&mut random).await;
            }
            if !is_whole {
                failed += 1;
                continue;
            }
            if !Salvage::read(&copy, Beside::Nobody)
                .unwrap()
                .found
                .problems
                .is_empty()
            {
                refused += 1;
                continue;
            }
            right += 1;
            let opened = JsonFile::start(Arc::new(copy), &options(), None)
                .unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
            let mut seen = Seen::default();
            while work(&opened, &mut seen)
                .await
                .unwrap_or_else(|error| panic!("seed {seed}: {error:?}"))
                > 0
            {}
            let mut found = contents(&opened.store()).await;
            for number in 0..jobs {
                let value = found.get(&format!("j{number}"));
                assert_eq!(value, Some(&number), "seed {seed}");
            }
            found.retain(|key, _| !key.starts_with('j'));
            let latest = found.get("latest").copied().unwrap_or(0);
            assert!(latest >= commits, "seed {seed}: {latest} of {commits}");
            assert_eq!(found, model(latest), "seed {seed}");
        }
        assert!(
            failed > 20 && refused > 20 && right > 20,
            "{failed} failed, {refused} refused, {right} right"
        );
    });
}
