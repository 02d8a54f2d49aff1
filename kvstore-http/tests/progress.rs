//! Does whoever looks at a terminal see how far an import or export is, and a pipe or file nothing of it?

mod support;

use std::path::Path;
use std::process::Command;

use support::process::{Ended, command, run_command};

/// Runs `line`, in which `$0` is the program, with a terminal for input and output; what that shows comes back as standard
/// output.
fn in_terminal(folder: &Path, line: &str) -> Ended {
    let program = command(&[]);
    let line = line.replace("$0", program.get_program().to_str().unwrap());
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .current_dir(folder);
    assert!(
        Command::new("script").arg("--version").output().is_ok(),
        "script is missing: apt-get install bsdutils"
    );
    run_command(&mut script)
}

#[test]
fn terminal_shows_a_bar_and_a_pipe_or_file_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lines: String = (0..3000)
        .map(|number| format!("{{\"key\":\"k{number}\",\"value\":1}}\n"))
        .collect();
    std::fs::write(folder.join("all.ndjson"), &lines).unwrap();
    std::fs::write(folder.join("bad.ndjson"), lines + "bad\n").unwrap();

    let shown = in_terminal(folder, "$0 import --from all.ndjson --to file:store");
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for part in ["checking ", "writing ", " of 3,000 entries, "] {
        assert!(shown.stdout.contains(part), "{part}: {shown:?}");
    }
    // What stays is the result, on a line of its own.
    let last = shown.stdout.trim_end().rsplit(['\r', '\n']).next().unwrap();
    assert!(last.ends_with("3000 written, 0 equal already"), "{shown:?}");

    // The bar is in the way of nothing that is said.
    let refused = in_terminal(folder, "$0 import --from bad.ndjson --to file:other");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let (bar, said) = refused
        .stdout
        .rsplit_once("bad.ndjson, line 3001 column 1: ")
        .unwrap();
    assert!(
        bar.contains("checking ") && !said.contains("checking "),
        "{refused:?}"
    );

    let shown = in_terminal(folder, "$0 export file:store --format ndjson > exported");
    assert!(shown.stdout.contains("exporting "), "{shown:?}");
    let exported = std::fs::read_to_string(folder.join("exported")).unwrap();
    assert_eq!(exported.lines().count(), 3000);
    assert!(!exported.contains("exporting "));

    let quiet = in_terminal(
        folder,
        "$0 import --from all.ndjson --to file:store 2> errors | cat",
    );
    assert_eq!(quiet.stdout.trim_end(), "0 written, 3000 equal already");
    assert_eq!(std::fs::read_to_string(folder.join("errors")).unwrap(), "");
}
