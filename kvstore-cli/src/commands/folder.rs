//! `verify`, `repair`, `status` and `compact`: they work on a folder directly, without a server.

use std::path::Path;
use std::time::Duration;

use kvstore_core::json_file::{self, Inspection, JsonFile, Options};
use kvstore_core::open::StoreUrl;

use super::transfer::Location;
use crate::failure::CommandFailure;
use crate::output::line;

/// Returns the URL of the store in files that `given` names.
fn url(given: &str) -> Result<StoreUrl, CommandFailure> {
    match given.parse()? {
        Location::Store(url) if url.folder().is_some() => Ok(*url),
        Location::File(_) => Err(CommandFailure::Absent("there is no such folder".to_owned())),
        _ => Err(CommandFailure::Usage(
            "it is not a store in files".to_owned(),
        )),
    }
}

fn inspect(url: &StoreUrl) -> Result<Inspection, CommandFailure> {
    Ok(Inspection::of(path(url))?)
}

fn path(url: &StoreUrl) -> &Path {
    url.folder().expect("it was checked")
}

/// Prints whether everything is as it was written, and what a repair would lose.
pub(super) fn verify(given: &str) -> Result<(), CommandFailure> {
    let found = inspect(&url(given)?)?;
    for problem in found.problems() {
        print(problem)?;
    }
    for note in found.notes() {
        print(format!("note: {note}"))?;
    }
    if let Some(pid) = found.writer() {
        let pid = pid.map_or_else(String::new, |pid| format!(" {pid}"));
        print(format!(
            "note: process{pid} has it open; this is a state that was on the disk meanwhile"
        ))?;
    }
    let held = held(&found);
    match found.problems().len() {
        0 => print(format!("sound: {held}")),
        count => Err(CommandFailure::Failed(format!(
            "{count} problems; what can be read: {held}"
        ))),
    }
}

/// Repairs a damaged folder, and keeps what it removes.
pub(super) fn repair(given: &str) -> Result<(), CommandFailure> {
    let url = url(given)?;
    let repaired = json_file::repair(path(&url))?;
    if repaired.is_empty() {
        return Err(CommandFailure::Failed("nothing to repair".to_owned()));
    }
    for problem in &repaired {
        print(problem)?;
    }
    let left = inspect(&url)?;
    match left.problems().first() {
        Some(problem) => Err(CommandFailure::Failed(format!(
            "it is still damaged: {problem}"
        ))),
        None => print(format!("repaired: {}", held(&left))),
    }
}

/// Prints statistics of a folder and its queue; works alongside a running server.
pub(super) fn status(given: &str) -> Result<(), CommandFailure> {
    let found = inspect(&url(given)?)?;
    if let Some(problem) = found.problems().first() {
        let text = format!("it is damaged, and `kvstore verify` says how: {problem}");
        return Err(CommandFailure::Failed(text));
    }
    let summary = found.summary();
    let open = match found.writer() {
        None => "no".to_owned(),
        Some(None) => "by another process".to_owned(),
        Some(Some(pid)) => format!("by process {pid}"),
    };
    let ago = |age: Option<Duration>| age.map_or_else(|| "none".to_owned(), seconds);
    for (name, value) in [
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
    ] {
        print(format!("{name}: {value}"))?;
    }
    Ok(())
}

/// Brings `data.json` up to date with the journals, and removes those.
pub(super) async fn compact(given: &str) -> Result<(), CommandFailure> {
    let url = url(given)?;
    // Opening would create a missing folder.
    let before = inspect(&url)?.summary();
    JsonFile::open(path(&url), Options::default())
        .await?
        .close()
        .await?;
    let after = inspect(&url)?.summary();
    print(format!(
        "data.json has {} bytes, journals {} instead of {}",
        after.data_bytes, after.journal_bytes, before.journal_bytes
    ))
}

fn held(found: &Inspection) -> String {
    let summary = found.summary();
    format!(
        "{} entries, version {}, {} jobs wait",
        summary.entries, summary.version, summary.waiting.jobs
    )
}

fn seconds(age: Duration) -> String {
    humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
}

fn print(text: impl std::fmt::Display) -> Result<(), CommandFailure> {
    Ok(line(text.to_string().as_bytes())?)
}
