//! `compact`: brings `data.json` up to date with the journals, and removes those.

use std::path::Path;
use std::process::ExitCode;

use kvstore_core::json_file::{Inspection, JsonFile, Options};
use kvstore_core::process::{self, Failure, Program};

use super::{on_folder, print, read_folder};

pub(super) const PROGRAM: Program = on_folder(
    "kvstore-http compact",
    "Brings data.json up to date with the journals of a folder that nobody has open",
);

pub(super) fn main() -> ExitCode {
    process::command(&PROGRAM, read_folder, |folder| run(&folder))
}

fn run(folder: &Path) -> Result<ExitCode, Failure> {
    // Opening would make a folder that is not there.
    let before = Inspection::of(folder)?.summary();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let file = JsonFile::open(folder, Options::default()).await?;
        file.close().await
    })?;
    let after = Inspection::of(folder)?.summary();
    print([format!(
        "data.json has {} bytes, journals {} instead of {}",
        after.data_bytes, after.journal_bytes, before.journal_bytes
    )]);
    Ok(ExitCode::SUCCESS)
}
