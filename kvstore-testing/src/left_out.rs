//! Are tests that the machine cannot run distinguished from tests that fail?

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::tool;

#[test]
fn kill_is_a_tool() {
    let listed = tool("kill").arg("-l").output().unwrap();
    assert!(listed.status.success());
}

#[test]
fn shell_is_on_every_machine() {
    let ended = Command::new("sh").args(["-c", "exit 0"]).status();
    assert!(ended.unwrap().success());
}

/// Runs tests of this file with an empty search path; returns the summary by `./check --available`,
/// and true if it accepts the result.
fn without_tools(names: &[&str]) -> (String, bool) {
    let program = std::env::current_exe().unwrap();
    let mut tests = Command::new(program);
    tests.arg("--exact").args(names).env("PATH", "/nonexistent");
    let printed = tests.output().unwrap().stdout;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/left_out.awk");
    let mut awk = Command::new("awk");
    awk.arg("-f").arg(script).stdin(Stdio::piped());
    let mut awk = awk.stdout(Stdio::piped()).spawn().unwrap();
    awk.stdin.take().unwrap().write_all(&printed).unwrap();
    let ended = awk.wait_with_output().unwrap();
    let text = String::from_utf8(ended.stdout).unwrap();
    (text, ended.status.success())
}

#[test]
fn test_without_its_tool_is_left_out_and_named() {
    let (text, is_accepted) = without_tools(&["left_out::kill_is_a_tool"]);
    assert!(is_accepted, "{text}");
    let end = "left out: kill is missing: apt-get install procps\n  left_out::kill_is_a_tool\n";
    assert!(text.contains(end), "{text}");
    assert!(text.ends_with("0 passed, 0 failed, 1 left out\n"), "{text}");
}

#[test]
fn test_that_fails_is_no_test_that_is_left_out() {
    let (text, is_accepted) = without_tools(&[
        "left_out::kill_is_a_tool",
        "left_out::shell_is_on_every_machine",
    ]);
    assert!(!is_accepted, "{text}");
    assert!(
        text.contains("FAILED: left_out::shell_is_on_every_machine"),
        "{text}"
    );
    assert!(text.ends_with("1 failed, 1 left out\n"), "{text}");
}
