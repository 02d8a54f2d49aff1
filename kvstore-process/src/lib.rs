//! What the programs need around the library: settings, log output, signals, and exit codes.
//!
//! A binary consists of a table of its own settings, a function that reads them, and one that runs:
//!
//! ```no_run
//! use std::net::SocketAddr;
//! use kvstore_process::{Failure, Fallback, Program, Setting, Settings, SharedSettings, Shutdown};
//!
//! const LISTEN: Setting = Setting {
//!     flag: "listen", // and KVSTORE_LISTEN
//!     value: "ADDRESS",
//!     default: Fallback::Value("127.0.0.1:8000"),
//!     allowed: "an address with a port, such as 127.0.0.1:8000",
//!     help: "Where to serve HTTP",
//! };
//! const READ_ONLY: Setting = Setting {
//!     flag: "read-only",
//!     value: "", // a switch
//!     default: Fallback::Value("false"),
//!     allowed: "true or false",
//!     help: "Refuse writes",
//! };
//! const PROGRAM: Program = Program {
//!     name: "example",
//!     version: env!("CARGO_PKG_VERSION"),
//!     about: "Shows how a binary is made",
//!     settings: &[LISTEN, READ_ONLY],
//!     others: &[],
//!     headings: &[],
//!     brief: &["listen"],
//! };
//!
//! struct Own {
//!     listen: SocketAddr,
//!     read_only: bool,
//! }
//!
//! /// Reads every setting first, so that every wrong value is reported, then combines them.
//! fn read(settings: &mut Settings, shared: Option<&SharedSettings>) -> Option<Own> {
//!     let listen = settings.get(&LISTEN, str::parse::<SocketAddr>);
//!     let read_only = settings.switch(&READ_ONLY);
//!     if let (Some(listen), Some(shared)) = (listen, shared)
//!         && shared.admin_listen == Some(listen)
//!     {
//!         settings.refuse(&LISTEN, "it is the admin address, too");
//!     }
//!     Some(Own { listen: listen?, read_only: read_only? })
//! }
//!
//! async fn run(shared: SharedSettings, own: Own, shutdown: Shutdown) -> Result<(), Failure> {
//!     let listener = kvstore_process::bind(own.listen).await?;
//!     tracing::info!(address = %listener.local_addr()?, own.read_only, "listening");
//!     shutdown.requested().await;
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     kvstore_process::main(&PROGRAM, read, run)
//! }
//! ```
//!
//! Its exit code is 0 after a normal shutdown; 2, with a line for each wrong setting, before
//! anything is opened or bound; 1, with one line `error: …`, if it cannot start or continue; and
//! 128 + the signal's number after a second signal.

mod notify;
mod settings;
mod shared;
mod waiting;

use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use kvstore_core::error::{Error, in_one_line};
pub use kvstore_core::open::bytes;
pub use notify::notify_ready;
pub use settings::{Fallback, Program, Setting, Settings, address, duration, within};
pub use shared::{LogFormat, STORE, SharedSettings};
pub use waiting::Waiting;

/// Why a program cannot start or continue. Any error converts into it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The exit code for wrong settings.
const WRONG_SETTINGS: u8 = 2;

/// Runs a program from its arguments to its exit code: see the crate's page. SIGHUP never ends it.
pub fn main<T, F>(
    program: &Program,
    read: impl FnOnce(&mut Settings, Option<&SharedSettings>) -> Option<T>,
    run: impl FnOnce(SharedSettings, T, Shutdown) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), Failure>>,
{
    // First of all, so that SIGHUP is fatal at no moment.
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let found = Settings::find(
        program,
        shared::SETTINGS,
        std::env::args_os(),
        std::env::vars_os(),
    );
    let mut settings = match found {
        Ok(settings) => settings,
        // Includes --help and --version, which print to standard output and exit with 0.
        Err(error) => error.exit(),
    };
    let shared = SharedSettings::read(&mut settings);
    let own = read(&mut settings, shared.as_ref());
    let is_json = shared
        .as_ref()
        .is_some_and(|shared| shared.log_format == LogFormat::Json && !settings.wants_print());
    if let Some(shared) = shared.as_ref().filter(|_| is_json) {
        start_log(shared);
    }
    // A line for a machine if it reads the log, and otherwise for a person.
    let warn = |warning: &str| match is_json {
        true => tracing::warn!("{warning}"),
        false => say(&format!("warning: {warning}")),
    };
    let fail = |error: &str| match is_json {
        true => tracing::error!("{error}"),
        false => say(&format!("error: {error}")),
    };
    for warning in settings.warnings() {
        warn(warning);
    }
    for problem in settings.problems() {
        fail(problem);
    }
    if settings.wants_print() {
        // A reader that has gone away, as with `| head -1`, is no failure.
        let _ = write!(std::io::stdout(), "{settings}");
    }
    let (Some(shared), Some(own), []) = (shared, own, settings.problems()) else {
        return ExitCode::from(WRONG_SETTINGS);
    };
    if settings.wants_print() {
        return ExitCode::SUCCESS;
    }
    if !is_json {
        start_log(&shared);
    }
    match block_on(runtime, |shutdown| run(shared, own, shutdown)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fail(&in_one_line(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Creates the runtime. From then on SIGHUP does not end the process.
fn runtime() -> std::io::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(async { on_hangup(|| tracing::info!("SIGHUP: checking for changed files")) })?;
    Ok(runtime)
}

fn block_on<F>(runtime: Runtime, run: impl FnOnce(Shutdown) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let ended = runtime.block_on(async { run(Shutdown::on_signals()?).await });
    // `run` has finished everything that must be finished. A thread that hangs in a system call
    // must not keep the process alive.
    runtime.shutdown_background();
    ended
}

/// Starts the log, on standard error; standard output is for requested output.
fn start_log(shared: &SharedSettings) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&shared.log))
        .with_writer(std::io::stderr);
    // Fails only if a log was started before, which then stays in place.
    let _ = match shared.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => {
            std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panicked")));
            log.json().try_init()
        }
    };
}

/// Listens on `address`.
///
/// # Errors
/// [`Error::Unavailable`], which names the address, if it is in use, not one of this machine, or
/// not permitted.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Error::Unavailable {
            what: format!("cannot listen on {address}"),
            source: Some(Arc::new(error)),
        })
}

/// The request to shut down. Each clone can be awaited.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Listens for SIGTERM (from a supervisor: systemd, Kubernetes, `docker stop`) and SIGINT
    /// (Ctrl-C in a terminal). The first signal requests a shutdown; the second ends the process at
    /// once, which is safe: everything acknowledged is durable.
    fn on_signals() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            let first = either(&mut terminate, &mut interrupt).await;
            tracing::info!(
                signal = first.as_raw_value(),
                "shutting down; a second signal ends at once"
            );
            notify::notify_stopping();
            // Without a receiver the program no longer waits for it.
            let _ = sender.send(true);
            let second = either(&mut terminate, &mut interrupt).await;
            std::process::exit(128 + second.as_raw_value());
        });
        Ok(Self(receiver))
    }

    /// Waits until a shutdown is requested.
    pub async fn requested(mut self) {
        // An error means that the listening task has ended with the runtime, which is a shutdown as
        // well.
        let _ = self.0.wait_for(|requested| *requested).await;
    }
}

/// Calls `act` on every SIGHUP, which by convention asks a program to read its files again, and
/// ends one that does not handle it. Must be called within a runtime.
///
/// # Errors
/// If the signal cannot be handled.
pub fn on_hangup(act: impl Fn() + Send + 'static) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            act();
        }
    });
    Ok(())
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
}

/// Writes one line to standard error, which may be closed.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
