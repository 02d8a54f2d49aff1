//! `kvstore`, the command: reads, writes and watches the entries of a server, manages its jobs,
//! moves entries between servers, stores and files, and checks and repairs folders.
//!
//! [`args`] is the single definition of the command line, from which help, completions and man
//! pages are generated; [`commands`] carries out the commands; [`output`] prints results;
//! [`failure`] reports errors.
//!
//! What is not here: HTTP, which is `kvstore-client`.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout))]

mod args;
mod commands;
mod failure;
mod input;
mod output;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

fn main() -> ExitCode {
    let args = args::Args::try_parse().unwrap_or_else(|error| refuse(&error));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(args)),
        Err(error) => Err(failure::CommandFailure::Failed(error.to_string())),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Prints the help, or what is wrong with the arguments, without those that may hold a password.
fn refuse(error: &clap::Error) -> ! {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        error.exit();
    }
    let is_suspect = |arg: &String| arg.contains('@') || arg.contains("password=");
    let mut text = error.render().to_string();
    let variables = ["KVSTORE_URL", "KVSTORE_STORE"].map(std::env::var_os);
    for arg in std::env::args_os()
        .skip(1)
        .chain(variables.into_iter().flatten())
    {
        let arg = arg.to_string_lossy().into_owned();
        for part in [
            Some(arg.as_str()),
            arg.split_once('=').map(|(_, value)| value),
        ] {
            if let Some(part) = part.map(str::to_owned).filter(is_suspect) {
                text = text.replace(&part, "…");
            }
        }
    }
    #[expect(clippy::print_stderr, reason = "errors go to standard error")]
    {
        eprint!("{text}");
    }
    std::process::exit(2)
}
