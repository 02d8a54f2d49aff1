//! `repair`: makes a damaged folder whole again, and keeps what it removes.

use std::path::Path;
use std::process::ExitCode;

use kvstore_core::json_file::{Inspection, repair};
use kvstore_core::process::{self, Failure, Program};

use super::{on_folder, print, read_folder};

pub(super) const PROGRAM: Program = on_folder(
    "kvstore-http repair",
    "Makes a damaged folder whole, as verify announced, and keeps damaged files as <file>.removed-N",
);

pub(super) fn main() -> ExitCode {
    process::command(&PROGRAM, read_folder, |folder| run(&folder))
}

fn run(folder: &Path) -> Result<ExitCode, Failure> {
    let repaired = repair(folder)?;
    if repaired.is_empty() {
        print(["nothing to repair"]);
        return Ok(ExitCode::FAILURE);
    }
    print(&repaired);
    let left = Inspection::of(folder)?;
    if let Some(problem) = left.problems().first() {
        return Err(format!("it is still damaged: {problem}").into());
    }
    let summary = left.summary();
    print([format!(
        "repaired: {} entries, version {}, {} jobs wait",
        summary.entries, summary.version, summary.waiting.jobs
    )]);
    Ok(ExitCode::SUCCESS)
}
