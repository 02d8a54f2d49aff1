//! Listening sockets: TCP addresses, with or without TLS, and Unix sockets, any number at once.

use std::fmt;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use kvstore_core::{Error, Result};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::Accept;
use tokio_rustls::server::TlsStream;

use super::tls::Tls;

/// Maximum number of connections waiting to be accepted; the kernel has a lower limit of its own.
const BACKLOG: i32 = 1024;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Endpoint {
    /// Parses `unix:/path/to/socket`, or an address in the format of [`kvstore_process::address`].
    ///
    /// # Errors
    /// Describes what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("a path must follow unix:".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => kvstore_process::address(text).map(Self::Tcp),
        }
    }

    /// Returns true if only this machine can reach the endpoint.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Listens on the endpoint. A Unix socket gets the permissions `mode` before anything can
    /// connect to it, and replaces a socket that an ended process has left. Its file is removed
    /// when the listener is dropped.
    ///
    /// # Errors
    /// [`Error::Unavailable`], which names the endpoint: it is in use, belongs to another user, or
    /// is not permitted.
    pub async fn bind(&self, mode: u32) -> Result<Listener> {
        match self {
            Self::Tcp(address) => kvstore_process::bind(*address).await.map(Listener::from),
            Self::Unix(path) => UnixSocket::bind(path, mode)
                .map(|socket| Listener(ListenerKind::Unix(socket)))
                .map_err(|error| Error::Unavailable {
                    what: format!("cannot listen on {self}"),
                    source: Some(Arc::new(error)),
                }),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener(pub(super) ListenerKind);

#[derive(Debug)]
pub(super) enum ListenerKind {
    Tcp(TcpListener, Option<Arc<Tls>>),
    Unix(UnixSocket),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self(ListenerKind::Tcp(listener, None))
    }
}

impl Listener {
    /// Enables TLS, except on a Unix socket.
    #[must_use]
    pub fn with_tls(self, tls: Arc<Tls>) -> Self {
        match self.0 {
            ListenerKind::Tcp(listener, _) => Self(ListenerKind::Tcp(listener, Some(tls))),
            ListenerKind::Unix(_) => self,
        }
    }

    /// Returns the endpoint, with the actual port if the requested one was 0.
    ///
    /// # Errors
    /// The system cannot tell the address.
    pub fn endpoint(&self) -> io::Result<Endpoint> {
        match &self.0 {
            ListenerKind::Tcp(listener, _) => listener.local_addr().map(Endpoint::Tcp),
            ListenerKind::Unix(socket) => Ok(Endpoint::Unix(socket.path.clone())),
        }
    }

    /// Returns the listener's IP address, or `None` for a Unix socket.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match &self.0 {
            ListenerKind::Tcp(listener, _) => {
                listener.local_addr().ok().map(|address| address.ip())
            }
            ListenerKind::Unix(_) => None,
        }
    }

    /// Accepts the next connection.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        match &self.0 {
            ListenerKind::Tcp(listener, tls) => {
                let accepted = listener.poll_accept(cx);
                accepted.map_ok(|(stream, _)| Stream::new(stream, tls.as_deref()))
            }
            ListenerKind::Unix(socket) => {
                let accepted = socket.listener.poll_accept(cx);
                accepted.map_ok(|(stream, _)| Stream::Unix(stream))
            }
        }
    }
}

/// Any number of listeners, served in turn.
#[derive(Debug)]
pub struct Listeners {
    pub(super) listeners: Vec<Listener>,
    /// The listener to poll first next time.
    next: usize,
}

impl<L: Into<Listener>> From<L> for Listeners {
    fn from(listener: L) -> Self {
        Self::new(vec![listener.into()])
    }
}

impl Listeners {
    /// Combines `listeners`.
    pub fn new(listeners: Vec<Listener>) -> Self {
        Self { listeners, next: 0 }
    }

    /// Returns the endpoints of all listeners.
    ///
    /// # Errors
    /// Those of [`Listener::endpoint`].
    pub fn endpoints(&self) -> io::Result<Vec<Endpoint>> {
        self.listeners.iter().map(Listener::endpoint).collect()
    }

    /// Returns the endpoints as text, separated by commas.
    ///
    /// # Errors
    /// Those of [`Listener::endpoint`].
    pub fn address(&self) -> io::Result<String> {
        let endpoints = self.endpoints()?;
        let texts: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
        Ok(texts.join(", "))
    }

    /// Accepts the next connection, and returns it with the address of its listener.
    pub(super) async fn accept(&mut self) -> io::Result<(Stream, Option<IpAddr>)> {
        poll_fn(|cx| {
            let count = self.listeners.len();
            for turn in self.next..self.next + count {
                let listener = &self.listeners[turn % count];
                if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                    self.next = (turn + 1) % count;
                    return Poll::Ready(accepted.map(|stream| (stream, listener.ip())));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// A Unix socket and its file.
#[derive(Debug)]
pub(super) struct UnixSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl UnixSocket {
    fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        remove_left_over(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let listening = || {
            // Until `listen`, connections are refused.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let metadata = fs::symlink_metadata(path)?;
            Ok((metadata.dev(), metadata.ino()))
        };
        let file = listening().inspect_err(|_: &io::Error| {
            // This process created the file, and it is useless without a listener.
            let _ = fs::remove_file(path);
        })?;
        Ok(Self {
            listener: UnixListener::from_std(socket.into())?,
            path: path.to_owned(),
            file,
        })
    }

    /// Removes the file, so that connections are refused, unless another socket has replaced it.
    pub(super) fn unlink(&self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// Removes a socket without a listening process.
fn remove_left_over(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// A connection of any listener.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Becomes [`Stream::Tls`] with the first read or write.
    Handshake(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn new(stream: TcpStream, tls: Option<&Tls>) -> Self {
        // Answers are written in one piece, so waiting for more would gain nothing.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        match tls {
            None => Self::Tcp(stream),
            Some(tls) => Self::Handshake(Box::new(tls.accept(stream))),
        }
    }

    /// Completes the handshake, if there is one.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Handshake(accept) = self {
            let stream = ready!(Pin::new(&mut **accept).poll(cx))?;
            *self = Self::Tls(Box::new(stream));
        }
        Poll::Ready(Ok(()))
    }
}

/// Calls a method of the underlying stream. Does nothing during a handshake and after a failed one.
macro_rules! forward {
    ($stream:expr, $method:ident($($argument:expr),*), $nothing:expr) => {
        match $stream.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(&mut **stream).$method($($argument),*),
            Stream::Handshake(_) => Poll::Ready(Ok($nothing)),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        forward!(self, poll_read(cx, buffer), ())
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        forward!(self, poll_write(cx, bytes), 0)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        forward!(self, poll_write_vectored(cx, pieces), 0)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_flush(cx), ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_shutdown(cx), ())
    }
}
