//! How a failed run ends: with a line that says what to do, and an exit code.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use kvstore_core::Error;
use kvstore_core::error::in_one_line;

/// The exit codes, for the help.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed for another reason, which standard error names
  2  wrong arguments or input
  3  a requested key, job or folder is absent
  4  a condition did not hold (--if-match, --if-absent, check)
  5  the server cannot be reached or cannot do it now; nothing changed
  6  it is unknown whether the write took effect
  7  the token does not permit it";

/// Why a run failed.
#[derive(Debug)]
pub(crate) enum CommandFailure {
    Store(Error),
    /// Interrupted; completed work stays.
    Interrupted {
        failure: Box<CommandFailure>,
        done: String,
    },
    /// Any other reason.
    Failed(String),
    Usage(String),
    /// Something requested is absent; the rest of the output is valid.
    Absent(String),
    /// Standard output cannot be written. What the command does may be done by then.
    Io(io::Error),
}

impl From<Error> for CommandFailure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for CommandFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl CommandFailure {
    /// Prints to standard error what is wrong and what to do, and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if let Self::Io(error) = &self
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            // The reader has closed the pipe, as with `| head -1`.
            return ExitCode::SUCCESS;
        }
        let (code, text) = self.code_and_text();
        let label = match crate::output::is_colored() && io::stderr().is_terminal() {
            true => "\x1b[1;31merror\x1b[0m",
            false => "error",
        };
        #[expect(clippy::print_stderr, reason = "errors go to standard error")]
        {
            eprintln!("{label}: {text}");
        }
        ExitCode::from(code)
    }

    fn code_and_text(self) -> (u8, String) {
        match self {
            Self::Io(error) => (1, format!("standard output cannot be written: {error}")),
            Self::Failed(text) => (1, text),
            Self::Usage(text) => (2, text),
            Self::Absent(text) => (3, text),
            Self::Interrupted { failure, done } => match *failure {
                // "Nothing was changed" would not be true here.
                Self::Store(error) => (
                    advice(&error).0,
                    format!("{}\n  {done}", in_one_line(&error)),
                ),
                failure => {
                    let (code, text) = failure.code_and_text();
                    (code, format!("{text}\n  {done}"))
                }
            },
            Self::Store(error) => {
                let (code, advice) = advice(&error);
                let text = in_one_line(&error);
                match advice {
                    "" => (code, text),
                    advice => (code, format!("{text}\n  {advice}")),
                }
            }
        }
    }
}

fn advice(error: &Error) -> (u8, &'static str) {
    match error {
        Error::Invalid { .. }
        | Error::TooLarge { .. }
        | Error::CrossPartition { .. }
        | Error::KeyReused => (2, ""),
        Error::Config(_) => (2, ""),
        Error::NotFound { .. } => (3, ""),
        Error::Conflict { .. } => (
            4,
            "nothing was changed: read it with `kvstore get --meta KEY`, then decide",
        ),
        Error::Unavailable { what, .. } if what.contains("cannot be reached") => (
            5,
            "nothing was changed: start a server with `kvstore-http`, or name one with --url or \
             KVSTORE_URL, such as http://127.0.0.1:8000",
        ),
        Error::Unavailable { .. } | Error::NotYetVisible { .. } | Error::Full { .. } => {
            (5, "nothing was changed: try again later")
        }
        Error::StorageFull { .. } => (
            5,
            "nothing was changed: delete something, or give the server more space",
        ),
        Error::Unknown { .. } => (
            6,
            "read before you repeat it, or repeat it with the same --idempotency-key",
        ),
        Error::Denied { .. } => (
            7,
            "give a token that permits it, with --token-file FILE or in KVSTORE_TOKEN",
        ),
        Error::DeadLettered { .. } => (
            1,
            "`kvstore jobs list --dead` shows it; remove the cause, then `kvstore jobs retry ID`",
        ),
        Error::Locked { .. } => (
            1,
            "stop that process first; a server that has the folder open is written to by its URL, \
             such as `kvstore import FILE --to http://127.0.0.1:8000`",
        ),
        Error::Compacted => (
            1,
            "begin again with --snapshot, which shows the current entries",
        ),
        _ => (1, ""),
    }
}
