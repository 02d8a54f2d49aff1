//! `verify`: whether everything in a folder is as it was written, and what a repair would lose.

use std::path::Path;
use std::process::ExitCode;

use kvstore_core::json_file::Inspection;
use kvstore_core::process::{self, Failure, Program};

use super::{on_folder, print, read_folder};

pub(super) const PROGRAM: Program = on_folder(
    "kvstore-http verify",
    "Checks every byte of a folder, changes nothing, and says what a repair would lose",
);

pub(super) fn main() -> ExitCode {
    process::command(&PROGRAM, read_folder, |folder| run(&folder))
}

fn run(folder: &Path) -> Result<ExitCode, Failure> {
    let found = Inspection::of(folder)?;
    print(found.problems());
    print(found.notes().iter().map(|note| format!("note: {note}")));
    if let Some(pid) = found.writer() {
        let pid = pid.map_or_else(String::new, |pid| format!(" {pid}"));
        print([format!(
            "note: process{pid} has it open; this is a state that was on the disk meanwhile"
        )]);
    }
    let summary = found.summary();
    let held = format!(
        "{} entries, version {}, {} jobs wait",
        summary.entries, summary.version, summary.waiting.jobs
    );
    if found.problems().is_empty() {
        print([format!("sound: {held}")]);
        return Ok(ExitCode::SUCCESS);
    }
    print([format!(
        "{} problems; what can be read: {held}",
        found.problems().len()
    )]);
    Ok(ExitCode::FAILURE)
}
