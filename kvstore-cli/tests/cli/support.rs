//! The command, alone and against a server.

use std::process::{Command, Stdio};

use kvstore_testing::process::clean;
use kvstore_testing::server::Server;
use kvstore_testing::tool;
use serde_json::Value as Json;

/// The path of the command.
pub(crate) const KVSTORE: &str = env!("CARGO_BIN_EXE_kvstore");

/// The command against a server.
pub(crate) trait Commands {
    fn command(&self, args: &[&str]) -> Command;

    /// Runs the command in a pipe and returns its exit code, its lines and its errors.
    fn run(&self, args: &[&str]) -> Ended;

    /// Runs it and returns its lines as JSON.
    fn lines(&self, args: &[&str]) -> Vec<Json>;

    /// Runs it on a terminal, and returns what that shows.
    fn on_terminal(&self, args: &str, variables: &[(&str, &str)]) -> String;
}

impl Commands for Server {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = clean(Command::new(KVSTORE));
        command.args(args).env("KVSTORE_URL", self.url());
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        ended(&mut self.command(args))
    }

    fn lines(&self, args: &[&str]) -> Vec<Json> {
        let ended = self.run(args);
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.errors);
        ended
            .lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn on_terminal(&self, args: &str, variables: &[(&str, &str)]) -> String {
        let mut command = clean(tool("script"));
        command.args(["-qec", &format!("{KVSTORE} {args}"), "/dev/null"]);
        command
            .env("KVSTORE_URL", self.url())
            .env_remove("NO_COLOR")
            .envs(variables.iter().copied());
        let output = command.stdin(Stdio::null()).output();
        let output = output.unwrap();
        String::from_utf8(output.stdout).unwrap().replace('\r', "")
    }
}

/// Runs the command to its end.
pub(crate) fn kvstore(args: &[&str]) -> Ended {
    ended(clean(Command::new(KVSTORE)).args(args))
}

/// The result of a run that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) lines: Vec<String>,
    pub(crate) errors: String,
}

pub(crate) fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code().unwrap(),
        lines: text(output.stdout).lines().map(str::to_owned).collect(),
        errors: text(output.stderr),
    }
}
