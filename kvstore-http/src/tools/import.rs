//! `import`: brings entries from a file, standard input or a store into a store.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::process::ExitCode;

use futures_util::stream::{self, StreamExt};
use indicatif::ProgressBar;
use kvstore_core::open::StoreUrl;
use kvstore_core::portable::{Form, Lines, Object, PortableEntry, Refused};
use kvstore_core::process::{self, Failure, Fallback, Program, Setting, Settings};

use super::copy::{Totals, copy};
use super::place::{Entries, FORMAT, Place, Source, read_form};
use super::{on_folder, print, progress};

pub(super) const PROGRAM: Program = Program {
    settings: &[FROM, TO, FORMAT],
    operand: None,
    ..on_folder(
        "kvstore-http import",
        "Brings entries from a file, standard input or a store into a store; run again, it goes on where it ended",
    )
};

const FROM: Setting = Setting {
    flag: "from",
    value: "SOURCE",
    default: Fallback::Absent("none, it has to be given"),
    allowed: "a file, - for standard input, or the URL of a store",
    help: "Where the entries are",
};

const TO: Setting = Setting {
    flag: "to",
    value: "URL",
    default: Fallback::Absent("none, it has to be given"),
    allowed: "the URL of a store, such as file:database",
    help: "The store to bring them into",
};

/// Most bad places that are listed.
const REFUSED_MAX: usize = 20;

/// What is asked for.
struct Own {
    from: Place,
    form: Form,
    to: StoreUrl,
}

pub(super) fn main() -> ExitCode {
    process::command(&PROGRAM, read, |own| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(run(&own))
    })
}

fn read(settings: &mut Settings) -> Option<Own> {
    let from = settings.get_url(&FROM, Place::parse);
    let path = match &from {
        Some(Place::File(path)) => Some(path.as_path()),
        _ => None,
    };
    let form = read_form(settings, path);
    let to = settings.get_url(&TO, str::parse);
    Some(Own {
        from: from?,
        form: form?,
        to: to?,
    })
}

async fn run(own: &Own) -> Result<ExitCode, Failure> {
    match (&own.from, own.form) {
        (Place::Store(url), _) => {
            let source = Source::open(url).await?;
            bring(source.entries(), source.total(), &own.to).await
        }
        (from, Form::Object) => {
            let mut text = Vec::new();
            let read = open(from)?.read_to_end(&mut text);
            read.map_err(|error| can_not_read(from, error))?;
            let total = check(from, Object::new(&text).map(Ok), &ProgressBar::hidden())?;
            let entries = Object::new(&text).map(|entry| Ok(entry?));
            bring(stream::iter(entries).boxed_local(), Some(total), &own.to).await
        }
        (from, Form::Lines) => {
            let total = match regular_bytes(from)? {
                Some(bytes) => {
                    let bar = progress::of_bytes("checking", bytes);
                    let lines = Lines::new(BufReader::new(bar.wrap_read(open(from)?)));
                    Some(check(from, lines, &bar)?)
                }
                // It can be read only once: nothing is known of what follows when something is written.
                None => None,
            };
            let entries = Lines::new(BufReader::new(open(from)?)).map(|line| match line {
                Ok(Ok(entry)) => Ok(entry),
                Ok(Err(refused)) => Err(format!("{from}, {refused}").into()),
                Err(error) => Err(can_not_read(from, error)),
            });
            bring(stream::iter(entries).boxed_local(), total, &own.to).await
        }
    }
}

fn open(from: &Place) -> Result<Box<dyn Read>, Failure> {
    let Place::File(path) = from else {
        return Ok(Box::new(io::stdin()));
    };
    match File::open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => Err(can_not_read(from, error)),
    }
}

/// The size of a file, unless it is a pipe or something else that is gone once it is read.
fn regular_bytes(from: &Place) -> Result<Option<u64>, Failure> {
    let Place::File(path) = from else {
        return Ok(None);
    };
    let metadata = std::fs::metadata(path).map_err(|error| can_not_read(from, error))?;
    Ok(metadata.is_file().then_some(metadata.len()))
}

fn can_not_read(from: &Place, error: io::Error) -> Failure {
    format!("can't read {from}: {error}").into()
}

/// How many entries there are. If some can't be taken, they are listed instead.
fn check(
    from: &Place,
    entries: impl Iterator<Item = io::Result<Result<PortableEntry, Refused>>>,
    bar: &ProgressBar,
) -> Result<u64, Failure> {
    let (mut count, mut refused) = (0, Vec::new());
    for entry in entries {
        match entry.map_err(|error| can_not_read(from, error))? {
            Ok(_) => count += 1,
            Err(place) => refused.push(place),
        }
        if refused.len() == REFUSED_MAX {
            break;
        }
    }
    bar.finish_and_clear();
    if refused.is_empty() {
        return Ok(count);
    }
    print(refused.iter().map(|place| format!("{from}, {place}")));
    let found = match refused.len() {
        REFUSED_MAX => format!("{REFUSED_MAX} or more"),
        fewer => fewer.to_string(),
    };
    Err(format!("{found} refused, nothing was written").into())
}

/// Writes `entries`, `total` of them where that is known, and says how many.
async fn bring(
    entries: Entries<'_>,
    total: Option<u64>,
    to: &StoreUrl,
) -> Result<ExitCode, Failure> {
    let opened = kvstore_core::open(to, None).await?;
    let bar = progress::of_entries("writing", total);
    let mut totals = Totals::default();
    let copied = copy(entries, &opened.store, &bar, &mut totals).await;
    drop(bar);
    let closed = opened.close().await;
    let copied = copied.and_then(|()| match total {
        Some(total) if total != totals.sum() => Err(format!(
            "there were {total} entries when it was checked, and {} now",
            totals.sum()
        )
        .into()),
        _ => Ok(()),
    });
    if let Err(error) = copied {
        let error = kvstore_core::error::in_one_line(&*error);
        return Err(
            format!("{error}; {totals} until then; the same command goes on from there").into(),
        );
    }
    closed?;
    print([totals]);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn file_that_was_cut_while_it_was_read_is_told() {
        let entries = || {
            let lines =
                Lines::new(&b"{\"key\":\"a\",\"value\":1}\n{\"key\":\"b\",\"value\":1}\n"[..]);
            stream::iter(lines.map(|line| Ok(line??))).boxed_local()
        };
        let memory = "memory:".parse().unwrap();
        assert!(bring(entries(), Some(2), &memory).await.is_ok());
        let told = bring(entries(), Some(3), &memory).await.unwrap_err();
        let said = "there were 3 entries when it was checked, and 2 now; 2 written, 0 equal already until then";
        assert!(told.to_string().starts_with(said), "{told}");
    }
}
