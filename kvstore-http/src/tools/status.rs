//! `status`: what is in a folder and its queue, in numbers; beside a running server, too.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kvstore_core::json_file::Inspection;
use kvstore_core::process::{self, Failure, Program};

use super::{on_folder, print, read_folder};

pub(super) const PROGRAM: Program = on_folder(
    "kvstore-http status",
    "Says what is in a folder and its queue; changes nothing, and works beside a server",
);

pub(super) fn main() -> ExitCode {
    process::command(&PROGRAM, read_folder, |folder| run(&folder))
}

fn run(folder: &Path) -> Result<ExitCode, Failure> {
    let found = Inspection::of(folder)?;
    if let Some(problem) = found.problems().first() {
        return Err(format!("it is damaged, and verify says how: {problem}").into());
    }
    let summary = found.summary();
    let open = match found.writer() {
        None => "by nobody".to_owned(),
        Some(None) => "by another process".to_owned(),
        Some(Some(pid)) => format!("by process {pid}"),
    };
    let ago = |age: Option<Duration>| age.map_or_else(|| "none".to_owned(), seconds);
    let rows = [
        ("open", open),
        ("entries", summary.entries.to_string()),
        ("bytes of keys and values", summary.bytes.to_string()),
        ("latest version", summary.version.to_string()),
        ("bytes of data.json", summary.data_bytes.to_string()),
        ("age of data.json", ago(summary.snapshot_age)),
        ("bytes of journals", summary.journal_bytes.to_string()),
        ("jobs that wait", summary.waiting.jobs.to_string()),
        ("age of the oldest job", ago(summary.waiting.oldest_age)),
        ("dead letters", summary.dead.to_string()),
    ];
    print(rows.map(|(name, value)| format!("{name}: {value}")));
    Ok(ExitCode::SUCCESS)
}

fn seconds(age: Duration) -> String {
    humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
}
