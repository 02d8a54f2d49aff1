//! What survives a loss of power under the real program, on a real file system?
//!
//! Each round starts the server on an ext4 of its own, checks that everything acknowledged is
//! there, and cuts the power: once right after that, so that the recovered content is durable as
//! well, and once under load. The file system itself drops unsynced data, as the kernel does in a
//! real loss of power. It cannot simulate a disk that loses what it has acknowledged. Other file
//! systems may drop more or less; the core's crash tests cover that with random choices.
//!
//! Twenty rounds by default; more with
//!
//! ```text
//! KVSTORE_POWER_ROUNDS=100 cargo test -p kvstore-http --test disk -- --nocapture power::
//! ```
//!
//! `KVSTORE_POWER_SEED` repeats the choices of an earlier run, though not its timing.
//!
//! Source: the `FS_IOC_SHUTDOWN` of ext4 and XFS, by which file systems test their own recovery.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use rand::Rng;

use crate::mounted::{Cut, Mounted, is_writable};
use crate::run::Run;
use kvstore_testing::process::Process;
use kvstore_testing::variable;

/// Minimum number of acknowledged writes for a meaningful round.
const ACKNOWLEDGED_MIN: usize = 100;

/// Maximum random time for which the load then continues.
const LOAD_MAX: Duration = Duration::from_millis(300);

/// Text that a real power cut must lose.
const NOT_SYNCED: &str = "not synced";

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_real_power_cuts() {
    let rounds: usize = variable("KVSTORE_POWER_ROUNDS").unwrap_or(20);
    let seed: u64 = variable("KVSTORE_POWER_SEED").unwrap_or_else(rand::random);
    println!("{rounds} rounds, KVSTORE_POWER_SEED={seed}");
    let disk = Mounted::ext4();
    let folder = |place: PathBuf| place.join("database");
    let (outside, inside) = (folder(disk.outside()), folder(disk.inside()));
    let mut run = Run::new_in(&outside, &inside, disk.wrapper(), seed);
    let mut snapshots = 0;
    for round in 1..=rounds {
        let mut process = run.launch().serves();
        run.check(&process).await;
        let cut = choose(&mut run);
        let witness = cut_power(&disk, cut);
        end(&mut process);
        restart(&disk, witness);

        let mut process = run.launch().serves();
        run.check(&process).await;
        let first_journal = run.last_number("journal");
        let load = run.load(&process);
        load.until("a hundred writes are acknowledged", || {
            load.tally.acknowledged() >= ACKNOWLEDGED_MIN
        })
        .await;
        // On a busy machine the time below may pass without one.
        load.until("as many snapshots as rounds are taken", || {
            snapshots + run.last_number("journal") - first_journal >= round
        })
        .await;
        tokio::time::sleep(LOAD_MAX.mul_f64(run.random.random())).await;
        snapshots += run.last_number("journal") - first_journal;
        let cut = choose(&mut run);
        let acknowledged = load.tally.acknowledged();
        let witness = cut_power(&disk, cut);
        // A server that does not notice would acknowledge lost writes.
        load.until("the server notices", || load.tally.failed() > 0)
            .await;
        end(&mut process);
        run.gather(load).await;
        restart(&disk, witness);
        println!("round {round}: {acknowledged} acknowledged, {cut:?}");
    }
    run.end_well().await;
}

fn choose(run: &mut Run) -> Cut {
    match run.random.random() {
        true => Cut::AtOnce,
        false => Cut::AfterItsJournal,
    }
}

/// Cuts the power; returns the path of an unsynced file that proves it.
fn cut_power(disk: &Mounted, cut: Cut) -> PathBuf {
    let witness = disk.outside().join("witness");
    std::fs::write(&witness, NOT_SYNCED).unwrap();
    disk.cut_power(cut);
    assert!(!is_writable(&disk.outside().join("after")), "{cut:?}");
    witness
}

/// Kills the process, as a loss of power would.
fn end(process: &mut Process) {
    let status = process.kill();
    assert_eq!(status.signal(), Some(9));
}

/// Remounts the file system, and checks that the cut lost the unsynced file.
fn restart(disk: &Mounted, witness: PathBuf) {
    disk.restart();
    let left = std::fs::read_to_string(&witness).unwrap_or_default();
    assert_ne!(left, NOT_SYNCED, "the cut has lost nothing");
    // The file may be missing.
    let _ = std::fs::remove_file(&witness);
}
