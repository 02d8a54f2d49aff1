//! Does a terminal show the progress of an import or export, and does a pipe or file get nothing of
//! it?

use std::path::Path;

use kvstore_testing::process::clean;
use kvstore_testing::tool;

use crate::support::{Ended, KVSTORE, ended};

/// Runs `line`, in which `$0` is the program, with a terminal for input and output, whose contents
/// are returned as standard output.
fn in_terminal(folder: &Path, line: &str) -> Ended {
    let line = line.replace("$0", KVSTORE);
    let mut script = clean(tool("script"));
    script
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .current_dir(folder);
    ended(&mut script)
}

fn text(ended: &Ended) -> String {
    ended.lines.join("\n")
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

    let shown = in_terminal(folder, "$0 import all.ndjson --to file:store");
    assert_eq!(shown.code, 0, "{shown:?}");
    for part in ["checking ", "importing ", " of 3,000 entries, "] {
        assert!(text(&shown).contains(part), "{part}: {shown:?}");
    }
    // The result remains, on a line of its own.
    let shown_text = text(&shown);
    let last = shown_text.trim_end().rsplit(['\r', '\n']).next().unwrap();
    assert!(last.ends_with("3000 written, 0 equal already"), "{shown:?}");

    // The bar does not obscure any message.
    let refused = in_terminal(folder, "$0 import bad.ndjson --to file:other");
    assert_eq!(refused.code, 2, "{refused:?}");
    let refused_text = text(&refused);
    let (bar, said) = refused_text
        .rsplit_once("bad.ndjson, line 3001 column 1: ")
        .unwrap();
    assert!(
        bar.contains("checking ") && !said.contains("checking "),
        "{refused:?}"
    );

    let shown = in_terminal(folder, "$0 export --from file:store > exported");
    assert!(text(&shown).contains("exporting "), "{shown:?}");
    let exported = std::fs::read_to_string(folder.join("exported")).unwrap();
    assert_eq!(exported.lines().count(), 3000);
    assert!(!exported.contains("exporting "));

    let quiet = in_terminal(
        folder,
        "$0 import all.ndjson --to file:store -o table 2> errors | cat",
    );
    assert_eq!(text(&quiet).trim_end(), "0 written, 3000 equal already");
    assert_eq!(std::fs::read_to_string(folder.join("errors")).unwrap(), "");
}
