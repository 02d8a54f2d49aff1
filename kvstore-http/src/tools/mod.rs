//! What the program does beside serving: one command a file, most of them for folders that no server has open.
//!
//! They end with 0 when all is well, with 1 when something is wrong or was refused, and with 2 for wrong arguments.

mod compact;
mod copy;
mod export;
mod health;
mod import;
mod place;
mod progress;
mod repair;
mod status;
mod token;
mod verify;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kvstore_core::open::StoreUrl;
use kvstore_core::process::{Fallback, Program, STORE, Setting, Settings};

/// All of them.
pub(crate) const PROGRAMS: &[Program] = &[
    verify::PROGRAM,
    repair::PROGRAM,
    status::PROGRAM,
    compact::PROGRAM,
    export::PROGRAM,
    import::PROGRAM,
    token::PROGRAM,
    health::PROGRAM,
];

/// Runs the command that the arguments begin with, if they begin with one.
pub(crate) fn main() -> Option<ExitCode> {
    match std::env::args_os().nth(1)?.to_str()? {
        "verify" => Some(verify::main()),
        "repair" => Some(repair::main()),
        "status" => Some(status::main()),
        "compact" => Some(compact::main()),
        "export" => Some(export::main()),
        "import" => Some(import::main()),
        "token" => Some(token::main()),
        "health" => Some(health::main()),
        _ => None,
    }
}

/// The folder to work on, as the server's `--store`.
const FOLDER: Setting = Setting {
    flag: STORE.flag,
    value: "URL",
    default: Fallback::Value("file:database"),
    allowed: "file:FOLDER",
    help: "The store",
};

/// A command on one folder.
const fn on_folder(name: &'static str, about: &'static str) -> Program {
    Program {
        name,
        version: env!("CARGO_PKG_VERSION"),
        about,
        settings: &[FOLDER],
        operand: Some(FOLDER.flag),
        commands: &[],
    }
}

fn read_folder(settings: &mut Settings) -> Option<PathBuf> {
    let url: StoreUrl = settings.get_url(&FOLDER, str::parse)?;
    if url.folder().is_none() {
        settings.refuse(&FOLDER, "it is no store in files");
    }
    url.folder().map(Path::to_owned)
}

/// Prints lines; a reader that has gone away, as behind `| head -1`, is no failure.
fn print(lines: impl IntoIterator<Item = impl std::fmt::Display>) {
    let mut out = std::io::stdout().lock();
    for line in lines {
        let _ = writeln!(out, "{line}");
    }
}
