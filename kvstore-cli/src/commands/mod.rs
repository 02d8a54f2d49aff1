//! What the commands do.

mod batch;
mod entries;
mod generate;
mod jobs;
mod list;
mod transfer;
mod watch;

use kvstore_client::{Client, Options};
use kvstore_core::model::command::Command as Write;
use kvstore_core::service::{Request, Submitted};

use crate::args::{Args, Command, Sending, Server};
use crate::failure::Failure;
use crate::output::Output;

/// What a command works with.
struct Context {
    client: Client,
    output: Output,
}

/// Does what the command line says.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let command = match args.command {
        Command::Completions { shell } => return generate::completions(shell),
        Command::Man { folder } => return generate::man(&folder),
        command => command,
    };
    let context = Context {
        output: Output::new(args.server.output),
        client: client(args.server, !matches!(command, Command::Import(_)))?,
    };
    match command {
        Command::Get(get) => entries::get(&context, get).await,
        Command::Set(set) => entries::set(&context, set).await,
        Command::Delete(delete) => entries::delete(&context, delete).await,
        Command::Add(add) => entries::add(&context, add).await,
        Command::Merge(merge) => entries::merge(&context, merge).await,
        Command::Touch(touch) => entries::touch(&context, touch).await,
        Command::List(list) => list::list(&context, list).await,
        Command::Watch(watch) => watch::watch(&context, watch).await,
        Command::Batch(batch) => batch::batch(&context, batch).await,
        Command::Jobs(jobs) => jobs::jobs(&context, jobs).await,
        Command::Queue => jobs::queue(&context).await,
        Command::Export(export) => transfer::export(&context, export).await,
        Command::Import(import) => transfer::import(&context, import).await,
        Command::Completions { .. } | Command::Man { .. } => unreachable!("done above"),
    }
}

/// `idempotency_keys`: each write gets one; an import has too many of them, and each can be repeated.
fn client(server: Server, idempotency_keys: bool) -> Result<Client, Failure> {
    let token = match &server.token_file {
        None => environment_token()?,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::Usage(format!("{} cannot be read: {error}", path.display()))
            })?;
            Some(text.trim().to_owned())
        }
    };
    let options = Options {
        token: token.filter(|token| !token.is_empty()),
        retry_for: server.retry_for,
        ca_file: server.ca_file,
        idempotency_keys,
        ..Options::default()
    };
    Ok(Client::open_with(&server.url, options)?)
}

/// The token is in no argument: those can be seen by every user of a machine.
fn environment_token() -> Result<Option<String>, Failure> {
    let token = std::env::var_os("KVSTORE_TOKEN");
    let token = token.map(|token| token.into_string()).transpose();
    token.map_err(|_| Failure::Usage("KVSTORE_TOKEN is not text in UTF-8".to_owned()))
}

impl Context {
    /// Has a write of one operation or more accepted, and waits for it.
    async fn submit(
        &self,
        write: impl Into<Write>,
        sending: &Sending,
    ) -> Result<Submitted, Failure> {
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
