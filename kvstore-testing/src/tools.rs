//! Programs of the machine that tests call.

use std::path::Path;
use std::process::Command;

/// Each program, and the Debian package that contains it: the list of `check`.
const PACKAGES: &str = include_str!("../../check");

/// The end of each message about a missing prerequisite, by which `.ci/left_out.awk` recognizes
/// such tests.
const WITHOUT: &str = "to leave out what needs it: ./check --available";

/// Returns a command for a program of the machine.
///
/// # Panics
/// If the program is missing, with the line that installs it.
pub fn tool(name: &str) -> Command {
    let package = package(name).unwrap_or_else(|| panic!("the list of ./check lacks {name}"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
        missing(&format!("{name} is missing: apt-get install {package}"));
    }
    Command::new(name)
}

/// Fails a test that the machine cannot run.
///
/// # Panics
/// Always, with `remedy`, which says what is missing and how to get it.
pub fn missing(remedy: &str) -> ! {
    panic!("{remedy}; {WITHOUT}")
}

/// Returns a command for `program`, which `./check` installs below `target`.
///
/// # Panics
/// If the program is missing.
pub fn judge(program: &Path) -> Command {
    if !program.exists() {
        let name = program.file_name().unwrap_or_default().display();
        missing(&format!("{name} is missing: ./check --quick installs it"));
    }
    Command::new(program)
}

/// Returns the package of a program in the list of `check`.
fn package(name: &str) -> Option<&'static str> {
    let (_, list) = PACKAGES.split_once("<<'LIST'\n")?;
    let (list, _) = list.split_once("\nLIST\n")?;
    let mut rows = list.lines().filter_map(|row| row.split_once(' '));
    rows.find(|(program, _)| *program == name)
        .map(|(_, package)| package)
}
