//! Redis, servers and workers as processes, each of the latter behind a proxy of its own.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;

use super::client::World;
use super::proxy::Proxy;
use kvstore_testing::process::{Process, server_command, worker_command};
use kvstore_testing::redis::RedisServer;

/// The composition of a fleet. Another arrangement of stores and queues needs only another
/// `Config`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// Returns the arguments for store and queue; the address is that of the process' proxy to
    /// Redis.
    pub(crate) arguments: fn(&Self, SocketAddr) -> Vec<String>,
    pub(crate) servers: usize,
    pub(crate) workers: usize,
    pub(crate) clients: usize,
    pub(crate) keys: usize,
    /// Fewer than keys, so that writes to different keys share a log.
    pub(crate) partitions: u16,
    /// Number of processes to kill.
    pub(crate) kills: usize,
    pub(crate) seed: u64,
}

/// The program to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Worker,
}

/// A process and its proxy to Redis.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) proxy: Proxy,
    process: Option<Process>,
    role: Role,
    arguments: Vec<String>,
}

impl Member {
    fn new(role: Role, proxy: Proxy, arguments: Vec<String>) -> Self {
        Self {
            proxy,
            process: None,
            role,
            arguments,
        }
    }

    fn command(&self) -> Command {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        match self.role {
            Role::Server => server_command(&[&arguments[..], &["--worker", "none"]].concat()),
            Role::Worker => worker_command(&arguments),
        }
    }

    /// Starts the process; returns its address if it is a server and has begun to serve.
    pub(crate) fn start(&mut self) -> Option<SocketAddr> {
        let mut process = Process::launch_command(self.command());
        let serves = self.role == Role::Server && process.serves_or_ends();
        let address = process.address;
        self.process = Some(process);
        serves.then_some(address)
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| !process.has_ended())
    }

    /// Kills the process; returns true if it was running.
    pub(crate) fn kill(&mut self) -> bool {
        if !self.runs() {
            return false;
        }
        let was_killed = self
            .process
            .as_mut()
            .is_some_and(|process| process.kill().signal() == Some(9));
        self.look_at_log();
        was_killed
    }

    /// Checks the log of an ended process: no fault may cause a panic.
    pub(crate) fn look_at_log(&mut self) {
        if let Some(process) = self.process.take() {
            let errors = process.errors();
            let has_panicked = |entry: &serde_json::Value| entry.to_string().contains("panicked");
            assert!(!errors.iter().any(has_panicked), "{errors:#?}");
        }
    }

    /// Pauses the process, or resumes it.
    pub(crate) fn stop(&self, is_stopped: bool) {
        let process = self.process.as_ref().expect("it runs");
        process.signal(if is_stopped { "STOP" } else { "CONT" });
    }

    /// Returns true if the kernel reports the process as stopped.
    pub(crate) fn is_really_stopped(&self) -> bool {
        let id = self.process.as_ref().expect("it runs").id();
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('T'))
    }
}

#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) redis: RedisServer,
    pub(crate) servers: Vec<Member>,
    pub(crate) workers: Vec<Member>,
    pub(crate) world: Arc<World>,
}

impl Fleet {
    pub(crate) async fn start(config: &Config) -> Self {
        let redis = RedisServer::start();
        let mut members = Vec::new();
        let roles = [
            (Role::Server, config.servers),
            (Role::Worker, config.workers),
        ];
        for (role, count) in roles {
            for _ in 0..count {
                let proxy = Proxy::start(&redis.socket()).await;
                let arguments = (config.arguments)(config, proxy.address);
                members.push(Member::new(role, proxy, arguments));
            }
        }
        let workers = members.split_off(config.servers);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let world = Arc::new(World::new(vec![nowhere; config.servers], config.keys));
        Self {
            redis,
            servers: members,
            workers,
            world,
        }
    }

    /// Starts each process that does not run, as an orchestrator does; returns how many had ended
    /// without being killed.
    pub(crate) fn start_missing(&mut self) -> usize {
        let mut ended = 0;
        for (at, server) in self.servers.iter_mut().enumerate() {
            if server.runs() {
                continue;
            }
            ended += usize::from(server.process.is_some());
            server.look_at_log();
            if let Some(address) = server.start() {
                self.world.servers.lock().unwrap()[at] = address;
            }
        }
        for worker in &mut self.workers {
            if !worker.runs() {
                ended += usize::from(worker.process.is_some());
                worker.look_at_log();
                worker.start();
            }
        }
        ended
    }

    pub(crate) fn all_run(&mut self) -> bool {
        let mut members = self.servers.iter_mut().chain(&mut self.workers);
        members.all(Member::runs)
    }
}
