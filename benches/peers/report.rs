//! The figures as Markdown: the goals, and all medians.

use std::fmt::Write as _;
use std::process::Command;

use crate::engine::{DATABASES, MAP, OURS};
use crate::figures::{Figures, Spread, number};
use crate::measure::{
    BATCHES, Extent, GETS, GETS_BESIDE, GETS_TWO, MEMORY, MEMORY_OWN, OPEN_MS, SCANS, WRITERS,
    best_durable,
};

/// The goal for a ratio.
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

const LMDB: &str = "LMDB (heed)";

pub(crate) fn markdown(figures: &Figures, extent: &Extent) -> String {
    let mut text = machine(extent);
    text.push_str(&goals(figures));
    let rates = WRITERS.map(|(rate, _, _)| rate);
    let p99s = WRITERS.map(|(_, p99, _)| p99);
    text.push_str(&table(
        figures,
        "durable writes",
        &[rates[0], rates[1], rates[2], BATCHES],
    ));
    text.push_str(&table(
        figures,
        "the time that 99 of 100 took at most",
        &p99s,
    ));
    text.push_str(&table(
        figures,
        "reads",
        &[GETS, GETS_TWO, GETS_BESIDE, SCANS],
    ));
    text.push_str(&table(
        figures,
        "opening, in a process of its own",
        &[OPEN_MS, MEMORY, MEMORY_OWN],
    ));
    text
}

fn goals(figures: &Figures) -> String {
    let durable = |measure| best_durable(figures, measure).unwrap_or("none");
    let ours = |measure| (measure, OURS);
    let mut rows = Vec::new();
    let mut row = |what: String, goal: Goal, ratio: Option<Spread>| rows.push((what, goal, ratio));
    let wanted = [0.9, 10.0, 20.0];
    for ((rate, _, _), wanted) in WRITERS.into_iter().zip(wanted) {
        let best = durable(rate);
        row(
            format!("{rate}, to the best that flushes ({best})"),
            Goal::AtLeast(wanted),
            figures.ratio(ours(rate), (rate, best)),
        );
    }
    let best = durable(BATCHES);
    row(
        format!("{BATCHES}, to the best that flushes ({best})"),
        Goal::AtLeast(1.2),
        figures.ratio(ours(BATCHES), (BATCHES, best)),
    );
    for (other, wanted) in [(LMDB, 2.0), ("redb", 3.0), (MAP, 1.0)] {
        row(
            format!("{GETS}, to {other}"),
            Goal::AtLeast(wanted),
            figures.ratio(ours(GETS), (GETS, other)),
        );
    }
    row(
        "gets/s of 2 threads, to 1".to_owned(),
        Goal::AtLeast(1.7),
        figures.ratio(ours(GETS_TWO), ours(GETS)),
    );
    row(
        "gets/s alone, to those beside a writer".to_owned(),
        Goal::AtMost(1.3),
        figures.ratio(ours(GETS), ours(GETS_BESIDE)),
    );
    row(
        format!("{SCANS}, to {LMDB}"),
        Goal::AtLeast(1.0),
        figures.ratio(ours(SCANS), (SCANS, LMDB)),
    );
    row(
        "opening, times faster than pickledb".to_owned(),
        Goal::AtLeast(10.0),
        figures.ratio((OPEN_MS, "pickledb"), ours(OPEN_MS)),
    );
    row(
        format!("memory, to {MAP}"),
        Goal::AtMost(0.8),
        figures.ratio(ours(MEMORY), (MEMORY, MAP)),
    );

    let mut text =
        "\n| kvstore: ratio | aimed at | measured | |\n| --- | --- | --- | --- |\n".to_owned();
    for (what, goal, ratio) in rows {
        let Some(ratio) = ratio else { continue };
        let (aim, reached) = match goal {
            Goal::AtLeast(aim) => (format!("≥ {aim}"), ratio.median >= aim),
            Goal::AtMost(aim) => (format!("≤ {aim}"), ratio.median <= aim),
        };
        let [median, least, greatest] = [ratio.median, ratio.least, ratio.greatest].map(number);
        let reached = if reached { "reached" } else { "**missed**" };
        writeln!(
            text,
            "| {what} | {aim} | {median} ({least}–{greatest}) | {reached} |"
        )
        .expect("memory takes it");
    }
    text
}

/// Formats the medians of some measures, a row for each database. Empty if none was taken.
fn table(figures: &Figures, title: &str, measures: &[&'static str]) -> String {
    let mut text = format!("\n| {title} | {} |\n", measures.join(" | "));
    writeln!(text, "|{}", " --- |".repeat(measures.len() + 1)).expect("memory takes it");
    let mut any = false;
    for database in &DATABASES {
        let medians: Vec<_> = measures
            .iter()
            .map(|measure| figures.median(measure, database.name))
            .collect();
        if medians.iter().all(Option::is_none) {
            continue;
        }
        any = true;
        let writes = measures.contains(&BATCHES) || measures.contains(&WRITERS[0].1);
        let note = if writes && !database.flushes {
            ", never flushed"
        } else {
            ""
        };
        let cells: Vec<_> = medians
            .into_iter()
            .map(|median| median.map_or("–".to_owned(), number))
            .collect();
        writeln!(text, "| {}{note} | {} |", database.name, cells.join(" | "))
            .expect("memory takes it");
    }
    if any { text } else { String::new() }
}

/// Describes the machine and the data of the measurement.
fn machine(extent: &Extent) -> String {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("a processor without a name", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let file_system = said("stat", &["-f", "-c", "%T", env!("CARGO_TARGET_TMPDIR")]);
    let versions = ["redb", "fjall", "heed", "rusqlite", "sled", "pickledb"]
        .map(|name| format!("{name} {}", version(name)));
    format!(
        "Taken on {} on {cores} cores ({processor}), Linux {}, {file_system}, {}; {}. \
         {} entries for reads and openings, 10,000 for writes; medians of {} rounds, \
         ratios within each round with their extremes.\n",
        said("date", &["+%F"]),
        said("uname", &["-r"]),
        said("rustc", &["--version"]),
        versions.join(", "),
        number(extent.data.entries as f64),
        extent.rounds,
    )
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or("unknown".to_owned(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

/// Returns the version of a database built into the bench.
fn version(name: &str) -> &'static str {
    let lock = include_str!("Cargo.lock");
    let package = lock
        .split_once(&format!("name = \"{name}\"\nversion = \""))
        .map(|(_, rest)| rest);
    package
        .and_then(|rest| rest.split_once('"'))
        .map_or("unknown", |(version, _)| version)
}
