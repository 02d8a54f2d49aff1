//! `health`: whether a server or worker on this machine is ready, for those who supervise it in an image without a shell.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use kvstore_core::process::{self, Failure, Fallback, Program, Setting, Settings, address};

use super::print;

const LISTEN: Setting = Setting {
    flag: "listen",
    value: "ADDRESS",
    default: Fallback::Value("127.0.0.1:8000"),
    allowed: "an address with a port, such as 127.0.0.1:8000",
    help: "Where the server serves HTTP",
};

const ADMIN_LISTEN: Setting = Setting {
    flag: "admin-listen",
    value: "ADDRESS",
    default: Fallback::Absent("none"),
    allowed: "as in the server and the worker, such as 127.0.0.1:9000",
    help: "Where server or worker answer probes, if apart from everything else",
};

pub(super) const PROGRAM: Program = Program {
    name: "kvstore-http health",
    version: env!("CARGO_PKG_VERSION"),
    about: "Asks a server or worker on this machine whether it is ready: ends with 0 if it is, with 1 if not",
    settings: &[LISTEN, ADMIN_LISTEN],
    operand: None,
    commands: &[],
};

/// For each step of the way. Longer than a process gives its own store and queue to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// More than such an answer has.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

pub(super) fn main() -> ExitCode {
    process::command(&PROGRAM, read, run)
}

fn read(settings: &mut Settings) -> Option<SocketAddr> {
    let listen = settings.get(&LISTEN, address);
    let admin = settings.get_optional(&ADMIN_LISTEN, address);
    let (listen, admin) = (listen?, admin?);
    Some(admin.unwrap_or(listen))
}

fn run(address: SocketAddr) -> Result<ExitCode, Failure> {
    let address = reachable(address);
    let answer = ask(address).map_err(|error| format!("{address} does not answer: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => {
            print([body.trim()]);
            Ok(ExitCode::SUCCESS)
        }
        status => {
            let status = status.unwrap_or("no status");
            Err(format!("{address} is not ready: {status}, {}", body.trim()).into())
        }
    }
}

/// Who listens on every address is asked on this machine's own.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
