//! The commands.

mod batch;
mod entries;
mod folder;
mod generate;
mod health;
mod jobs;
mod list;
pub(crate) mod token;
mod transfer;
mod watch;

use std::path::Path;

use kvstore_client::{Client, Options};
use kvstore_core::model::command::Command as Write;
use kvstore_core::service::{Request, Submitted};

use crate::args::{Args, Sending, ServerArgs, Subcommands};
use crate::failure::CommandFailure;
use crate::output::Output;

pub(crate) use transfer::Location;

/// What every command needs.
struct CommandContext {
    client: Client,
    output: Output,
}

/// Runs the command that the command line names.
pub(crate) async fn run(args: Args) -> Result<(), CommandFailure> {
    let output = Output::new(args.server.output);
    let command = match args.command {
        Subcommands::Completions { shell } => return generate::completions(shell),
        Subcommands::Man { folder } => return generate::man(&folder),
        Subcommands::Verify(folder) => return folder::verify(&folder.store),
        Subcommands::Repair(folder) => return folder::repair(&folder.store),
        Subcommands::Status(folder) => return folder::status(&folder.store),
        Subcommands::Compact(folder) => return folder::compact(&folder.store).await,
        Subcommands::Token(token) => return token::token(token),
        Subcommands::Health(health) => return health::health(args.server, health).await,
        Subcommands::Export(export) => return transfer::export(&output, args.server, export).await,
        Subcommands::Import(import) => return transfer::import(&output, args.server, import).await,
        command => command,
    };
    let token = token_of(&args.server)?;
    let context = CommandContext {
        output,
        client: client(args.server, token, true)?,
    };
    match command {
        Subcommands::Get(get) => entries::get(&context, get).await,
        Subcommands::Set(set) => entries::set(&context, set).await,
        Subcommands::Delete(delete) => entries::delete(&context, delete).await,
        Subcommands::Add(add) => entries::add(&context, add).await,
        Subcommands::Merge(merge) => entries::merge(&context, merge).await,
        Subcommands::Touch(touch) => entries::touch(&context, touch).await,
        Subcommands::List(list) => list::list(&context, list).await,
        Subcommands::Watch(watch) => watch::watch(&context, watch).await,
        Subcommands::Batch(batch) => batch::batch(&context, batch).await,
        Subcommands::Jobs(jobs) => jobs::jobs(&context, jobs).await,
        Subcommands::Queue => jobs::queue(&context).await,
        _ => unreachable!("done above"),
    }
}

/// Creates the client. With `idempotency_keys` each write gets a key.
fn client(
    server: ServerArgs,
    token: Option<String>,
    idempotency_keys: bool,
) -> Result<Client, CommandFailure> {
    let url = server.url();
    let options = Options {
        token: token.filter(|token| !token.is_empty()),
        retry_for: server.retry_for,
        ca_file: server.ca_file,
        idempotency_keys,
        ..Options::default()
    };
    Ok(Client::open_with(&url, options)?)
}

fn token_of(server: &ServerArgs) -> Result<Option<String>, CommandFailure> {
    match &server.token_file {
        None => environment_token(),
        Some(path) => token_in(path).map(Some),
    }
}

fn token_in(path: &Path) -> Result<String, CommandFailure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CommandFailure::Usage(format!("{} cannot be read: {error}", path.display()))
    })?;
    Ok(text.trim().to_owned())
}

/// Reads the token from the environment; arguments would be visible to every user of the machine.
fn environment_token() -> Result<Option<String>, CommandFailure> {
    let token = std::env::var_os("KVSTORE_TOKEN");
    let token = token.map(|token| token.into_string()).transpose();
    token.map_err(|_| CommandFailure::Usage("KVSTORE_TOKEN is not text in UTF-8".to_owned()))
}

impl CommandContext {
    /// Submits a write of one or more operations, and waits for it.
    async fn submit(
        &self,
        write: impl Into<Write>,
        sending: &Sending,
    ) -> Result<Submitted, CommandFailure> {
        let wait = match sending.no_wait {
            true => std::time::Duration::ZERO,
            false => sending.wait,
        };
        let request = Request {
            idempotency_key: sending.idempotency_key.clone(),
            ..Request::new(write.into(), wait)
        };
        Ok(self.client.service().submit(request).await?)
    }
}
