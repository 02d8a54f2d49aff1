//! What does kvstore cost compared with other embedded databases? The same data, in one run.

mod engine;
mod engines;
mod figures;
mod measure;
mod plot;
mod report;

use std::path::Path;

use crate::figures::Figures;
use crate::measure::Extent;

fn main() {
    if measure::open_here() {
        return;
    }
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let (options, tables): (Vec<_>, Vec<_>) = arguments
        .iter()
        .partition(|argument| argument.starts_with("--"));
    let (mut write, mut extent) = (false, Extent::WHOLE);
    for option in options {
        match option.as_str() {
            "--write" => write = true,
            "--quick" => extent = Extent::QUICK,
            _ => panic!(
                "there are --write (into benches/README.md and benches/peers.svg), --quick, and the tables writes and reads; not {option}"
            ),
        }
    }
    let wanted = |table: &str| tables.is_empty() || tables.iter().any(|wanted| *wanted == table);
    let mut figures = Figures::default();
    if wanted("writes") {
        measure::writes(&mut figures, &extent);
    }
    if wanted("reads") {
        measure::reads_and_openings(&mut figures, &extent);
    }
    let text = report::markdown(&figures, &extent);
    println!("{text}");
    if write {
        let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let readme = benches.join("README.md");
        let before = std::fs::read_to_string(&readme).expect("it can be read");
        let (head, rest) = before.split_once(BEGIN).expect("it has a place for this");
        let (_, tail) = rest.split_once(END).expect("that place ends");
        let after = format!("{head}{BEGIN}\n{text}\n{END}{tail}");
        std::fs::write(&readme, after).expect("it can be written");
        let picture = plot::svg(&figures).expect("something was measured");
        std::fs::write(benches.join("peers.svg"), picture).expect("it can be written");
    }
}

/// The markers around the figures in benches/README.md.
const BEGIN: &str = "<!-- written by the bench: begin -->";
const END: &str = "<!-- written by the bench: end -->";
