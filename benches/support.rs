//! What all benches share: how work is repeated and timed, and how figures become a table.
//!
//! Rows that are compared are measured in turn, and that several times over, so that whatever else the machine does meets
//! all of them alike. A cell is the median of these rounds. The ratio of a row to the first one is taken within each round,
//! and printed with its extremes: where they lie far apart, the machine was not quiet, and nothing should be read into the
//! figures.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use kvstore_core::{Key, Value};
use tempfile::TempDir;

/// How often each row is measured.
pub(crate) const ROUNDS: usize = 3;

/// Whether the table of that name is asked for: by an argument, as in `cargo bench --bench store -- open`, or by the lack of any.
pub(crate) fn is_wanted(table: &str) -> bool {
    names().next().is_none() || asks_for(table)
}

/// Whether it is asked for by name.
pub(crate) fn asks_for(table: &str) -> bool {
    names().any(|name| name == table)
}

fn names() -> impl Iterator<Item = String> {
    std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
}

/// A folder on the disk that the build is on. The usual place for such folders may be in memory, where a sync costs nothing.
pub(crate) fn scratch_folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's folder can be written")
}

/// The key of entry `number`: 13 bytes.
pub(crate) fn key(number: usize) -> Key {
    Key::new(&format!("user:{number:08}")).expect("the key keeps the rules")
}

/// A value of 100 bytes.
pub(crate) fn value() -> Value {
    Value::parse(VALUE).expect("it is JSON")
}

const VALUE: &str = r#"{"id":10000000,"name":"Ada Lovelace","mail":"ada@example.org","tags":["a","b"],"score":0.5,"x":0.25}"#;
const _: () = assert!(VALUE.len() == 100);

/// The times of one task's calls, in order.
#[derive(Clone, Debug)]
pub(crate) struct Laps {
    end: Instant,
    /// When the call that is under way began.
    pub(crate) last: Option<Instant>,
    times: Vec<Duration>,
}

impl Laps {
    /// Whether another call is due. The time since the previous answer is the time of the call before.
    pub(crate) fn go_on(&mut self) -> bool {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.times.push(now - last);
        }
        now < self.end
    }
}

/// What came of many calls.
#[derive(Debug)]
pub(crate) struct Rates {
    /// Calls that were made.
    pub(crate) calls: f64,
    /// Calls per second.
    pub(crate) per_second: f64,
    /// The median time of a call, in microseconds.
    pub(crate) p50_us: f64,
    /// The time that 99 of 100 calls took at most, in microseconds.
    pub(crate) p99_us: f64,
}

/// Runs `tasks` of `work` at once. Each repeats its call `while laps.go_on()`, which is for `span`, and gives the laps back.
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

/// Figures of several rounds. The first column is the one whose ratio to the first row counts.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<&'static str>,
    /// The name of each row, and for each round its figures.
    rows: Vec<(String, Vec<Vec<f64>>)>,
}

impl Table {
    /// A table without rows. The first heading is that of the rows' names.
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

/// The least, the median and the greatest.
fn spread(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_unstable_by(f64::total_cmp);
    (
        figures[0],
        figures[figures.len() / 2],
        figures[figures.len() - 1],
    )
}

/// Three digits, and commas between thousands; a dash for what there is not.
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
