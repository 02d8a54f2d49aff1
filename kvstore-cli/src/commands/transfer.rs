//! `export` and `import`: all entries of a server, to a file and from one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use kvstore_core::clock::{Clock as _, SystemClock};
use kvstore_core::model::command::Operation;
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::write::Condition;
use kvstore_core::portable::{Form, Lines, Object, PortableEntry, Refused, Writer};
use kvstore_core::service::Request;
use kvstore_core::store::ListRequest;
use kvstore_core::{Entry, Error, Key};
use serde_json::json;

use super::Context;
use crate::args::{Export, Import};
use crate::failure::Failure;

/// Most bad places of a file that are listed.
const REFUSED_MAX: usize = 20;

/// Most entries that are compared with the server's in one request.
const COMPARED_ENTRIES: usize = 500;

/// Most bytes of their values, so that the answer with the server's stays below its bound.
const COMPARED_BYTES: usize = 2 << 20;

/// How many writes are under way at once: a server syncs together what arrives together.
const WRITES_AT_ONCE: usize = 128;

/// How long each waits to be applied.
const WAIT: Duration = Duration::from_secs(60);

/// How often a write is sent whose outcome is not known.
const TRIES: usize = 5;

/// How far two deadlines may be apart that are the same: a time to live is in whole seconds, and counts from when
/// the server accepts it.
const SAME_DEADLINE: Duration = Duration::from_secs(3);

pub(super) async fn export(context: &Context, export: Export) -> Result<(), Failure> {
    let form = form(export.format, export.file.as_deref());
    let bar = progress("exporting", count(context, &export.prefix).await?);
    let Some(path) = export.file.filter(|path| path.as_os_str() != "-") else {
        let out = BufWriter::new(io::stdout());
        write_all(context, &export.prefix, Writer::new(form, out), &bar).await?;
        return Ok(());
    };
    let refused =
        |error: io::Error| Failure::Usage(format!("{} cannot be made: {error}", path.display()));
    let file = File::create_new(&path).map_err(refused)?;
    let written = write_all(
        context,
        &export.prefix,
        Writer::new(form, BufWriter::new(file)),
        &bar,
    );
    // On the disk when it says so.
    let synced = match written.await {
        Ok((out, count)) => out
            .get_ref()
            .sync_all()
            .map(|()| count)
            .map_err(Failure::from),
        Err(error) => Err(error),
    };
    drop(bar);
    match synced {
        Ok(count) => {
            let object = json!({"exported": count});
            Ok(context.output.one(&format!("{count} exported"), &object)?)
        }
        Err(error) => {
            // Half of it could be taken for all of it.
            let _ = std::fs::remove_file(&path);
            Err(error)
        }
    }
}

async fn count(context: &Context, prefix: &str) -> Result<Option<u64>, Failure> {
    let request = ListRequest {
        prefix: prefix.to_owned(),
        limit: 1,
        count: true,
        ..ListRequest::default()
    };
    Ok(context.client.store().list(&request).await?.count)
}

async fn write_all<W: Write>(
    context: &Context,
    prefix: &str,
    mut writer: Writer<W>,
    bar: &ProgressBar,
) -> Result<(W, u64), Failure> {
    let mut entries = context.client.store().entries(prefix);
    let mut count = 0;
    while let Some(entry) = entries.try_next().await? {
        writer.write(&entry.into())?;
        bar.inc(1);
        count += 1;
    }
    let mut out = writer.finish()?;
    out.flush()?;
    Ok((out, count))
}

/// What an import did.
#[derive(Debug, Default)]
struct Totals {
    written: u64,
    equal: u64,
    kept: u64,
    expired: u64,
}

pub(super) async fn import(context: &Context, import: Import) -> Result<(), Failure> {
    let form = form(import.format, Some(&import.file));
    let path = Some(import.file).filter(|path| path.as_os_str() != "-");
    let is_regular = path.as_deref().is_some_and(Path::is_file);
    let mut totals = Totals::default();
    let text;
    let (entries, total): (Box<dyn Iterator<Item = Given>>, _) = match form {
        Form::Object => {
            let mut all = Vec::new();
            open(path.as_ref())?.read_to_end(&mut all)?;
            text = all;
            let total = check(Object::new(&text).map(Ok))?;
            (Box::new(Object::new(&text).map(Ok)), Some(total))
        }
        // What is no regular file can be read only once: its bad lines are found on the way.
        Form::Lines => {
            let total = match is_regular {
                true => Some(check(Lines::new(BufReader::new(open(path.as_ref())?)))?),
                false => None,
            };
            let lines = Lines::new(BufReader::new(open(path.as_ref())?));
            (Box::new(lines), total)
        }
    };
    let bar = progress("importing", total);
    let imported = write_missing(context, entries, import.keep, &bar, &mut totals).await;
    drop(bar);
    let Totals {
        written,
        equal,
        kept,
        expired,
    } = totals;
    let text = format!(
        "{written} written, {equal} equal already, {kept} left as they are, {expired} expired"
    );
    imported.map_err(|failure| match failure {
        Failure::Store(error) if written > 0 => Failure::Interrupted {
            error,
            done: format!("{text} until then; the same command continues from there"),
        },
        failure => failure,
    })?;
    let object = json!({"written": written, "equal": equal, "kept": kept, "expired": expired});
    Ok(context.output.one(&text, &object)?)
}

/// An entry of a file, or why it is none.
type Given = io::Result<Result<PortableEntry, Refused>>;

fn open(path: Option<&PathBuf>) -> Result<Box<dyn Read>, Failure> {
    let Some(path) = path else {
        return Ok(Box::new(io::stdin()));
    };
    let file = File::open(path);
    let refused = |error| Failure::Usage(format!("{} cannot be read: {error}", path.display()));
    Ok(Box::new(file.map_err(refused)?))
}

/// Counts the entries.
///
/// # Errors
/// The places of those that are none, before anything is written.
fn check(entries: impl Iterator<Item = Given>) -> Result<u64, Failure> {
    let (mut count, mut refused) = (0, Vec::new());
    for entry in entries {
        match entry? {
            Ok(_) => count += 1,
            Err(place) => refused.push(place.to_string()),
        }
        if refused.len() == REFUSED_MAX {
            refused.push("and perhaps more".to_owned());
            break;
        }
    }
    match refused.is_empty() {
        true => Ok(count),
        false => Err(Failure::Usage(format!(
            "nothing was written, the file has bad entries:\n  {}",
            refused.join("\n  ")
        ))),
    }
}

/// Writes what differs from what the server has.
async fn write_missing(
    context: &Context,
    mut entries: impl Iterator<Item = Given>,
    keep: bool,
    bar: &ProgressBar,
    totals: &mut Totals,
) -> Result<(), Failure> {
    loop {
        // The last line of a key stays.
        let mut chunk: HashMap<Key, PortableEntry> = HashMap::new();
        let mut bytes = 0;
        while chunk.len() < COMPARED_ENTRIES && bytes < COMPARED_BYTES {
            let Some(entry) = entries.next() else {
                break;
            };
            let entry = entry?.map_err(|refused| Failure::Usage(refused.to_string()))?;
            bytes += entry.value.len();
            bar.inc(1);
            chunk.insert(entry.key.clone(), entry);
        }
        if chunk.is_empty() {
            return Ok(());
        }
        let keys: Vec<Key> = chunk.keys().cloned().collect();
        let present = context.client.store().get_many(&keys).await?;
        let now = SystemClock.now();
        let mut writes = Vec::new();
        for ((_, entry), present) in chunk.into_iter().zip(present) {
            let left = entry.expires_at.map(|deadline| deadline.since(now));
            match present {
                _ if left.is_some_and(|left| left.is_zero()) => totals.expired += 1,
                Some(present) if is_equal(&entry, &present) => totals.equal += 1,
                Some(_) if keep => totals.kept += 1,
                _ => writes.push(operation(entry, left, keep)),
            }
        }
        let writes = stream::iter(writes).map(|write| set(context, write));
        let mut writes = writes.buffer_unordered(WRITES_AT_ONCE);
        while let Some(is_written) = writes.try_next().await? {
            match is_written {
                true => totals.written += 1,
                false => totals.kept += 1,
            }
        }
    }
}

fn operation(entry: PortableEntry, left: Option<Duration>, keep: bool) -> Operation {
    let set = Operation::set(entry.key, entry.value);
    let set = match keep {
        true => set.under(Condition::Absent),
        false => set,
    };
    match left {
        Some(left) => {
            set.expires_after(Duration::from_secs(left.as_millis().div_ceil(1000) as u64))
        }
        None => set,
    }
}

fn is_equal(entry: &PortableEntry, present: &Entry) -> bool {
    let is_same =
        |one: Timestamp, other: Timestamp| one.since(other).max(other.since(one)) <= SAME_DEADLINE;
    entry.value == present.value
        && match (entry.expires_at, present.expires_at) {
            (Some(one), Some(other)) => is_same(one, other),
            (one, other) => one == other,
        }
}

/// Writes one entry, and returns false if it was there and is to stay.
async fn set(context: &Context, operation: Operation) -> Result<bool, Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        let request = Request::new(operation.clone().into(), WAIT);
        match context.client.service().submit(request).await {
            Ok(_) => return Ok(true),
            Err(Error::Conflict { .. }) => return Ok(false),
            // The same value once more does no harm, and each has no idempotency key, of which a server
            // remembers only so many.
            Err(Error::Unknown { .. }) if tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns the form that is asked for, or that the name of the file says.
fn form(given: Option<Form>, path: Option<&Path>) -> Form {
    let extension = path.and_then(Path::extension);
    given.unwrap_or(match extension.is_some_and(|it| it == "json") {
        true => Form::Object,
        false => Form::Lines,
    })
}

/// Counts entries on a terminal, `total` of them where that is known.
fn progress(doing: &'static str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} {bar:30} {human_pos} of {human_len} entries, {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{msg} {human_pos} entries, {per_sec}",
        ),
    };
    let style = ProgressStyle::with_template(template).expect("a template of this file");
    bar.with_style(style)
        .with_message(doing)
        .with_finish(ProgressFinish::AndClear)
}
