//! Counts the instructions that a program executes outside the kernel, with `valgrind`.

use std::path::Path;
use std::process::Command;

use crate::child::this_program;

/// Returns a command that runs this program, and writes the instruction count to `log` when it
/// ends.
pub(crate) fn counted(log: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--log-file={}", log.display()))
        .arg(this_program());
    valgrind
}

/// Returns the instruction count of a program that has ended, from its log.
pub(crate) fn instructions(log: &Path) -> f64 {
    let text = std::fs::read_to_string(log).expect("valgrind writes its log");
    text.lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, count)| count.trim().parse().ok())
        .unwrap_or_else(|| panic!("valgrind has not counted:\n{text}"))
}
