//! `kvstore`, the command: reads, writes and watches the entries of a server, and looks after its jobs.
//!
//! [`args`] is the one definition of the command line, from which help, completions and man pages come;
//! [`commands`] does what it says; [`output`] prints it; [`failure`] is how it ends when it cannot.
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

fn main() -> ExitCode {
    let args = args::Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(args)),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
