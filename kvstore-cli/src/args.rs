//! The command line, once: help, completions and man pages come from here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use kvstore_client::ServerUrl;
use kvstore_core::Key;
use kvstore_core::model::command::Expiry;
use kvstore_core::model::id::JobId;
use kvstore_core::model::write::Condition;
use kvstore_core::portable::Form as FileForm;
use kvstore_core::store::{ChangeId, ChangeKind};

use crate::commands::{Place, token};
use crate::failure::EXIT_CODES;
use crate::input::{Source, change_kind, condition, duration, expiry, key};

/// Reads, writes and watches the entries of a kvstore server, and looks after its jobs
#[derive(Debug, Parser)]
#[command(
    name = "kvstore",
    version,
    after_long_help = EXIT_CODES,
    arg_required_else_help = true
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which server, and how to ask it.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Server and output")]
pub(crate) struct Server {
    /// The server: http://HOST:PORT, https://HOST:PORT or unix:/SOCKET [else:
    /// http://127.0.0.1:8000]
    #[arg(long, global = true, env = "KVSTORE_URL")]
    pub(crate) url: Option<ServerUrl>,
    /// A file with the bearer token [else: KVSTORE_TOKEN]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A PEM file with the certificate authorities to trust
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// How long to try again while the server is unreachable
    #[arg(long, global = true, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(crate) retry_for: Duration,
    /// How to print [else: a table on a terminal, JSON lines in a pipe]
    #[arg(long, short, global = true, value_name = "FORM")]
    pub(crate) output: Option<Form>,
}

impl Server {
    pub(crate) fn url(&self) -> ServerUrl {
        let default = || "http://127.0.0.1:8000".parse().expect("it is a URL");
        self.url.clone().unwrap_or_else(default)
    }

    /// Returns the same for another server.
    pub(crate) fn at(self, url: ServerUrl) -> Self {
        Self {
            url: Some(url),
            ..self
        }
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Table,
    /// An object a line, for programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the values of keys
    Get(Get),
    /// Give a key a value
    Set(Set),
    /// Make keys absent
    Delete(Delete),
    /// List keys
    List(List),
    /// Print changes as they happen; reconnects by itself
    Watch(Watch),
    /// Add to the integer under a key, and print the sum
    Add(Add),
    /// Merge a JSON object into a value (RFC 7396)
    Merge(Merge),
    /// Give an entry a new deadline
    Touch(Touch),
    /// Make several changes at once, all or none of them
    Batch(Batch),
    /// Look at jobs, and retry or drop those that were given up
    #[command(subcommand)]
    Jobs(Jobs),
    /// Print how much waits in the queue, and for how long
    Queue,
    /// Write all entries of a server, folder or store to a file or standard output
    Export(Export),
    /// Bring entries from anywhere to a server, folder or store; run again, it continues where it
    /// ended
    Import(Import),
    /// Check every byte of a folder, change nothing, and print what a repair would lose
    Verify(Folder),
    /// Make a damaged folder whole, as verify announced, and keep damaged files as FILE.removed-N
    Repair(Folder),
    /// Print what is in a folder and its queue; works beside a server
    Status(Folder),
    /// Bring data.json up to date with the journals of a folder that no server has open
    Compact(Folder),
    /// Make a token: its line goes into the file of the server's --tokens-file, the token is
    /// printed
    Token(Token),
    /// Ask a server or worker on this machine whether it is ready: exit code 0 if it is, else 1
    Health(Health),
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the man pages into a folder
    Man {
        /// The folder, which must exist
        folder: PathBuf,
    },
}

#[derive(Debug, Group)]
pub(crate) struct Get {
    /// The keys
    #[arg(required = true, value_parser = key)]
    pub(crate) keys: Vec<Key>,
    /// Print keys, etags and deadlines, too
    #[arg(long)]
    pub(crate) meta: bool,
    /// Print text without its quotes
    #[arg(long, short, conflicts_with = "meta")]
    pub(crate) raw: bool,
}

/// How a write is sent.
#[derive(Debug, Group)]
pub(crate) struct Sending {
    /// How long to wait until it is applied, up to 60s; then it is queued, and will be
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration, help_heading = "Sending")]
    pub(crate) wait: Duration,
    /// Return as soon as it is durable in the queue
    #[arg(long, conflicts_with = "wait", help_heading = "Sending")]
    pub(crate) no_wait: bool,
    /// The same key with the same write again is the same job; without it, a random key makes this
    /// run's own retries safe
    #[arg(long, value_name = "KEY", help_heading = "Sending")]
    pub(crate) idempotency_key: Option<String>,
}

/// How one key is written.
#[derive(Debug, Group)]
pub(crate) struct Write {
    /// Only if the key has this etag; * if it is present
    #[arg(long, value_name = "ETAG", value_parser = condition)]
    pub(crate) if_match: Option<Condition>,
    #[command(flatten)]
    pub(crate) sending: Sending,
}

#[derive(Debug, Group)]
pub(crate) struct Set {
    /// The key
    #[arg(value_parser = key)]
    pub(crate) key: Key,
    /// The value: JSON text, - for standard input, or @FILE
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: Source,
    /// The value is plain text, to be stored as a JSON string
    #[arg(long)]
    pub(crate) text: bool,
    /// Only if the key is absent
    #[arg(long, conflicts_with = "if_match")]
    pub(crate) if_absent: bool,
    /// How long it lives, such as 15m, 7d or 90 (seconds); keep for the deadline that it has
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub(crate) ttl: Option<Expiry>,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Debug, Group)]
pub(crate) struct Delete {
    /// The keys
    #[arg(required_unless_present = "prefix", value_parser = key)]
    pub(crate) keys: Vec<Key>,
    /// All keys that start with this, in place of single ones
    #[arg(long, conflicts_with_all = ["keys", "if_match", "wait", "no_wait", "idempotency_key"])]
    pub(crate) prefix: Option<String>,
    /// Every key of the server, where the prefix is empty
    #[arg(long, requires = "prefix")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Debug, Group)]
pub(crate) struct List {
    /// What the keys start with
    #[arg(default_value = "")]
    pub(crate) prefix: String,
    /// Print a tree of the parts between slashes, in a pipe as well
    #[arg(long, conflicts_with_all = ["count", "fold"])]
    pub(crate) tree: bool,
    /// Print one line for all keys with the same first part behind the prefix, up to this delimiter
    #[arg(long, value_name = "DELIMITER", num_args = 0..=1, default_missing_value = "/", conflicts_with = "count")]
    pub(crate) fold: Option<String>,
    /// Print only how many there are
    #[arg(long)]
    pub(crate) count: bool,
    /// Print values, too
    #[arg(long, short, conflicts_with_all = ["count", "fold"])]
    pub(crate) values: bool,
    /// Print at most so many
    #[arg(long, value_name = "N", conflicts_with = "count")]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, Group)]
pub(crate) struct Watch {
    /// What the keys start with
    #[arg(default_value = "")]
    pub(crate) prefix: String,
    /// Print what is there first
    #[arg(long, short)]
    pub(crate) snapshot: bool,
    /// Print values, too
    #[arg(long, short)]
    pub(crate) values: bool,
    /// Only these kinds of changes: set, delete, expire
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = change_kind)]
    pub(crate) events: Vec<ChangeKind>,
    /// Begin behind the change with this id
    #[arg(long, value_name = "ID", value_parser = |text: &str| Ok::<_, String>(ChangeId::new(text)))]
    pub(crate) since: Option<ChangeId>,
}

#[derive(Debug, Group)]
pub(crate) struct Add {
    /// The key; absent counts as 0
    #[arg(value_parser = key)]
    pub(crate) key: Key,
    /// What to add
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) by: i64,
    /// How long a counter lives that this creates, such as 60s; an existing one keeps its deadline
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub(crate) ttl: Option<Expiry>,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Debug, Group)]
pub(crate) struct Merge {
    /// The key
    #[arg(value_parser = key)]
    pub(crate) key: Key,
    /// The patch: JSON text, - for standard input, or @FILE
    #[arg(allow_hyphen_values = true)]
    pub(crate) patch: Source,
    /// A new deadline, such as 15m, in place of the one that it has
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub(crate) ttl: Option<Expiry>,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Debug, Group)]
pub(crate) struct Touch {
    /// The key
    #[arg(value_parser = key)]
    pub(crate) key: Key,
    /// How long it lives from now, such as 15m
    #[arg(value_name = "TIME", value_parser = duration)]
    pub(crate) ttl: Duration,
    #[command(flatten)]
    pub(crate) write: Write,
}

/// Make several changes at once, all or none of them
///
/// The operations are those of the API, an object a line or in one array:
/// {"op":"set","key":"a","value":1}
/// {"op":"add","key":"hits","by":1,"ttl":60}
/// {"op":"check","key":"b","if_match":"\"42\""}
/// {"op":"merge","key":"c","patch":{"x":null}}
/// {"op":"touch","key":"d","ttl":60}
/// {"op":"delete","key":"e"}
#[derive(Debug, Group)]
pub(crate) struct Batch {
    /// The operations: JSON text, - for standard input, or @FILE
    #[arg(default_value = "-")]
    pub(crate) operations: Source,
    #[command(flatten)]
    pub(crate) sending: Sending,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Jobs {
    /// List the jobs that wait, or the dead letters
    List {
        /// Those that were given up
        #[arg(long)]
        dead: bool,
    },
    /// Print what became of a job
    Get {
        /// The job
        id: JobId,
        /// How long to wait for its end, up to 60s
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
        wait: Duration,
    },
    /// Try dead letters again, at the end of the order
    Retry(Letters),
    /// Drop dead letters
    Forget(Letters),
}

#[derive(Debug, Group)]
pub(crate) struct Export {
    /// A file that is not there yet, or - for standard output
    pub(crate) to: Option<PathBuf>,
    /// A folder, the URL of a store (file:, redis:, …) or of a server [else: the server of --url]
    #[arg(long, value_name = "PLACE")]
    pub(crate) from: Option<Place>,
    /// What the keys start with
    #[arg(long, default_value = "")]
    pub(crate) prefix: String,
    /// json or ndjson, which keeps deadlines [else: json for a file *.json, ndjson otherwise]
    #[arg(long, value_parser = str::parse::<FileForm>)]
    pub(crate) format: Option<FileForm>,
}

#[derive(Debug, Group)]
pub(crate) struct Import {
    /// A file, - for standard input, a folder, the URL of a store (file:, redis:, …) or of a server
    pub(crate) from: Place,
    /// The URL of a store (file:, redis:, …) or of a server [else: the server of --url]
    #[arg(long, value_name = "PLACE")]
    pub(crate) to: Option<Place>,
    /// Leave keys as they are that are there
    #[arg(long)]
    pub(crate) keep: bool,
    /// json (one object) or ndjson (an object a line with key, value and expires_at) [else: json
    /// for a file *.json, ndjson otherwise]
    #[arg(long, value_parser = str::parse::<FileForm>)]
    pub(crate) format: Option<FileForm>,
    /// A file with the token of the server that is read from; --token-file is for the one written
    /// to
    #[arg(long, value_name = "FILE")]
    pub(crate) from_token_file: Option<PathBuf>,
}

/// A folder to work on.
#[derive(Debug, Group)]
pub(crate) struct Folder {
    /// The folder or its URL
    #[arg(
        value_name = "FOLDER",
        env = "KVSTORE_STORE",
        hide_env_values = true,
        default_value = "file:database"
    )]
    pub(crate) store: String,
}

#[derive(Debug, Group)]
pub(crate) struct Token {
    /// Whose token it is: 1 to 64 letters, digits, dots, dashes and underscores
    #[arg(value_parser = token::name)]
    pub(crate) name: String,
    /// The file to add its line to, made if it is absent; it holds only digests
    #[arg(long, value_name = "FILE", env = "KVSTORE_TOKENS_FILE")]
    pub(crate) tokens_file: PathBuf,
    /// What it permits
    #[arg(long, default_value = "rw")]
    pub(crate) rights: Rights,
    /// What the keys begin with that it reaches, such as team/ [else: all keys]
    #[arg(long, value_name = "PREFIX", value_parser = token::keys)]
    pub(crate) keys: Option<String>,
}

/// What a token permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rights {
    /// To read only
    R,
    /// To read and write
    Rw,
}

impl Rights {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::R => "r",
            Self::Rw => "rw",
        }
    }
}

#[derive(Debug, Group)]
pub(crate) struct Health {
    /// Where the server listens, as it was set up [else: --url]
    #[arg(long, value_name = "ADDRESS", env = "KVSTORE_LISTEN")]
    pub(crate) listen: Option<String>,
    /// Where server or worker answer probes, if that is apart from everything else
    #[arg(long, value_name = "ADDRESS", env = "KVSTORE_ADMIN_LISTEN")]
    pub(crate) admin_listen: Option<String>,
}

/// One or more dead letters, or all of them.
#[derive(Debug, Group)]
pub(crate) struct Letters {
    /// Their jobs
    #[arg(required_unless_present = "all")]
    pub(crate) ids: Vec<JobId>,
    /// Says that dead letters are meant: there are no others yet
    #[arg(long)]
    pub(crate) dead: bool,
    /// All dead letters
    #[arg(long, conflicts_with = "ids", requires = "dead")]
    pub(crate) all: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_is_consistent() {
        Args::command().debug_assert();
    }
}
