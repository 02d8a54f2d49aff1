//! A client on a raw socket, so that a test controls and sees every byte on the wire.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything here takes, so that a test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl Reply {
    /// Returns the only header `name`; `None` if it is absent.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(present, _)| present == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert_eq!(values.next(), None, "header {name} appears twice");
        value
    }

    /// Returns `Retry-After`, with 1 for 1 to 3: the server varies it so that clients do not return
    /// all at once.
    pub fn retry_after(&self) -> Option<&str> {
        match self.header("retry-after") {
            Some("2" | "3") => Some("1"),
            after => after,
        }
    }

    /// Returns the body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// Returns the body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A request, built piece by piece.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

/// Creates a request without headers or body.
pub fn request(method: &str, target: &str) -> Request {
    Request {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: Vec::new(),
        body: None,
    }
}

impl Request {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Returns method and target.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} HTTP/1.1\r\n", self.line());
        if !self.headers.iter().any(|(name, _)| name == "host") {
            head += "host: localhost\r\n";
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = &self.body {
            head += &format!("content-length: {}\r\n", body.len());
        }
        let mut bytes = (head + "\r\n").into_bytes();
        bytes.extend(self.body.iter().flatten());
        bytes
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    /// Connects to a server that listens.
    pub async fn open(address: SocketAddr) -> Self {
        let connected = TcpStream::connect(address).await;
        Self::on(connected.expect("a server that listens"))
    }

    /// Connects to a server; `None` if it does not listen.
    pub async fn try_open(address: SocketAddr) -> Option<Self> {
        TcpStream::connect(address).await.ok().map(Self::on)
    }

    fn on(stream: TcpStream) -> Self {
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .await
            .expect("a server that reads");
    }

    /// Sends bytes that the server may not want.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends a request and returns its answer.
    pub async fn ask(&mut self, request: &Request) -> Reply {
        self.send(&request.bytes()).await;
        self.reply(&request.method).await
    }

    /// Sends a request and returns its answer; `None` if the server closes the connection first.
    pub async fn try_ask(&mut self, request: &Request) -> Option<Reply> {
        self.try_send(&request.bytes()).await.ok()?;
        self.try_reply(&request.method).await
    }

    /// Reads the next answer, to a request of `method`.
    pub async fn reply(&mut self, method: &str) -> Reply {
        self.try_reply(method)
            .await
            .expect("an answer, and not the end")
    }

    /// Reads the next answer; `None` if the server closes the connection instead.
    pub async fn try_reply(&mut self, method: &str) -> Option<Reply> {
        tokio::time::timeout(PATIENCE, self.read_reply(method))
            .await
            .expect("an answer in time")
    }

    async fn read_reply(&mut self, method: &str) -> Option<Reply> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.read_some().await {
                assert!(self.unread.is_empty(), "half an answer: {:?}", self.unread);
                return None;
            }
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let head = String::from_utf8(head).expect("a head in ASCII");
        let mut lines = head.split("\r\n");
        let status_line = lines.next().expect("a status line");
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .unwrap_or_else(|| panic!("{status_line:?} is no status line"));
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut reply = Reply {
            status,
            headers,
            body: Vec::new(),
        };
        let length = match reply.header("content-length") {
            _ if method == "HEAD" || status == 304 => 0,
            Some(length) => length.parse().expect("a length"),
            None => 0,
        };
        while self.unread.len() < length {
            assert!(self.read_some().await, "half a body");
        }
        reply.body = self.unread.drain(..length).collect();
        Some(reply)
    }

    /// Reads the next chunk of a chunked body; `None` at its end, or if the server closes the
    /// connection instead.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        tokio::time::timeout(PATIENCE, self.read_chunk())
            .await
            .expect("a chunk in time")
    }

    async fn read_chunk(&mut self) -> Option<Vec<u8>> {
        let begin = loop {
            if let Some(at) = self.unread.windows(2).position(|two| two == b"\r\n") {
                break at;
            }
            if !self.read_some().await {
                return None;
            }
        };
        let digits = std::str::from_utf8(&self.unread[..begin]).expect("a length in ASCII");
        let length = usize::from_str_radix(digits, 16).expect("a length");
        let end = begin + 2 + length + 2;
        while self.unread.len() < end {
            if !self.read_some().await {
                return None;
            }
        }
        let chunk: Vec<u8> = self.unread.drain(..end).collect();
        (length > 0).then(|| chunk[begin + 2..end - 2].to_vec())
    }

    /// Returns true once the server sends something, and false if it closes the connection.
    pub async fn has_begun(&mut self) -> bool {
        tokio::time::timeout(PATIENCE, self.read_some())
            .await
            .expect("an answer in time")
    }

    async fn read_some(&mut self) -> bool {
        self.unread.reserve(16 << 10);
        // A reset is an end, too.
        let count = self.stream.read_buf(&mut self.unread).await.unwrap_or(0);
        count > 0
    }

    /// Returns true if the server closes the connection without another byte.
    pub async fn is_closed(&mut self) -> bool {
        let closing = async { !self.read_some().await && self.unread.is_empty() };
        tokio::time::timeout(PATIENCE, closing)
            .await
            .unwrap_or(false)
    }
}
