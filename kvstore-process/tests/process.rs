//! Does a process of this workspace end as it should: on one signal, on two, and when it fails?
//!
//! Signals and exit codes belong to a whole process, so this test has a `main` of its own, which
//! starts itself again as the program under test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use kvstore_core::Error;
use kvstore_process::{Failure, Program, Settings, SharedSettings, Shutdown};
use kvstore_testing::tool;

/// Set in the program under test: what it should do.
const ROLE: &str = "PROCESS_TEST_ROLE";

const PROGRAM: Program = Program {
    name: "under-test",
    version: "0",
    about: "Ends in different ways",
    others: &[],
    headings: &[],
    brief: &[],
    settings: &[],
};

fn main() -> ExitCode {
    if let Some(role) = std::env::var_os(ROLE) {
        return kvstore_process::main(&PROGRAM, read, |_, _, shutdown| {
            act(role.into_string().unwrap(), shutdown)
        });
    }
    // A harness's filter and flags are of no use for so short a list.
    let tests = [
        ("one_signal_is_a_request", one_signal_is_a_request as fn()),
        ("two_signals_end_at_once", two_signals_end_at_once),
        ("failure_is_one_line", failure_is_one_line),
        ("log_is_json_when_asked", log_is_json_when_asked),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
    // In the format of a test harness, for scripts that count tests.
    println!(
        "test result: ok. {} passed; 0 failed; 0 ignored",
        tests.len()
    );
    ExitCode::SUCCESS
}

fn read(_: &mut Settings, _: Option<&SharedSettings>) -> Option<()> {
    Some(())
}

async fn act(role: String, shutdown: Shutdown) -> Result<(), Failure> {
    println!("ready");
    match role.as_str() {
        "obeys" => shutdown.requested().await,
        "hangs" => {
            shutdown.requested().await;
            println!("asked");
            std::future::pending().await
        }
        _ => {
            return Err(Error::Unavailable {
                what: "cannot open the folder".to_owned(),
                source: Some(
                    Box::<dyn std::error::Error + Send + Sync>::from("line one\nline two").into(),
                ),
            }
            .into());
        }
    }
    Ok(())
}

struct UnderTest {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl UnderTest {
    fn start(role: &str, args: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(args)
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut started = Self { child, output };
        started.wait_for("ready");
        started
    }

    fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), word);
    }

    fn signal(&self, name: &str) {
        let status = tool("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the exit, at most ten seconds, and returns the exit code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    self.child.kill().unwrap();
                    panic!("it does not end");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (status.code(), said)
    }
}

fn one_signal_is_a_request() {
    for signal in ["TERM", "INT"] {
        let process = UnderTest::start("obeys", &[]);
        process.signal(signal);
        let (code, said) = process.end();
        assert_eq!(code, Some(0), "{signal}: {said}");
        assert!(said.contains("shutting down"), "{said}");
    }
}

fn two_signals_end_at_once() {
    for (signal, expected) in [("TERM", 143), ("INT", 130)] {
        let mut process = UnderTest::start("hangs", &[]);
        process.signal("TERM");
        process.wait_for("asked");
        process.signal(signal);
        let (code, said) = process.end();
        assert_eq!(code, Some(expected), "{signal}: {said}");
    }
}

fn failure_is_one_line() {
    let (code, said) = UnderTest::start("fails", &["--log", "off"]).end();
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said, "error: cannot open the folder: line one line two\n");
}

fn log_is_json_when_asked() {
    let process = UnderTest::start("obeys", &["--log-format", "json"]);
    process.signal("TERM");
    let (_, said) = process.end();
    let line: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["fields"]["signal"], 15);
}
