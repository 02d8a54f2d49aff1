//! Stops a listener without loss: connections in its backlog are accepted, and no others arrive.
//!
//! The kernel resets the backlog of a listener that is closed, and completes handshakes until then,
//! so one more connection can always follow the last accepted one. A filter that drops requests for
//! new connections prevents that. For a Unix socket, removing its file does.

use std::io;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;

use super::listen::{Listener, ListenerKind, Stream};

/// Time limit for a handshake in progress. A client answers within its round-trip time.
const HANDSHAKE: Duration = Duration::from_millis(200);

/// Stops `listener` and passes on the connections in its backlog.
pub(super) async fn empty(listener: Listener, mut accepted: impl FnMut(Stream)) {
    let patience = match &listener.0 {
        ListenerKind::Tcp(listener, _) => close(listener)
            .inspect_err(|error| tracing::debug!(%error, "cannot filter the listener"))
            .map_or(Duration::ZERO, |()| HANDSHAKE),
        ListenerKind::Unix(socket) => {
            socket.unlink();
            Duration::ZERO
        }
    };
    while let Ok(Ok(stream)) = timeout(patience, listener.accept()).await {
        accepted(stream);
    }
}

/// Blocks new handshakes on `listener`; those in progress complete.
#[cfg(target_os = "linux")]
fn close(listener: &TcpListener) -> io::Result<()> {
    use socket2::{SockFilter, SockRef};
    // Classic BPF, over the TCP header: drop a segment whose flags (byte 13) have SYN (bit 1).
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x45, 0, 1, 0b10),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ])
}

#[cfg(not(target_os = "linux"))]
fn close(_: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
