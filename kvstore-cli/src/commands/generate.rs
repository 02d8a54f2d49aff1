//! `completions` and `man`: generated from the definition of the command line.

use std::io::Write as _;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Args;
use crate::failure::CommandFailure;

pub(super) fn completions(shell: Shell) -> Result<(), CommandFailure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "kvstore", &mut text);
    Ok(std::io::stdout().write_all(&text)?)
}

/// Writes `kvstore.1` and a page for each command.
pub(super) fn man(folder: &Path) -> Result<(), CommandFailure> {
    clap_mangen::generate_to(Args::command(), folder).map_err(|error| {
        CommandFailure::Usage(format!(
            "no man page can be written into {}: {error}",
            folder.display()
        ))
    })
}
