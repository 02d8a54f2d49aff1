//! The real program as a child process, ended when the test is over.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::tool;

/// Longer than a start or an end takes on a busy machine, so that a test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns a command for the server, with `args` and with no setting from this process's own
/// environment.
pub fn server_command(args: &[&str]) -> Command {
    command("kvstore-http", args)
}

/// Returns a command for the worker, in the same way.
pub fn worker_command(args: &[&str]) -> Command {
    command("kvstore-worker", args)
}

/// Returns a command for the program `kvstore`, in the same way.
pub fn kvstore_command(args: &[&str]) -> Command {
    command("kvstore", args)
}

fn command(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program(name));
    command.args(args);
    clean(command)
}

/// Returns the path of a program of this workspace.
///
/// # Panics
/// If it is not built.
pub fn program(name: &str) -> PathBuf {
    let program = programs().join(name);
    assert!(
        program.exists(),
        "{name} is missing: cargo build --workspace --bins"
    );
    program
}

/// Returns the folder of the programs of this workspace: the one above that of the test.
pub fn programs() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent);
    folder.expect("the folder of a profile").to_owned()
}

/// Removes the settings in this process's environment from a command.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KVSTORE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Returns a command for the server, started by `wrapper`: the words before its name, of a program
/// that becomes it.
pub fn server_command_by(wrapper: &[String], args: &[&str]) -> Command {
    let server = server_command(args);
    let [name, words @ ..] = wrapper else {
        return server;
    };
    let mut command = tool(name);
    command
        .args(words)
        .arg(server.get_program())
        .args(server.get_args());
    clean(command)
}

/// The output of a run that ends by itself.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The text of its standard output.
    pub stdout: String,
    /// The lines of its standard error.
    pub stderr: Vec<String>,
}

/// Returns a command for the server with a limit of open files.
fn with_files(limit: &str, args: &[&str]) -> Command {
    let server = server_command(args);
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!("ulimit {limit}; exec \"$0\" \"$@\""))
        .arg(server.get_program())
        .args(server.get_args());
    clean(shell)
}

/// Runs the program to its end.
pub fn run(args: &[&str], variables: &[(&str, &str)]) -> Ended {
    run_command(server_command(args).envs(variables.iter().copied()))
}

/// Runs `command`, which starts the program, to its end.
pub fn run_command(command: &mut Command) -> Ended {
    let output = command.output().expect("the program is built");
    let text = |bytes| String::from_utf8(bytes).expect("output in UTF-8");
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr).lines().map(str::to_owned).collect(),
    }
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// The fields of each log entry, with its level.
    log: Receiver<serde_json::Value>,
    /// Entries that were read but not yet requested.
    passed: RefCell<Vec<serde_json::Value>>,
    /// The address at which it serves.
    pub address: SocketAddr,
}

impl Process {
    /// Starts it, on a free port unless `args` name one, and waits until it serves.
    pub fn start(args: &[&str]) -> Self {
        Self::spawn(server_command(args))
    }

    /// Starts it as [`Process::start`] does, with a `limit` on open files in the syntax of
    /// `ulimit`.
    pub fn start_with_files(limit: &str, args: &[&str]) -> Self {
        Self::spawn(with_files(limit, args))
    }

    /// Starts it without waiting for anything.
    pub fn launch(args: &[&str]) -> Self {
        Self::launch_command(server_command(args))
    }

    /// Waits until it serves.
    pub fn serves(mut self) -> Self {
        self.address = self.logged_address("serving");
        self
    }

    /// Waits until it serves or has ended. Returns true if it serves.
    pub fn serves_or_ends(&mut self) -> bool {
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(fields) if fields["message"] == "serving" => {
                    let address = fields["address"].as_str().and_then(|it| it.parse().ok());
                    self.address = address.expect("an address");
                    return true;
                }
                Ok(fields) => self.passed.get_mut().push(fields),
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("it neither serves nor ends: {:#?}", self.passed)
                }
            }
        }
    }

    fn spawn(command: Command) -> Self {
        Self::launch_command(command).serves()
    }

    /// Starts `command`: the program, or another one that becomes it.
    pub fn launch_command(mut command: Command) -> Self {
        // A worker does not listen, and warns if it gets this setting.
        if !Path::new(command.get_program()).ends_with("kvstore-worker") {
            command.env("KVSTORE_LISTEN", "127.0.0.1:0");
        }
        let mut child = command
            .env("KVSTORE_LOG_FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is built");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let (send, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // A line that is no log entry comes from before the log was started.
                let fields = match serde_json::from_str::<serde_json::Value>(&line) {
                    Ok(mut entry) => {
                        let mut fields = entry["fields"].take();
                        fields["level"] = entry["level"].take();
                        fields
                    }
                    Err(_) => serde_json::json!({ "message": line, "level": "NONE" }),
                };
                // Keeps reading without a receiver, since the pipe must not fill up.
                let _ = send.send(fields);
            }
        });
        Self {
            child,
            log,
            passed: RefCell::default(),
            address: ([127, 0, 0, 1], 0).into(),
        }
    }

    /// Returns the address in the first log entry with `message`.
    pub fn logged_address(&self, message: &str) -> SocketAddr {
        let fields = self.logged(message);
        fields["address"]
            .as_str()
            .expect("an address")
            .parse()
            .expect("an address")
    }

    /// Returns the fields of the first log entry with `message` that no earlier call has returned.
    pub fn logged(&self, message: &str) -> serde_json::Value {
        let mut passed = self.passed.borrow_mut();
        if let Some(at) = passed
            .iter()
            .position(|fields| fields["message"] == message)
        {
            return passed.remove(at);
        }
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(fields) if fields["message"] == message => return fields,
                Ok(fields) => passed.push(fields),
                Err(error) => panic!("{error}: {message:?} is not among {passed:#?}"),
            }
        }
    }

    /// Returns the log entries of an ended process, except information and warnings, that no
    /// earlier call has returned.
    pub fn errors(&self) -> Vec<serde_json::Value> {
        let mut log = self.whole_log();
        log.retain(|fields| !matches!(fields["level"].as_str(), Some("INFO" | "WARN")));
        log
    }

    /// Returns the log entries of an ended process that no earlier call has returned.
    pub fn whole_log(&self) -> Vec<serde_json::Value> {
        let mut log = self.passed.take();
        log.extend(self.log.iter());
        log
    }

    /// Returns how many of the log entries since then have `message`.
    pub fn count_logged(&self, message: &str) -> usize {
        self.log
            .try_iter()
            .filter(|fields| fields["message"] == message)
            .count()
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let status = tool("kill")
            .args(["-s", name, &self.id().to_string()])
            .status()
            .expect("kill is there");
        assert!(status.success());
    }

    /// Pauses it, and waits until each of its threads has stopped.
    pub fn pause(&self) {
        self.signal("STOP");
        let begun = Instant::now();
        let runs = |thread: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
            // The state follows the name, which is in parentheses.
            !stat.unwrap().rsplit(')').next().unwrap().starts_with(" T")
        };
        let threads = format!("/proc/{}/task", self.id());
        while std::fs::read_dir(&threads).unwrap().any(runs) {
            assert!(begun.elapsed() < PATIENCE, "it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills it, and waits for its end.
    pub fn kill(&mut self) -> ExitStatus {
        self.child.kill().expect("our own child");
        self.ended()
    }

    /// Returns true if it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
