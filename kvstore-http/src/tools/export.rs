//! `export`: writes the entries of a store to standard output or into a new file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use futures_util::stream::TryStreamExt;
use indicatif::ProgressBar;
use kvstore_core::open::StoreUrl;
use kvstore_core::portable::{Form, Writer};
use kvstore_core::process::{self, Failure, Fallback, Program, Setting, Settings};

use super::place::{Entries, FORMAT, Source, read_form};
use super::{FOLDER, on_folder, progress};

pub(super) const PROGRAM: Program = Program {
    settings: &[STORE, TO, FORMAT],
    ..on_folder(
        "kvstore-http export",
        "Writes the entries of a store to standard output or a new file; changes nothing, and works beside a server",
    )
};

const STORE: Setting = Setting {
    allowed: "the URL of a store, such as file:database",
    ..FOLDER
};

const TO: Setting = Setting {
    flag: "to",
    value: "FILE",
    default: Fallback::Absent("standard output"),
    allowed: "a file that is not there yet",
    help: "The file to make",
};

/// What is asked for.
struct Own {
    store: StoreUrl,
    to: Option<PathBuf>,
    form: Form,
}

pub(super) fn main() -> ExitCode {
    process::command(&PROGRAM, read, |own| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(run(&own))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn read(settings: &mut Settings) -> Option<Own> {
    let store = settings.get_url(&STORE, str::parse);
    let to = settings.get_optional(&TO, |path| Ok::<_, String>(PathBuf::from(path)));
    let form = read_form(settings, to.as_ref().and_then(Option::as_deref));
    Some(Own {
        store: store?,
        to: to?,
        form: form?,
    })
}

async fn run(own: &Own) -> Result<(), Failure> {
    let source = Source::open(&own.store).await?;
    let bar = progress::of_entries("exporting", source.total());
    let Some(path) = &own.to else {
        let out = BufWriter::new(std::io::stdout());
        write(source.entries(), Writer::new(own.form, out), &bar).await?;
        return Ok(());
    };
    let can_not = |what: &str, error: Failure| format!("can't {what} {}: {error}", path.display());
    let file = File::create_new(path).map_err(|error| can_not("make", error.into()))?;
    let written = write(
        source.entries(),
        Writer::new(own.form, BufWriter::new(file)),
        &bar,
    )
    .await;
    // On the disk when it says so, since somebody may rely on it.
    let synced = match written {
        Ok(out) => out.get_ref().sync_all().map_err(Failure::from),
        Err(error) => Err(error),
    };
    synced.map_err(|error| {
        // Half of it could be taken for all of it.
        let _ = std::fs::remove_file(path);
        can_not("write", error).into()
    })
}

async fn write<W: Write>(
    mut entries: Entries<'_>,
    mut writer: Writer<W>,
    bar: &ProgressBar,
) -> Result<W, Failure> {
    while let Some(entry) = entries.try_next().await? {
        writer.write(&entry)?;
        bar.inc(1);
    }
    Ok(writer.finish()?)
}
