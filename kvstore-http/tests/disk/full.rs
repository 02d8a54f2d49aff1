//! What does a full disk cost the real program? An answer to each write that finds no room, and
//! nothing else: it continues to read, it writes again once there is room, and all acknowledged
//! writes remain.
//!
//! The disk is a small one in memory, filled by a file next to the server's. Real file systems
//! write a part of what does not fit, so short writes occur here as well.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::mounted::Mounted;
use crate::run::{Load, Run};
use kvstore_testing::client::{Connection, request};
use kvstore_testing::process::Process;

const DISK_BYTES: u64 = 48 << 20;

/// Page size of that disk.
const PAGE_BYTES: usize = 4096;

/// Longer than it takes to fill it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that queue and journal preallocate.
const FILLED_BYTES: u64 = 2 * (256 << 10);

/// The log message about a snapshot that found no room.
const NO_SNAPSHOT: &str = "data.json could not be brought up to date: the journal keeps growing";

/// A file that occupies space.
struct Ballast {
    path: PathBuf,
    file: File,
}

impl Ballast {
    fn new(disk: &Mounted) -> Self {
        let path = disk.outside().join("ballast");
        let file = File::options().create(true).append(true).open(&path);
        let file = file.unwrap();
        Self { path, file }
    }

    /// Occupies all remaining space.
    fn fill(&mut self) {
        loop {
            match self.file.write(&[b'x'; PAGE_BYTES]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Occupies all remaining space except for `bytes`.
    fn fill_but(&mut self, bytes: u64) {
        self.fill();
        self.give_back(bytes);
    }

    /// Frees `bytes` of it.
    fn give_back(&self, bytes: u64) {
        let length = self.file.metadata().unwrap().len();
        let length = length.checked_sub(bytes).expect("a disk large enough");
        self.file.set_len(length).unwrap();
    }

    /// Frees all of it.
    fn remove(self) {
        std::fs::remove_file(self.path).unwrap();
    }
}

fn new_run(disk: &Mounted, name: &str) -> Run {
    let seed = rand::random();
    println!("{name}: seed {seed}");
    let [outside, inside] = [disk.outside(), disk.inside()].map(|place| place.join("database"));
    Run::new_in(&outside, &inside, disk.wrapper(), seed)
}

/// Keeps the disk full until it has caused many refusals.
async fn fill_until_refused(ballast: &mut Ballast, load: &Load) {
    let full = load.tally.full();
    while load.tally.full() < full + 100 {
        assert!(!load.has_ended(), "{:?}", load.tally);
        ballast.fill();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn assert_reads(process: &Process) {
    let mut connection = Connection::open(process.address).await;
    for target in ["/v1/kv/barrier", "/readyz", "/livez"] {
        let reply = connection.ask(&request("GET", target)).await;
        assert_eq!(reply.status, 200, "{target}: {reply:?}");
    }
}

#[tokio::test]
async fn full_disk_is_answered_read_from_and_recovered_from() {
    let disk = Mounted::tmpfs(DISK_BYTES);
    let mut run = new_run(&disk, "serving");
    let mut process = run.launch().serves();
    run.check(&process).await;
    for round in 1..=6 {
        run.leave_jobs_to_worker(round > 3);
        let mut ballast = Ballast::new(&disk);
        let load = run.load(&process);
        fill_until_refused(&mut ballast, &load).await;
        assert_reads(&process).await;
        // The server may end while the disk is full, and start while it still is.
        let status = match round {
            3 => Some(process.kill()),
            5 => {
                process.signal("TERM");
                load.until("the end of all connections", || load.has_ended())
                    .await;
                Some(process.ended())
            }
            _ => None,
        };
        if let Some(status) = status {
            println!("round {round}: {status}");
            run.gather(load).await;
            process = run.launch();
            if process.serves_or_ends() {
                process.kill();
            } else {
                let (status, errors) = (process.ended(), format!("{:?}", process.errors()));
                assert_eq!(status.code(), Some(1), "{errors}");
                assert!(
                    errors.contains("/database"),
                    "the place is not said: {errors}"
                );
            }
            ballast.remove();
            run.check_twice().await;
            process = run.launch().serves();
            continue;
        }
        ballast.remove();
        let acknowledged = load.tally.acknowledged();
        load.until("writes where there is room again", || {
            load.tally.acknowledged() >= acknowledged + 200
        })
        .await;
        assert_eq!(load.tally.failed(), load.tally.full(), "{:?}", load.tally);
        load.tally.stop();
        run.gather(load).await;
    }
    process.kill();
    run.check_twice().await;
    run.end_well().await;
}

#[tokio::test]
async fn snapshot_that_finds_no_room_costs_nothing_and_is_made_up_for() {
    let disk = Mounted::tmpfs(DISK_BYTES);
    let mut run = new_run(&disk, "snapshot");
    // Much data compared with the few jobs that are accepted and not yet applied.
    run.set_size(8, 64 << 10);
    let mut process = run.launch().serves();
    run.load_until(&process, 800).await;
    // A clean stop leaves no journal.
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(0));
    let data = run.folder.join("data.json").metadata().unwrap().len();
    assert!(data > 4 * FILLED_BYTES, "{data} bytes");

    // Queue and journal grow to the size of the data, at which a snapshot is due that does not fit.
    let process = run.launch().serves();
    run.check(&process).await;
    let mut ballast = Ballast::new(&disk);
    let room = 2 * data + FILLED_BYTES + data / 4;
    ballast.fill_but(room);
    let load = run.load(&process);
    let (begun, mut full) = (Instant::now(), 0);
    let mut journal = run.first_number("journal");
    while process.count_logged(NO_SNAPSHOT) == 0 {
        assert!(begun.elapsed() < PATIENCE, "every snapshot finds room");
        // One snapshot succeeded, in the space that was freed for jobs.
        if run.first_number("journal") > journal {
            journal = run.first_number("journal");
            ballast.fill_but(room);
            full = load.tally.full();
        }
        // Unapplied jobs may have taken the last space before a snapshot was due.
        if load.tally.full() > full {
            full = load.tally.full();
            ballast.give_back(FILLED_BYTES);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let full = load.tally.full();
    let names = run.names();
    let is_left = names.iter().any(|name| name.contains(".new"));
    assert!(!is_left, "it keeps room that it has no use for: {names:?}");
    load.until("a disk without any room", || load.tally.full() > full)
        .await;
    assert_reads(&process).await;
    ballast.remove();
    let journal = run.last_number("journal");
    load.until("a snapshot where there is room again", || {
        run.first_number("journal") > journal
    })
    .await;
    assert_eq!(load.tally.failed(), load.tally.full(), "{:?}", load.tally);
    load.tally.stop();
    run.gather(load).await;
    drop(process);
    run.check_twice().await;
    run.end_well().await;
}
