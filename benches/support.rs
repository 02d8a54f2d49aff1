//! Shared by all benches: repeating and timing work, and formatting figures as tables.
//!
//! Rows that are compared are measured in turn, several times over, so that other load on the
//! machine affects all of them alike. A cell is the median of these rounds. The ratio of a row to
//! the first one is computed within each round, and printed with its extremes: if they are far
//! apart, the machine was not quiet, and the figures mean little.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use kvstore_core::{Key, Value};
use tempfile::TempDir;

/// How often each row is measured.
pub(crate) const ROUNDS: usize = 3;

/// Returns true if the table of that name is requested: by an argument, as in
/// `cargo bench --bench store -- open`, or by the lack of any.
pub(crate) fn is_wanted(table: &str) -> bool {
    names().next().is_none() || asks_for(table)
}

/// Returns true if it is requested by name.
pub(crate) fn asks_for(table: &str) -> bool {
    names().any(|name| name == table)
}

fn names() -> impl Iterator<Item = String> {
    std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
}

/// Creates a folder on the disk of the build. The default location may be in memory, where a sync
/// is free.
pub(crate) fn scratch_folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's folder can be written")
}

/// Returns the key of entry `number`: 13 bytes.
pub(crate) fn key(number: usize) -> Key {
    Key::new(&format!("user:{number:08}")).expect("the key keeps the rules")
}

/// Returns a value of 100 bytes.
pub(crate) fn value() -> Value {
    Value::parse(VALUE).expect("it is JSON")
}

const VALUE: &str = r#"{"id":10000000,"name":"Ada Lovelace","mail":"ada@example.org","tags":["a","b"],"score":0.5,"x":0.25}"#;
const _: () = assert!(VALUE.len() == 100);

/// The times of one task's calls, in order.
#[derive(Clone, Debug)]
pub(crate) struct Laps {
    end: Instant,
    /// When the current call began.
    pub(crate) last: Option<Instant>,
    times: Vec<Duration>,
}

impl Laps {
    /// Returns true if another call is due. The time since the previous answer counts for the
    /// previous call.
    pub(crate) fn go_on(&mut self) -> bool {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.times.push(now - last);
        }
        now < self.end
    }
}

/// The result of many calls.
#[derive(Debug)]
pub(crate) struct Rates {
    /// The number of calls made.
    pub(crate) calls: f64,
    /// Calls per second.
    pub(crate) per_second: f64,
    /// The median time of a call, in microseconds.
    pub(crate) p50_us: f64,
    /// The 99th percentile of the time of a call, in microseconds.
    pub(crate) p99_us: f64,
}

/// Runs `tasks` of `work` at once. Each repeats its call `while laps.go_on()`, for `span`, and
/// returns the laps.
pub(crate) async fn drive<F>(tasks: usize, span: Duration, work: impl Fn(usize, Laps) -> F) -> Rates
where
    F: Future<Output = Laps> + Send + 'static,
{
    let start = Instant::now();
    let laps = Laps {
        end: start + span,
        last: None,
        times: Vec::new(),
    };
    let running: Vec<_> = (0..tasks)
        .map(|task| tokio::spawn(work(task, laps.clone())))
        .collect();
    let mut times = Vec::new();
    for task in running {
        times.extend(task.await.expect("a task that is measured ends well").times);
    }
    let elapsed = start.elapsed();
    times.sort_unstable();
    let part = |hundredths: usize| {
        let index = (times.len() * hundredths / 100).min(times.len() - 1);
        times[index].as_secs_f64() * 1e6
    };
    Rates {
        calls: times.len() as f64,
        per_second: times.len() as f64 / elapsed.as_secs_f64(),
        p50_us: part(50),
        p99_us: part(99),
    }
}

/// Figures of several rounds. The first column is the one whose ratio to the first row is computed.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<&'static str>,
    /// The name of each row, and its figures for each round.
    rows: Vec<(String, Vec<Vec<f64>>)>,
}

impl Table {
    /// Creates a table without rows. The first heading is that of the rows' names.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds the figures of one round to the row of that name.
    pub(crate) fn add(&mut self, name: &str, figures: &[f64]) {
        assert_eq!(figures.len() + 1, self.columns.len());
        let row = match self.rows.iter().position(|(other, _)| other == name) {
            Some(row) => row,
            None => {
                self.rows.push((name.to_owned(), Vec::new()));
                self.rows.len() - 1
            }
        };
        self.rows[row].1.push(figures.to_vec());
    }

    /// Prints it as Markdown.
    pub(crate) fn print(&self, title: &str) {
        let mut text = format!(
            "\n### {title}\n\n| {} | ratio |\n",
            self.columns.join(" | ")
        );
        text.push_str(&"| --- ".repeat(self.columns.len() + 1));
        text.push_str("|\n");
        let base = &self.rows[0].1;
        for (name, rounds) in &self.rows {
            write!(text, "| {name} |").expect("memory takes it");
            for column in 0..rounds[0].len() {
                let figures = rounds.iter().map(|figures| figures[column]).collect();
                write!(text, " {} |", number(spread(figures).1)).expect("memory takes it");
            }
            let ratios = rounds.iter().zip(base).map(|(own, base)| own[0] / base[0]);
            let (least, median, greatest) = spread(ratios.collect());
            let (least, greatest) = (number(least), number(greatest));
            writeln!(text, " {} ({least}–{greatest}) |", number(median)).expect("memory takes it");
        }
        println!("{text}");
    }
}

/// Returns the minimum, the median and the maximum.
fn spread(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_unstable_by(f64::total_cmp);
    (
        figures[0],
        figures[figures.len() / 2],
        figures[figures.len() - 1],
    )
}

/// Formats three digits, with commas between thousands; a dash for a missing figure.
fn number(figure: f64) -> String {
    if !figure.is_finite() {
        return "–".to_owned();
    }
    let decimals = match figure {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{figure:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}
