//! Reports the process's state to a supervisor by the protocol of `sd_notify(3)`, which systemd and
//! others use.
//!
//! Without `NOTIFY_SOCKET` in the environment there is no such supervisor, and nothing happens.

use std::ffi::OsStr;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long to wait for a supervisor that does not read.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Reports that the process is ready, with its status in one line.
pub fn notify_ready(status: &str) {
    notify(&format!("READY=1\nSTATUS={status}\n"));
}

/// How much time for the start each [`notify_waiting`] requests: longer than an attempt takes.
const EXTENSION: Duration = Duration::from_secs(60);

/// Reports the reason for a wait before the process is ready, in one line, and asks a supervisor
/// that limits the time for a start to extend it.
pub(super) fn notify_waiting(status: &str) {
    let extension = EXTENSION.as_micros();
    notify(&format!(
        "EXTEND_TIMEOUT_USEC={extension}\nSTATUS={status}\n"
    ));
}

/// Reports that the process was asked to shut down and is finishing its work.
pub(super) fn notify_stopping() {
    notify("STOPPING=1\nSTATUS=finishing what is under way\n");
}

/// Sends `state`. An unreachable supervisor is only a warning: the work does not depend on it.
fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|it| !it.is_empty()) else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, ?socket, "cannot notify the supervisor");
    }
}

/// Sends one datagram to the socket: a path, or a name in the abstract namespace after `@`.
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(TIMEOUT))?;
    sender.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}
