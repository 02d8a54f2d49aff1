//! `export` and `import`: copy entries between any two of a file, a folder, a store on Redis and a
//! server.

mod copy;
mod place;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use kvstore_core::portable::{
    EntryWriter, Form, LinesReader, ObjectReader, PortableEntry, Refused,
};
use serde_json::json;

use self::copy::{CopyTarget, Totals, copy};
pub(crate) use self::place::Location;
use self::place::{EntrySource, EntryStream};
use super::{client, token_in, token_of};
use crate::args::{ExportArgs, ImportArgs, ServerArgs};
use crate::failure::CommandFailure;
use crate::output::Output;

/// The maximum number of invalid places of a file that are listed.
const REFUSED_MAX: usize = 20;

pub(super) async fn export(
    output: &Output,
    server: ServerArgs,
    export: ExportArgs,
) -> Result<(), CommandFailure> {
    let form = form(export.format, export.to.as_deref());
    let from = export.from.unwrap_or(Location::Server(server.url()));
    let source = match from {
        Location::Store(url) => EntrySource::open(&url).await?,
        Location::Server(url) => {
            let token = token_of(&server)?;
            EntrySource::Server(client(server.at(url), token, true)?)
        }
        Location::File(_) | Location::Standard => {
            let text = "--from takes a folder, a store or a server; a file is read by `import`";
            return Err(CommandFailure::Usage(text.to_owned()));
        }
    };
    let prefix = &export.prefix;
    let bar = of_entries("exporting", source.total(prefix).await?);
    let entries = source.entries(prefix);
    let Some(path) = export.to.filter(|path| path.as_os_str() != "-") else {
        let out = BufWriter::new(io::stdout());
        write_all(entries, EntryWriter::new(form, out), &bar).await?;
        return Ok(());
    };
    let refused =
        |error| CommandFailure::Usage(format!("{} cannot be made: {error}", path.display()));
    let file = File::create_new(&path).map_err(refused)?;
    let written = write_all(entries, EntryWriter::new(form, BufWriter::new(file)), &bar).await;
    drop(bar);
    // Durable once the command succeeds.
    let synced = written.and_then(|(out, count)| {
        out.get_ref().sync_all()?;
        Ok(count)
    });
    match synced {
        Ok(count) => {
            let object = json!({"exported": count});
            Ok(output.one(&format!("{count} exported"), &object)?)
        }
        Err(failure) => {
            // A partial file could be mistaken for a complete one.
            let _ = std::fs::remove_file(&path);
            Err(match failure {
                CommandFailure::Io(error) => {
                    CommandFailure::Failed(format!("{} cannot be written: {error}", path.display()))
                }
                failure => failure,
            })
        }
    }
}

async fn write_all<W: Write>(
    mut entries: EntryStream<'_>,
    mut writer: EntryWriter<W>,
    bar: &ProgressBar,
) -> Result<(W, u64), CommandFailure> {
    let mut count = 0;
    while let Some(entry) = entries.try_next().await? {
        writer.write(&entry)?;
        bar.inc(1);
        count += 1;
    }
    let mut out = writer.finish()?;
    out.flush()?;
    Ok((out, count))
}

pub(super) async fn import(
    output: &Output,
    server: ServerArgs,
    import: ImportArgs,
) -> Result<(), CommandFailure> {
    // First everything that can be rejected before anything is touched.
    let text;
    let source;
    let (entries, total): (EntryStream<'_>, _) = match &import.from {
        Location::Store(url) => {
            source = EntrySource::open(url).await?;
            (source.entries(""), source.total("").await?)
        }
        Location::Server(url) => {
            // A token is for one server: `--token-file` is for the one that is written to.
            let token = import
                .from_token_file
                .as_deref()
                .map(token_in)
                .transpose()?;
            source = EntrySource::Server(client(server.clone().at(url.clone()), token, true)?);
            (source.entries(""), source.total("").await?)
        }
        file @ (Location::File(_) | Location::Standard) => {
            let path = match file {
                Location::File(path) => Some(path.as_path()),
                _ => None,
            };
            let name = path.map_or("standard input".to_owned(), |path| {
                path.display().to_string()
            });
            match form(import.format, path) {
                Form::Object => {
                    let mut all = Vec::new();
                    open(path)?.read_to_end(&mut all)?;
                    text = all;
                    let bar = ProgressBar::hidden();
                    let total = check(&name, ObjectReader::new(&text).map(Ok), &bar)?;
                    let entries = stream::iter(ObjectReader::new(&text).map(Ok));
                    (given(name, entries.boxed_local()), Some(total))
                }
                Form::Lines => {
                    let bytes = path.and_then(|path| path.metadata().ok());
                    let bytes = bytes.filter(|it| it.is_file()).map(|it| it.len());
                    let total = match bytes {
                        Some(bytes) => {
                            let bar = of_bytes("checking", bytes);
                            let lines =
                                LinesReader::new(BufReader::new(bar.wrap_read(open(path)?)));
                            Some(check(&name, lines, &bar)?)
                        }
                        // It can be read only once, so its invalid lines are found on the way.
                        None => None,
                    };
                    let lines = stream::iter(LinesReader::new(BufReader::new(open(path)?)));
                    (given(name, lines.boxed_local()), total)
                }
            }
        }
    };
    let target = match import.to.unwrap_or(Location::Server(server.url())) {
        Location::Store(url) => CopyTarget::Store(kvstore_core::open(&url, None).await?),
        // Each write can be repeated, and there are too many of them for idempotency keys.
        Location::Server(url) => {
            let token = token_of(&server)?;
            CopyTarget::Server(client(server.at(url), token, false)?)
        }
        Location::File(_) | Location::Standard => {
            let text = "--to takes a folder as file:FOLDER, a store or a server; a file is written by `export`";
            return Err(CommandFailure::Usage(text.to_owned()));
        }
    };
    bring(output, entries, total, &target, import.keep).await
}

/// Writes `entries`, of which there are `total` if known, and prints how many.
async fn bring(
    output: &Output,
    entries: EntryStream<'_>,
    total: Option<u64>,
    target: &CopyTarget,
    keep: bool,
) -> Result<(), CommandFailure> {
    let bar = of_entries("importing", total);
    let mut totals = Totals::default();
    let copied = copy(entries, target, keep, &bar, &mut totals).await;
    drop(bar);
    let closed = match target {
        CopyTarget::Store(opened) => opened.close().await,
        CopyTarget::Server(_) => Ok(()),
    };
    let copied = copied.and_then(|()| match total {
        Some(total) if total > totals.sum() => Err(CommandFailure::Failed(format!(
            "there were {total} entries when it was checked, but {} now",
            totals.sum()
        ))),
        _ => Ok(closed?),
    });
    copied.map_err(|failure| match totals.written {
        0 => failure,
        _ => CommandFailure::Interrupted {
            failure: Box::new(failure),
            done: format!("{totals} so far; the same command continues from there"),
        },
    })?;
    Ok(output.one(&totals.to_string(), &totals)?)
}

/// An entry of a file, or why it is invalid.
type GivenEntry = io::Result<Result<PortableEntry, Refused>>;

/// Adds the file `name` to the position of invalid entries.
fn given<'a>(name: String, entries: stream::LocalBoxStream<'a, GivenEntry>) -> EntryStream<'a> {
    entries
        .map(move |entry| match entry {
            Ok(Ok(entry)) => Ok(entry),
            Ok(Err(refused)) => Err(CommandFailure::Usage(format!("{name}, {refused}"))),
            Err(error) => Err(CommandFailure::Usage(format!(
                "{name} cannot be read: {error}"
            ))),
        })
        .boxed_local()
}

fn open(path: Option<&Path>) -> Result<Box<dyn Read>, CommandFailure> {
    let Some(path) = path else {
        return Ok(Box::new(io::stdin()));
    };
    let file = File::open(path);
    let refused =
        |error| CommandFailure::Usage(format!("{} cannot be read: {error}", path.display()));
    Ok(Box::new(file.map_err(refused)?))
}

/// Counts the entries.
///
/// # Errors
/// The positions of invalid entries, before anything is written.
fn check(
    name: &str,
    entries: impl Iterator<Item = GivenEntry>,
    bar: &ProgressBar,
) -> Result<u64, CommandFailure> {
    let (mut count, mut refused) = (0, Vec::new());
    for entry in entries {
        let read = |error| CommandFailure::Usage(format!("{name} cannot be read: {error}"));
        match entry.map_err(read)? {
            Ok(_) => count += 1,
            Err(place) => refused.push(format!("{name}, {place}")),
        }
        if refused.len() == REFUSED_MAX {
            refused.push("and perhaps more".to_owned());
            break;
        }
    }
    bar.finish_and_clear();
    match refused.is_empty() {
        true => Ok(count),
        false => Err(CommandFailure::Usage(format!(
            "nothing was written: {name} has invalid entries; it was read as --format json, one object \
             {{\"KEY\": VALUE, …}}, or ndjson, an object {{\"key\": \"KEY\", \"value\": VALUE}} a line:\n  {}",
            refused.join("\n  ")
        ))),
    }
}

/// Returns the format that was requested, or the one that the file's name implies.
fn form(given: Option<Form>, path: Option<&Path>) -> Form {
    let extension = path.and_then(Path::extension);
    given.unwrap_or(match extension.is_some_and(|it| it == "json") {
        true => Form::Object,
        false => Form::Lines,
    })
}

/// Shows progress in entries on a terminal, of `total` if known, until it is dropped.
fn of_entries(doing: &'static str, total: Option<u64>) -> ProgressBar {
    match total {
        Some(total) => begin(
            ProgressBar::new(total),
            "{msg} {bar:30} {human_pos} of {human_len} entries, {eta} left",
            doing,
        ),
        None => begin(
            ProgressBar::new_spinner(),
            "{msg} {human_pos} entries, {per_sec}",
            doing,
        ),
    }
}

/// Shows progress in bytes of a file with `total` bytes.
fn of_bytes(doing: &'static str, total: u64) -> ProgressBar {
    let template = "{msg} {bar:30} {binary_bytes} of {binary_total_bytes}, {eta} left";
    begin(ProgressBar::new(total), template, doing)
}

fn begin(bar: ProgressBar, template: &str, doing: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("a template of this file");
    let bar = bar
        .with_style(style)
        .with_message(doing)
        .with_finish(ProgressFinish::AndClear);
    bar.tick();
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn file_that_was_truncated_while_it_was_read_is_an_error() {
        let entries = || {
            let text = "{\"key\":\"a\",\"value\":1}\n{\"key\":\"b\",\"value\":1}\n";
            let lines = stream::iter(LinesReader::new(text.as_bytes()));
            given("f".to_owned(), lines.boxed_local())
        };
        for (total, is_whole) in [(2, true), (3, false)] {
            let url = "memory:".parse().unwrap();
            let memory = CopyTarget::Store(kvstore_core::open(&url, None).await.unwrap());
            let output = Output::new(None);
            match bring(&output, entries(), Some(total), &memory, false).await {
                Err(CommandFailure::Interrupted { failure, done }) => {
                    assert!(
                        matches!(*failure, CommandFailure::Failed(text) if text.starts_with("there were 3"))
                    );
                    assert!(done.starts_with("2 written, 0 equal already so far"));
                }
                whole => assert!(whole.is_ok() && is_whole),
            }
        }
    }
}
