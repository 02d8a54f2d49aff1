//! Does systemd, or another supervisor with its protocol, learn when a program serves and when it
//! ends? And is the unit in `contrib/` valid, does it confine the program, and does its command
//! line serve?

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::tokens::add_token;
use kvstore_testing::client::{Connection, request};
use kvstore_testing::process::{Process, server_command, server_command_by, worker_command};
use kvstore_testing::redis::RedisServer;
use kvstore_testing::tool;
use tempfile::TempDir;

const UNIT: &str = include_str!("../../../contrib/kvstore.service");

/// Longer than a start or an end takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The socket of a supervisor.
struct Supervisor(UnixDatagram);

impl Supervisor {
    fn bind(socket: &Path) -> Self {
        Self::with(UnixDatagram::bind(socket).unwrap())
    }

    fn with(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Waits for the next notification, and returns its lines.
    fn notice(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("a notice");
        let text = str::from_utf8(&buffer[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn has_heard_nothing(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let heard = self.0.recv(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        heard.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

fn url(folder: &Path) -> String {
    format!("file:{}", folder.join("database").display())
}

#[tokio::test]
async fn supervisor_learns_when_the_server_serves_and_that_it_was_asked_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let supervisor = Supervisor::bind(&socket);
    let mut server = server_command(&["--store", &url(folder.path())]);
    server.env("NOTIFY_SOCKET", &socket);
    let mut server = Process::launch_command(server).serves();
    // Ready means that requests are answered.
    let put = request("PUT", "/v1/kv/a").body("1");
    let mut connection = Connection::open(server.address).await;
    assert_eq!(connection.ask(&put).await.status, 201);
    let status = format!("STATUS=serving on {}", server.address);
    assert_eq!(supervisor.notice(), ["READY=1", &status]);
    assert!(supervisor.has_heard_nothing(), "it was not asked to end");
    server.signal("TERM");
    assert_eq!(supervisor.notice()[0], "STOPPING=1");
    assert_eq!(server.ended().code(), Some(0));
    assert_eq!(server.errors(), [""; 0]);
}

#[test]
fn supervisor_allows_for_a_wait_and_is_not_told_that_the_process_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start();
    redis.kill();
    for mut program in [
        server_command(&["--store", &redis.url()]),
        worker_command(&["--store", &redis.url()]),
    ] {
        let socket = folder
            .path()
            .join(program.get_program().to_str().unwrap().replace('/', "_"));
        let supervisor = Supervisor::bind(&socket);
        program.env("NOTIFY_SOCKET", &socket);
        let mut process = Process::launch_command(program);
        for _ in 0..2 {
            let notice = supervisor.notice();
            assert!(notice[0].starts_with("EXTEND_TIMEOUT_USEC="), "{notice:?}");
            assert!(
                notice[1].starts_with("STATUS=waiting: Redis at "),
                "{notice:?}"
            );
        }
        redis.restart();
        let ready = std::iter::repeat_with(|| supervisor.notice());
        let ready = ready.skip_while(|notice| notice[0].starts_with("EXTEND"));
        assert_eq!(ready.take(1).last().unwrap()[0], "READY=1");
        process.signal("TERM");
        assert_eq!(process.ended().code(), Some(0));
        redis.kill();
    }
}

#[test]
fn supervisor_learns_of_a_worker_that_works_or_stands_by() {
    let folder = tempfile::tempdir().unwrap();
    let (store, redis) = (url(folder.path()), RedisServer::start());
    // A name in the abstract namespace, as in containers.
    let name = format!("kvstore-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let supervisor = Supervisor::with(UnixDatagram::bind_addr(&address).unwrap());
    let start = || {
        let mut worker = worker_command(&["--store", &store, "--queue", &redis.url()]);
        worker.env("NOTIFY_SOCKET", format!("@{name}"));
        Process::launch_command(worker)
    };
    let mut first = start();
    assert_eq!(
        supervisor.notice(),
        ["READY=1", "STATUS=applying what waits"]
    );
    let mut second = start();
    assert_eq!(
        supervisor.notice(),
        ["READY=1", "STATUS=standing by until the folder is free"]
    );
    first.signal("TERM");
    assert_eq!(supervisor.notice()[0], "STOPPING=1");
    assert_eq!(first.ended().code(), Some(0));
    assert_eq!(
        supervisor.notice(),
        ["READY=1", "STATUS=applying what waits"]
    );
    second.signal("TERM");
    assert_eq!(supervisor.notice()[0], "STOPPING=1");
    assert_eq!(second.ended().code(), Some(0));
}

#[tokio::test]
async fn supervisor_that_is_gone_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server_command(&["--store", &url(folder.path())]);
    server.env("NOTIFY_SOCKET", folder.path().join("nothing"));
    let server = Process::launch_command(server).serves();
    let warning = server.logged("cannot notify the supervisor");
    assert_eq!(warning["level"], "WARN");
    let mut connection = Connection::open(server.address).await;
    let reply = connection.ask(&request("GET", "/livez")).await;
    assert_eq!(reply.status, 200);
}

/// Returns the values of a setting in the unit, in order.
fn unit(setting: &str) -> Vec<&str> {
    let lines = UNIT.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == setting)
        .map(|(_, value)| value)
        .collect()
}

/// Returns a command for the unit's program with the unit's environment. Paths of the machine are
/// placed in `folder`.
fn started_as_by_the_unit(wrapper: &[String], folder: &Path) -> Command {
    let [line] = unit("ExecStart")[..] else {
        panic!("not one command line");
    };
    let (program, args) = line.split_once(' ').unwrap_or((line, ""));
    assert_eq!(program, "/usr/local/bin/kvstore-http");
    let args: Vec<_> = args.split_whitespace().collect();
    let mut command = server_command_by(wrapper, &args);
    for variable in unit("Environment") {
        let (name, value) = variable.split_once('=').unwrap();
        let value = value
            .replace("/var/lib/kvstore", &folder.display().to_string())
            .replace("/etc/kvstore", &folder.display().to_string());
        command.env(name, value);
    }
    command
}

/// Creates a folder with a token file; returns the token's header as well.
fn machine() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let secret = add_token(&folder.path().join("tokens"), "ops", "rw", "");
    (folder, format!("Bearer {secret}"))
}

/// Returns the system calls that the unit permits.
fn allowed_calls() -> BTreeSet<String> {
    fn add(set: &str, calls: &mut BTreeSet<String>) {
        let listed = tool("systemd-analyze")
            .args(["syscall-filter", "--no-pager", set])
            .output()
            .unwrap();
        assert!(listed.status.success(), "{set}: {listed:?}");
        let text = String::from_utf8(listed.stdout).unwrap();
        for line in text.lines().map(str::trim) {
            match line {
                // The name of the set itself comes first.
                _ if line == set || line.is_empty() || line.starts_with('#') => {}
                _ if line.starts_with('@') => add(line, calls),
                _ => drop(calls.insert(line.to_owned())),
            }
        }
    }
    let mut allowed = BTreeSet::new();
    for filter in unit("SystemCallFilter") {
        let mut calls = BTreeSet::new();
        let (takes_away, sets) = filter
            .strip_prefix('~')
            .map_or((false, filter), |it| (true, it));
        for set in sets.split_whitespace() {
            add(set, &mut calls);
        }
        match takes_away {
            true => allowed.retain(|call| !calls.contains(call)),
            false => allowed.append(&mut calls),
        }
    }
    allowed
}

#[tokio::test]
async fn command_line_of_the_unit_serves_within_the_system_calls_that_it_allows() {
    let (folder, bearer) = machine();
    let trace = folder.path().join("trace");
    // `-f` follows the threads; `-D` keeps the traced process a child of its original parent.
    let words = ["strace", "-D", "-f", "-qq", "--signal=none", "-o"];
    let mut wrapper: Vec<_> = words.map(str::to_owned).into();
    wrapper.push(trace.display().to_string());
    let mut server = started_as_by_the_unit(&wrapper, folder.path());
    let socket = folder.path().join("notify");
    let supervisor = Supervisor::bind(&socket);
    server.env("NOTIFY_SOCKET", &socket);
    let mut server = Process::launch_command(server).serves();
    assert_eq!(unit("Type"), ["notify"]);
    assert_eq!(supervisor.notice()[0], "READY=1");

    let mut connection = Connection::open(server.address).await;
    let put = || request("PUT", "/v1/kv/a").body("1");
    assert_eq!(connection.ask(&put()).await.status, 401);
    let put = put().header("authorization", &bearer);
    assert_eq!(connection.ask(&put).await.status, 201);
    assert_eq!(unit("ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    server.signal("HUP");
    server.logged("the tokens were read again");
    server.signal("TERM");
    assert_eq!(supervisor.notice()[0], "STOPPING=1");
    assert_eq!(server.ended().code(), Some(0));
    let data = folder.path().join("database/data.json");
    let data: serde_json::Value = serde_json::from_slice(&std::fs::read(data).unwrap()).unwrap();
    assert_eq!(data, serde_json::json!({"a": 1}));

    let allowed = allowed_calls();
    assert!(allowed.contains("fdatasync") && !allowed.contains("mount"));
    let trace = std::fs::read_to_string(trace).unwrap();
    let calls = trace.lines().filter_map(|line| {
        let (_thread, call) = line.split_once(' ')?;
        let (name, _) = call.trim_start().split_once('(')?;
        name.bytes()
            .all(|it| it.is_ascii_alphanumeric() || it == b'_')
            .then_some(name)
    });
    let used: BTreeSet<_> = calls.map(str::to_owned).collect();
    assert!(
        used.contains("fdatasync"),
        "the trace has not all: {used:?}"
    );
    let refused: Vec<_> = used.difference(&allowed).collect();
    assert!(refused.is_empty(), "the unit refuses {refused:?}");
}

/// Returns the output of `systemd-analyze` for the unit, with the path of the built program.
fn analyzed(args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("kvstore.service");
    let program = server_command(&[])
        .get_program()
        .to_str()
        .unwrap()
        .to_owned();
    std::fs::write(&file, UNIT.replace("/usr/local/bin/kvstore-http", &program)).unwrap();
    let said = tool("systemd-analyze")
        .args(args)
        .arg(&file)
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    String::from_utf8([said.stdout, said.stderr].concat()).unwrap()
}

#[test]
fn systemd_takes_the_unit_and_finds_it_confined() {
    let found = analyzed(&["verify", "--man=no"]);
    assert_eq!(found, "", "what it would ignore");
    // From 0 to 100: a unit without any confinement exceeds 90; the remainder here is the network
    // that a server needs.
    analyzed(&["security", "--offline=true", "--no-pager", "--threshold=15"]);
    // Longer than the program takes to end by itself.
    assert_eq!(unit("TimeoutStopSec"), ["90s"]);
}
