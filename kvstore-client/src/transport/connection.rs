//! One connection: TCP, TLS or a Unix socket, with HTTP/1.1 on it; and the pool of idle ones.

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use kvstore_core::Result;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::client::Options;
use crate::url::{ServerEndpoint, ServerUrl};

/// The maximum number of idle connections kept.
const IDLE_MAX: usize = 64;

/// A connection that takes one request at a time. It is closed when it is dropped.
pub(crate) type Connection = SendRequest<Full<Bytes>>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for S {}

/// Makes connections to one server.
#[derive(Debug)]
pub(super) enum Connector {
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
    #[cfg(feature = "tls")]
    Tls {
        host: String,
        port: u16,
        tls: super::tls::TlsClient,
    },
}

impl Connector {
    pub(super) fn new(url: &ServerUrl, options: &Options) -> Result<Self> {
        Ok(match &url.endpoint {
            ServerEndpoint::Unix(path) => Self::Unix(path.clone()),
            ServerEndpoint::Tcp { host, port, tls } => {
                let (host, port) = (ServerEndpoint::name(host).to_owned(), *port);
                match tls {
                    false => Self::Tcp { host, port },
                    true => Self::tls(host, port, options)?,
                }
            }
        })
    }

    #[cfg(feature = "tls")]
    fn tls(host: String, port: u16, options: &Options) -> Result<Self> {
        let tls = super::tls::TlsClient::new(&host, options.ca_file.as_deref())?;
        Ok(Self::Tls { host, port, tls })
    }

    #[cfg(not(feature = "tls"))]
    fn tls(_: String, _: u16, _: &Options) -> Result<Self> {
        Err(kvstore_core::Error::Config(
            "this program was built without TLS: build it with the feature tls of kvstore-client"
                .to_owned(),
        ))
    }

    pub(super) async fn connect(&self) -> Result<Connection, Cause> {
        let stream: Box<dyn ByteStream> = match self {
            Self::Tcp { host, port } => Box::new(tcp(host, *port).await?),
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
            #[cfg(feature = "tls")]
            Self::Tls { host, port, tls } => Box::new(tls.connect(tcp(host, *port).await?).await?),
        };
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with its sender. The current request receives any error.
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, Cause> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The idle connections.
#[derive(Default)]
pub(super) struct Idle(Mutex<Vec<Connection>>);

impl Idle {
    /// Returns the most recently used one that still takes a request.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut idle = self.lock();
        while let Some(connection) = idle.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    pub(super) fn put(&self, connection: Connection) {
        let mut idle = self.lock();
        if !connection.is_closed() && idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Idle").field(&self.lock().len()).finish()
    }
}
