//! The definition of the command line, from which help, completions and man pages are generated.

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

use crate::commands::{Location, token};
use crate::failure::EXIT_CODES;
use crate::input::{ValueSource, change_kind, condition, duration, expiry, key};

/// Reads, writes and watches the entries of a kvstore server, and manages its jobs
#[derive(Debug, Parser)]
#[command(
    name = "kvstore",
    version,
    after_long_help = EXIT_CODES,
    arg_required_else_help = true
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(subcommand)]
    pub(crate) command: Subcommands,
}

/// The server, and how to reach it.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Server and output")]
pub(crate) struct ServerArgs {
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
    /// How long to retry while the server is unreachable
    #[arg(long, global = true, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(crate) retry_for: Duration,
    /// How to print [else: a table on a terminal, JSON lines in a pipe]
    #[arg(long, short, global = true, value_name = "FORM")]
    pub(crate) output: Option<OutputForm>,
}

impl ServerArgs {
    pub(crate) fn url(&self) -> ServerUrl {
        let default = || "http://127.0.0.1:8000".parse().expect("it is a URL");
        self.url.clone().unwrap_or_else(default)
    }

    /// Returns the same settings for another server.
    pub(crate) fn at(self, url: ServerUrl) -> Self {
        Self {
            url: Some(url),
            ..self
        }
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputForm {
    /// For people
    Table,
    /// One JSON object per line, for programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Subcommands {
    /// Print the values of keys
    Get(GetArgs),
    /// Set the value of a key
    Set(SetArgs),
    /// Delete keys
    Delete(DeleteArgs),
    /// List keys
    List(ListArgs),
    /// Print changes as they happen; reconnects by itself
    Watch(WatchArgs),
    /// Add to the integer under a key, and print the sum
    Add(AddArgs),
    /// Merge a JSON object into a value (RFC 7396)
    Merge(MergeArgs),
    /// Set a new deadline for an entry
    Touch(TouchArgs),
    /// Make several changes at once, all or none of them
    Batch(BatchArgs),
    /// Show jobs, and retry or drop dead letters
    #[command(subcommand)]
    Jobs(JobsArgs),
    /// Print how many jobs wait in the queue, and for how long
    Queue,
    /// Write all entries of a server, folder or store to a file or standard output
    Export(ExportArgs),
    /// Copy entries from anywhere to a server, folder or store; run again, it continues where it
    /// ended
    Import(ImportArgs),
    /// Check every byte of a folder, change nothing, and print what a repair would lose
    Verify(FolderArgs),
    /// Repair a damaged folder, as verify announced, and keep damaged files as FILE.removed-N
    Repair(FolderArgs),
    /// Print the state of a folder and its queue; works while a server runs
    Status(FolderArgs),
    /// Bring data.json up to date with the journals of a folder that no server has open
    Compact(FolderArgs),
    /// Create a token: add its line to the file of the server's --tokens-file, and print the token
    Token(TokenArgs),
    /// Check that a server or worker on this machine is ready: exit code 0 if it is, else 1
    Health(HealthArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages into a folder
    Man {
        /// The folder, which must exist
        folder: PathBuf,
    },
}

#[derive(Debug, Group)]
pub(crate) struct GetArgs {
    /// The keys
    #[arg(required = true, value_parser = key)]
    pub(crate) keys: Vec<Key>,
    /// Print keys, etags and deadlines as well
    #[arg(long)]
    pub(crate) meta: bool,
    /// Print strings without their quotes
    #[arg(long, short, conflicts_with = "meta")]
    pub(crate) raw: bool,
}

/// How a write is sent.
#[derive(Debug, Group)]
pub(crate) struct Sending {
    /// How long to wait until it is applied, up to 60s; after that it stays queued, and will be
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration, help_heading = "Sending")]
    pub(crate) wait: Duration,
    /// Return as soon as it is durable in the queue
    #[arg(long, conflicts_with = "wait", help_heading = "Sending")]
    pub(crate) no_wait: bool,
    /// A key that makes repetitions of this write the same job; by default a random key makes this
    /// run's own retries safe
    #[arg(long, value_name = "KEY", help_heading = "Sending")]
    pub(crate) idempotency_key: Option<String>,
}

/// How one key is written.
#[derive(Debug, Group)]
pub(crate) struct WriteArgs {
    /// Only if the key has this etag; * if it is present
    #[arg(long, value_name = "ETAG", value_parser = condition)]
    pub(crate) if_match: Option<Condition>,
    #[command(flatten)]
    pub(crate) sending: Sending,
}

#[derive(Debug, Group)]
pub(crate) struct SetArgs {
    /// The key
    #[arg(value_parser = key)]
    pub(crate) key: Key,
    /// The value: JSON text, - for standard input, or @FILE
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: ValueSource,
    /// The value is plain text, to be stored as a JSON string
    #[arg(long)]
    pub(crate) text: bool,
    /// Only if the key is absent
    #[arg(long, conflicts_with = "if_match")]
    pub(crate) if_absent: bool,
    /// Its time to live, such as 15m, 7d or 90 (seconds); keep for its current deadline
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub(crate) ttl: Option<Expiry>,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

#[derive(Debug, Group)]
pub(crate) struct DeleteArgs {
    /// The keys
    #[arg(required_unless_present = "prefix", value_parser = key)]
    pub(crate) keys: Vec<Key>,
    /// All keys with this prefix, instead of single ones
    #[arg(long, conflicts_with_all = ["keys", "if_match", "wait", "no_wait", "idempotency_key"])]
    pub(crate) prefix: Option<String>,
    /// Confirms an empty prefix: every key of the server
    #[arg(long, requires = "prefix")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

#[derive(Debug, Group)]
pub(crate) struct ListArgs {
    /// The prefix of the keys
    #[arg(default_value = "")]
    pub(crate) prefix: String,
    /// Print a tree of the parts between slashes, even in a pipe
    #[arg(long, conflicts_with_all = ["count", "fold"])]
    pub(crate) tree: bool,
    /// Print one line for all keys with the same part between the prefix and this delimiter
    #[arg(long, value_name = "DELIMITER", num_args = 0..=1, default_missing_value = "/", conflicts_with = "count")]
    pub(crate) fold: Option<String>,
    /// Print only the number of keys
    #[arg(long)]
    pub(crate) count: bool,
    /// Print values as well
    #[arg(long, short, conflicts_with_all = ["count", "fold"])]
    pub(crate) values: bool,
    /// The maximum number of keys to print
    #[arg(long, value_name = "N", conflicts_with = "count")]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, Group)]
pub(crate) struct WatchArgs {
    /// The prefix of the keys
    #[arg(default_value = "")]
    pub(crate) prefix: String,
    /// Print the existing entries first
    #[arg(long, short)]
    pub(crate) snapshot: bool,
    /// Print values as well
    #[arg(long, short)]
    pub(crate) values: bool,
    /// Only these kinds of changes: set, delete, expire
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = change_kind)]
    pub(crate) events: Vec<ChangeKind>,
    /// Begin after the change with this id
    #[arg(long, value_name = "ID", value_parser = |text: &str| Ok::<_, String>(ChangeId::new(text)))]
    pub(crate) since: Option<ChangeId>,
}

#[derive(Debug, Group)]
pub(crate) struct AddArgs {
    /// The key; absent counts as 0
    #[arg(value_parser = key)]
    pub(crate) key: Key,
    /// What to add
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) by: i64,
    /// The time to live of a new counter, such as 60s; an existing one keeps its deadline
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub(crate) ttl: Option<Expiry>,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

#[derive(Debug, Group)]
pub(crate) struct MergeArgs {
    /// The key
    #[arg(value_parser = key)]
    pub(crate) key: Key,
    /// The patch: JSON text, - for standard input, or @FILE
    #[arg(allow_hyphen_values = true)]
    pub(crate) patch: ValueSource,
    /// A new time to live, such as 15m, instead of the current deadline
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub(crate) ttl: Option<Expiry>,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

#[derive(Debug, Group)]
pub(crate) struct TouchArgs {
    /// The key
    #[arg(value_parser = key)]
    pub(crate) key: Key,
    /// Its time to live from now, such as 15m
    #[arg(value_name = "TIME", value_parser = duration)]
    pub(crate) ttl: Duration,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

/// Make several changes at once, all or none of them
///
/// The operations are those of the API, one object per line or one array:
/// {"op":"set","key":"a","value":1}
/// {"op":"add","key":"hits","by":1,"ttl":60}
/// {"op":"check","key":"b","if_match":"\"42\""}
/// {"op":"merge","key":"c","patch":{"x":null}}
/// {"op":"touch","key":"d","ttl":60}
/// {"op":"delete","key":"e"}
#[derive(Debug, Group)]
pub(crate) struct BatchArgs {
    /// The operations: JSON text, - for standard input, or @FILE
    #[arg(default_value = "-")]
    pub(crate) operations: ValueSource,
    #[command(flatten)]
    pub(crate) sending: Sending,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsArgs {
    /// List the waiting jobs, or the dead letters
    List {
        /// List the dead letters
        #[arg(long)]
        dead: bool,
    },
    /// Print the state of a job
    Get {
        /// The job
        id: JobId,
        /// How long to wait until it is finished, up to 60s
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
        wait: Duration,
    },
    /// Retry dead letters, after the jobs that already wait
    Retry(Letters),
    /// Drop dead letters
    Forget(Letters),
}

#[derive(Debug, Group)]
pub(crate) struct ExportArgs {
    /// A file that does not exist yet, or - for standard output
    pub(crate) to: Option<PathBuf>,
    /// A folder, the URL of a store (file:, redis:, …) or of a server [else: the server of --url]
    #[arg(long, value_name = "PLACE")]
    pub(crate) from: Option<Location>,
    /// The prefix of the keys
    #[arg(long, default_value = "")]
    pub(crate) prefix: String,
    /// json or ndjson, which keeps deadlines [else: json for a file *.json, ndjson otherwise]
    #[arg(long, value_parser = str::parse::<FileForm>)]
    pub(crate) format: Option<FileForm>,
}

#[derive(Debug, Group)]
pub(crate) struct ImportArgs {
    /// A file, - for standard input, a folder, the URL of a store (file:, redis:, …) or of a server
    pub(crate) from: Location,
    /// The URL of a store (file:, redis:, …) or of a server [else: the server of --url]
    #[arg(long, value_name = "PLACE")]
    pub(crate) to: Option<Location>,
    /// Leave existing keys unchanged
    #[arg(long)]
    pub(crate) keep: bool,
    /// json (one object) or ndjson (one object per line with key, value and expires_at) [else: json
    /// for a file *.json, ndjson otherwise]
    #[arg(long, value_parser = str::parse::<FileForm>)]
    pub(crate) format: Option<FileForm>,
    /// A file with the token for the server that is read; --token-file is for the one that is
    /// written
    #[arg(long, value_name = "FILE")]
    pub(crate) from_token_file: Option<PathBuf>,
}

/// A folder to work on.
#[derive(Debug, Group)]
pub(crate) struct FolderArgs {
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
pub(crate) struct TokenArgs {
    /// The name of its owner: 1 to 64 letters, digits, dots, dashes and underscores
    #[arg(value_parser = token::name)]
    pub(crate) name: String,
    /// The file to add its line to, created if it is absent; it holds only digests
    #[arg(long, value_name = "FILE", env = "KVSTORE_TOKENS_FILE")]
    pub(crate) tokens_file: PathBuf,
    /// Its permissions
    #[arg(long, default_value = "rw")]
    pub(crate) rights: Rights,
    /// The prefix of the keys that it can access, such as team/ [else: all keys]
    #[arg(long, value_name = "PREFIX", value_parser = token::keys)]
    pub(crate) keys: Option<String>,
}

/// The permissions of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rights {
    /// Read only
    R,
    /// Read and write
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
pub(crate) struct HealthArgs {
    /// The server's --listen setting [else: --url]
    #[arg(long, value_name = "ADDRESS", env = "KVSTORE_LISTEN")]
    pub(crate) listen: Option<String>,
    /// The --admin-listen setting of the server or worker, if it has one
    #[arg(long, value_name = "ADDRESS", env = "KVSTORE_ADMIN_LISTEN")]
    pub(crate) admin_listen: Option<String>,
}

/// One or more dead letters, or all of them.
#[derive(Debug, Group)]
pub(crate) struct Letters {
    /// Their jobs
    #[arg(required_unless_present = "all")]
    pub(crate) ids: Vec<JobId>,
    /// Selects dead letters, the only jobs that this works on
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
