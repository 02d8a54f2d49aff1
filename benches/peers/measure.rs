//! The measurements. Databases take turns within each round, so that other load on the machine
//! affects all of them alike.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::engine::{DATABASES, Data, Database, Engine, MAP, OURS};
use crate::figures::Figures;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// The entries while reads and openings are measured.
    pub(crate) data: Data,
    /// How often each is measured.
    pub(crate) rounds: usize,
    /// How long each rate of writes is measured in each round.
    pub(crate) span: Duration,
    /// How many values one thread reads in one measurement; for ranges it is a sixtieth of that.
    pub(crate) reads: usize,
}

impl Extent {
    pub(crate) const WHOLE: Self = Self {
        data: Data { entries: 1_000_000 },
        rounds: 5,
        span: Duration::from_secs(1),
        reads: 300_000,
    };
    /// Enough to see that everything works.
    pub(crate) const QUICK: Self = Self {
        data: Data { entries: 20_000 },
        rounds: 1,
        span: Duration::from_millis(200),
        reads: 30_000,
    };
}

/// The entries while writes are measured: few enough for the one database that rewrites all of them
/// each time.
const WRITTEN: Data = Data { entries: 10_000 };

/// The entries of a batch.
const BATCH: usize = 1_000;

/// Durable writes: the names of the measures, and the number of concurrent writers.
pub(crate) const WRITERS: [(&str, &str, usize); 3] = [
    ("sets/s, 1 writer", "p99 µs, 1 writer", 1),
    ("sets/s, 64 writers", "p99 µs, 64 writers", 64),
    ("sets/s, 256 writers", "p99 µs, 256 writers", 256),
];
/// Durable batches.
pub(crate) const BATCHES: &str = "sets/s, batches of 1,000";

/// Reads: values per second.
pub(crate) const GETS: &str = "gets/s, 1 thread";
pub(crate) const GETS_TWO: &str = "gets/s, 2 threads";
pub(crate) const GETS_BESIDE: &str = "gets/s, 1 thread beside a writer";
/// Ranges per second.
pub(crate) const SCANS: &str = "scans of 100/s";

/// Opening: milliseconds until the first value.
pub(crate) const OPEN_MS: &str = "open ms";
/// Memory: bytes per entry, once each has been read.
pub(crate) const MEMORY: &str = "memory, bytes per entry";
pub(crate) const MEMORY_OWN: &str = "of these, not a mapped file";

/// Creates a folder on the disk of the build. The default location may be in memory, where a sync
/// is free.
fn scratch_folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's folder can be written")
}

pub(crate) fn writes(figures: &mut Figures, extent: &Extent) {
    let rounds = extent.rounds;
    let folders = DATABASES.each_ref().map(|_| scratch_folder());
    let engines = loaded(&folders, &WRITTEN);
    for round in 0..rounds {
        for (database, engine) in DATABASES.iter().zip(&engines) {
            // The map is not durable.
            if database.name == MAP {
                continue;
            }
            eprintln!("writes, round {} of {rounds}: {}", round + 1, database.name);
            for (rate, p99, writers) in WRITERS {
                let start = Instant::now();
                let mut times = engine.drive(writers, extent.span, &WRITTEN);
                let elapsed = start.elapsed().as_secs_f64();
                times.sort_unstable();
                figures.add(rate, database.name, times.len() as f64 / elapsed);
                figures.add(
                    p99,
                    database.name,
                    times[times.len() * 99 / 100].as_secs_f64() * 1e6,
                );
            }
            let (start, mut sets) = (Instant::now(), 0);
            while start.elapsed() < extent.span {
                let entry = |_| (WRITTEN.random_key(), WRITTEN.random_value());
                let entries: Vec<_> = (0..BATCH).map(entry).collect();
                engine.set_all(&entries);
                sets += entries.len();
            }
            figures.add(
                BATCHES,
                database.name,
                sets as f64 / start.elapsed().as_secs_f64(),
            );
        }
    }
}

/// Opens each database with all entries in it.
fn loaded(folders: &[TempDir], data: &Data) -> Vec<Box<dyn Engine>> {
    let load = |(database, folder): (&Database, &TempDir)| {
        eprintln!("loading {} entries: {}", data.entries, database.name);
        let engine = (database.open)(folder.path(), data);
        if database.name != MAP {
            engine.load(data);
        }
        engine
    };
    DATABASES.iter().zip(folders).map(load).collect()
}

/// Measures reads and openings, from the same folders.
pub(crate) fn reads_and_openings(figures: &mut Figures, extent: &Extent) {
    let (data, rounds) = (&extent.data, extent.rounds);
    let folders = DATABASES.each_ref().map(|_| scratch_folder());
    let engines = loaded(&folders, data);
    for round in 0..rounds {
        for (database, engine) in DATABASES.iter().zip(&engines) {
            eprintln!("reads, round {} of {rounds}: {}", round + 1, database.name);
            reads(figures, extent, database, &**engine);
        }
    }
    drop(engines);
    for round in 0..rounds {
        for (index, (database, folder)) in DATABASES.iter().zip(&folders).enumerate() {
            eprintln!(
                "openings, round {} of {rounds}: {}",
                round + 1,
                database.name
            );
            let [ms, memory, own] = opened_elsewhere(index, folder.path(), data);
            // The map is filled, not opened.
            if database.name != MAP {
                figures.add(OPEN_MS, database.name, ms);
            }
            figures.add(MEMORY, database.name, memory);
            figures.add(MEMORY_OWN, database.name, own);
        }
    }
}

fn reads(figures: &mut Figures, extent: &Extent, database: &Database, engine: &dyn Engine) {
    let data = &extent.data;
    let ranges = extent.reads / 60;
    let rate = |took: Duration| extent.reads as f64 / took.as_secs_f64();
    let keys = data.random_keys(extent.reads);
    let alone = engine.gets(&keys, &Barrier::new(1));
    figures.add(GETS, database.name, rate(alone));

    let start = Barrier::new(2);
    let two: f64 = std::thread::scope(|scope| {
        let read = || {
            let keys = data.random_keys(extent.reads);
            let start = &start;
            scope.spawn(move || engine.gets(&keys, start))
        };
        let threads = [read(), read()];
        threads
            .map(|thread| rate(thread.join().expect("it ends well")))
            .iter()
            .sum()
    });
    figures.add(GETS_TWO, database.name, two);

    if let Some((seen, took)) = engine.scans(&data.random_prefixes(ranges)) {
        assert_eq!(
            seen,
            ranges * 100,
            "{} does not see every entry",
            database.name
        );
        figures.add(SCANS, database.name, ranges as f64 / took.as_secs_f64());
    }

    // A pickledb write would take a second, and the reader would wait for the first.
    if database.name != "pickledb" {
        let done = AtomicBool::new(false);
        let beside = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut sets = 0;
                while !done.load(Ordering::Relaxed) {
                    engine.drive(1, Duration::from_millis(10), data);
                    sets += 1;
                }
                sets
            });
            let took = engine.gets(&keys, &Barrier::new(1));
            done.store(true, Ordering::Relaxed);
            assert_ne!(
                writer.join().expect("it ends well"),
                0,
                "nothing was written meanwhile"
            );
            took
        });
        figures.add(GETS_BESIDE, database.name, rate(beside));
    }
}

/// The argument that makes this program [`open_here`].
const OPEN: &str = "--open";

/// Opens a folder in its own process, to measure its memory: milliseconds, and bytes per entry.
fn opened_elsewhere(database: usize, folder: &Path, data: &Data) -> [f64; 3] {
    let program = std::env::current_exe().expect("this program has a path");
    let mut process = Command::new(program)
        .args([OPEN, &database.to_string(), &data.entries.to_string()])
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program can be started again");
    let mut answer = String::new();
    let mut answers = BufReader::new(process.stdout.take().expect("it is piped"));
    answers.read_line(&mut answer).expect("it answers");
    assert!(process.wait().expect("it ends").success());
    let mut numbers = answer
        .split_whitespace()
        .map(|number| number.parse().expect("a number"));
    std::array::from_fn(|_| numbers.next().expect("three numbers"))
}

/// Does the work of the process of [`opened_elsewhere`]; returns false in any other process.
pub(crate) fn open_here() -> bool {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [first, database, entries, folder, ..] = arguments.as_slice() else {
        return false;
    };
    if first != OPEN {
        return false;
    }
    let database = &DATABASES[database.parse::<usize>().expect("a number")];
    let data = Data {
        entries: entries.parse().expect("a number"),
    };
    let before = memory();
    let start = Instant::now();
    let engine = (database.open)(Path::new(folder), &data);
    engine.gets(&[data.random_key()], &Barrier::new(1));
    let ms = start.elapsed().as_secs_f64() * 1e3;
    for first in (0..data.entries).step_by(10_000) {
        let keys: Vec<_> = (first..first + 10_000).map(Data::key).collect();
        engine.gets(&keys, &Barrier::new(1));
    }
    let after = memory();
    let per_entry = |index: usize| (after[index] - before[index]) / data.entries as f64;
    println!("{ms} {} {}", per_entry(0), per_entry(1));
    true
}

/// Returns the resident memory of this process in bytes: all of it, and the part that does not map
/// a file.
fn memory() -> [f64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    ["VmRSS:", "RssAnon:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<f64>().ok())
            .expect("the kernel says so")
            * 1024.0
    })
}

/// Returns the fastest database with durable writes, except kvstore.
pub(crate) fn best_durable(figures: &Figures, measure: &'static str) -> Option<&'static str> {
    DATABASES
        .iter()
        .filter(|database| database.flushes && database.name != OURS)
        .filter_map(|database| Some((database.name, figures.median(measure, database.name)?)))
        .max_by(|one, other| one.1.total_cmp(&other.1))
        .map(|(name, _)| name)
}
