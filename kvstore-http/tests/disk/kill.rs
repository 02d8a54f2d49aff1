//! What survives killing the real program, again and again, during many writes?
//!
//! Each round starts the server on the same folder, checks that everything acknowledged is there,
//! once and in order, puts it under load and kills it. Most rounds also kill it during its start,
//! that is, during recovery. Ten rounds by default; more with
//!
//! ```text
//! KVSTORE_KILL_ROUNDS=50 cargo test -p kvstore-http --test disk -- --nocapture kill::
//! ```
//!
//! `KVSTORE_KILL_SEED` repeats the choices of an earlier run, though not its timing. SIGKILL ends
//! the process and not the machine, so unsynced writes survive it here; `power.rs` covers a loss of
//! power.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::run::{Run, assert_no_error};
use kvstore_testing::process::Process;
use kvstore_testing::variable;

/// Minimum number of acknowledged writes for a meaningful round.
const ACKNOWLEDGED_MIN: usize = 100;

/// Maximum random time for which the load then continues.
const LOAD_MAX: Duration = Duration::from_millis(500);

/// Maximum random time before a start is killed; a start takes about half of it.
const START_MAX: Duration = Duration::from_millis(200);

#[tokio::test]
async fn nothing_acknowledged_is_lost_reordered_or_done_twice() {
    let rounds: usize = variable("KVSTORE_KILL_ROUNDS").unwrap_or(10);
    let seed: u64 = variable("KVSTORE_KILL_SEED").unwrap_or_else(rand::random);
    println!("{rounds} rounds, KVSTORE_KILL_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::new(folder.path(), seed);
    let begun = Instant::now();
    let mut snapshots = 0;
    for round in 1..=rounds {
        run.leave_jobs_to_worker(round % 2 == 0);
        kill_some_starts(&mut run);
        run.check_twice().await;
        let process = run.launch().serves();
        let first_journal = run.last_number("journal");
        let acknowledged = load_and_kill(&mut run, process).await;
        snapshots += run.last_number("journal") - first_journal;
        let elapsed = begun.elapsed().as_millis();
        println!("round {round}: {acknowledged} acknowledged, killed at {elapsed} ms");
    }
    // Snapshots become rarer as the folder grows from round to round.
    assert!(
        snapshots >= rounds / 2,
        "{snapshots} snapshots under load are too few to have been hit"
    );
    run.end_well().await;
}

fn kill_some_starts(run: &mut Run) {
    for _ in 0..run.random.random_range(0..3) {
        let mut process = run.launch();
        std::thread::sleep(START_MAX.mul_f64(run.random.random()));
        assert_eq!(process.kill().signal(), Some(9));
        assert_no_error(&process);
    }
}

/// Runs all clients until the process is killed; returns the number of acknowledged writes.
async fn load_and_kill(run: &mut Run, mut process: Process) -> usize {
    let load = run.load(&process);
    load.until("a hundred writes are acknowledged", || {
        load.tally.acknowledged() >= ACKNOWLEDGED_MIN
    })
    .await;
    tokio::time::sleep(LOAD_MAX.mul_f64(run.random.random())).await;

    assert_eq!(process.kill().signal(), Some(9));
    let tally = load.tally.clone();
    let cut_off = run.gather(load).await;
    assert_no_error(&process);
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert!(
        cut_off > 0,
        "it was killed while no client waited for an answer"
    );
    tally.acknowledged()
}
