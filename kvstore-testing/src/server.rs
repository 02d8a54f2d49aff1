//! The server as a process that keeps its address when it is restarted.

use std::net::SocketAddr;
use std::path::Path;

use crate::process::{Process, server_command};

/// A running server, killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    /// The running program, or the last one.
    pub process: Process,
    args: Vec<String>,
    /// The address at which it serves.
    pub address: SocketAddr,
}

impl Server {
    /// Starts the server with `--store URL` and more arguments, and waits until it serves.
    pub fn start(store: &str, more: &[&str]) -> Self {
        let args = [&["--store", store], more].concat();
        let process = Process::start(&args);
        let address = process.address;
        let args = args.into_iter().map(str::to_owned).collect();
        Self {
            process,
            args,
            address,
        }
    }

    /// Starts the server on a folder.
    pub fn in_folder(folder: &Path, more: &[&str]) -> Self {
        Self::start(&format!("file:{}", folder.display()), more)
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills the server, as abruptly as a power loss.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Restarts a server that was killed, without waiting until it serves.
    pub fn restart(&mut self) {
        let listen = self.address.to_string();
        let mut args = vec!["--listen", &listen];
        args.extend(self.args.iter().map(String::as_str));
        self.process = Process::launch_command(server_command(&args));
    }

    /// Kills the server, and restarts it.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// Asks the server to stop, and returns its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.process.signal("TERM");
        self.process.ended().code()
    }
}
