//! Running servers and the command, as processes.
#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kvstore_testing::tool;
use serde_json::Value as Json;

/// A running server, killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) child: Child,
    args: Vec<String>,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start(folder: &Path, more: &[&str]) -> Self {
        Self::start_on(&format!("file:{}", folder.display()), more)
    }

    pub(crate) fn start_on(store: &str, more: &[&str]) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = port.local_addr().unwrap();
        drop(port);
        let (store, listen) = (store.to_owned(), address.to_string());
        let mut args = vec!["--store".to_owned(), store, "--listen".to_owned(), listen];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let child = Self::spawn(&args, address);
        Self {
            child,
            args,
            address,
        }
    }

    pub(crate) fn spawn(args: &[String], address: SocketAddr) -> Child {
        let program = Path::new(env!("CARGO_BIN_EXE_kvstore")).with_file_name("kvstore-http");
        assert!(
            program.exists(),
            "the server is missing: cargo build --workspace --bins"
        );
        let mut command = clean(Command::new(program));
        command
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "it does not serve"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(&self.args, self.address);
    }

    /// Asks it to stop, and returns its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(tool("kill").arg(id).status().unwrap().success());
        self.child.wait().unwrap().code()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = clean(Command::new(env!("CARGO_BIN_EXE_kvstore")));
        command
            .args(args)
            .env("KVSTORE_URL", format!("http://{}", self.address));
        command
    }

    /// Runs the command in a pipe and returns its exit code, its lines and its errors.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        ended(&mut self.command(args))
    }

    /// Runs it and returns its lines as JSON.
    pub(crate) fn lines(&self, args: &[&str]) -> Vec<Json> {
        let ended = self.run(args);
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.errors);
        ended
            .lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Runs it on a terminal, and returns what that shows.
    pub(crate) fn on_terminal(&self, args: &str, variables: &[(&str, &str)]) -> String {
        let program = env!("CARGO_BIN_EXE_kvstore");
        let mut command = clean(tool("script"));
        let url = format!("http://{}", self.address);
        command.args(["-qec", &format!("{program} {args}"), "/dev/null"]);
        command
            .env("KVSTORE_URL", url)
            .env_remove("NO_COLOR")
            .envs(variables.iter().copied());
        let output = command.stdin(Stdio::null()).output();
        let output = output.unwrap();
        String::from_utf8(output.stdout).unwrap().replace('\r', "")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes the settings in this process's environment from a command.
pub(crate) fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KVSTORE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the command to its end.
pub(crate) fn kvstore(args: &[&str]) -> Ended {
    ended(clean(Command::new(env!("CARGO_BIN_EXE_kvstore"))).args(args))
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

/// A Redis server on a socket in a folder of its own, ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Redis {
    folder: tempfile::TempDir,
    child: Child,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let child = tool("redis-server")
            .args([
                "--port",
                "0",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ])
            .args(["--maxmemory-policy", "noeviction", "--unixsocket"])
            .arg(&socket)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Self { folder, child };
        let begun = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "no Redis");
            std::thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    /// Returns the URL of a store there.
    pub(crate) fn url(&self) -> String {
        format!(
            "redis+unix://{}",
            self.folder.path().join("socket").display()
        )
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
