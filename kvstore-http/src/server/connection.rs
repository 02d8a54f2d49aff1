//! One connection, guarded against peers that stop halfway.
//!
//! hyper has one timer for the whole time until a request's head is complete, and so cannot
//! distinguish a client that is idle between two requests from one that sends a byte a second. This
//! module can, and its timers cost less per request. It also closes the connection of a client that
//! does not take its answer, for which hyper would wait forever.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::access::token::{Access, Held};
use crate::server::timer::{ConnectionTimer, Timeout};

/// How long the rest of a refused body is read and discarded after the answer. Otherwise the kernel
/// would reset the connection on close, and the client would lose the answer that explains the
/// error.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes of an answer that a client must take in a second, averaged over its write timeout. Answers
/// to slower clients would occupy memory for too long.
const LEAST_RATE: f64 = 1024.0;

/// State that a connection shares with the handling of its requests.
#[derive(Debug)]
pub(crate) struct Phase {
    /// The address that requests must name, as an alternative to the server's names; `None` if they
    /// may name any host.
    pub(crate) asked_by: Option<IpAddr>,
    /// True if there is no room for the connection: its request is refused.
    pub(crate) is_refused: bool,
    /// The timer for the connection's timeouts.
    pub(crate) timer: ConnectionTimer,
    /// Number of complete request heads.
    heads: AtomicU64,
    /// True while the answer to the last request is not ready.
    handling: AtomicBool,
    /// True if part of the last request's body was not read.
    unread: AtomicBool,
    /// True if the target of the next request, or of one pipelined behind it, has a fragment, which
    /// hyper removes.
    has_fragment: AtomicBool,
    /// True while the answer waits for an event. A client that closes its side is then considered
    /// gone.
    waits: AtomicBool,
    /// When the connection became idle, in microseconds since the first use of the clock; [`BUSY`]
    /// during a request.
    idle_since: AtomicU64,
    /// True if the connection closes after the current request.
    is_closing: AtomicBool,
    closes: Notify,
    /// The token of the last request.
    held: Mutex<Option<Held>>,
}

/// Not idle: a request is in progress.
const BUSY: u64 = u64::MAX;

/// Returns the microseconds since the first call.
fn now() -> u64 {
    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGINNING.elapsed().as_micros()).unwrap_or(BUSY - 1)
}

impl Phase {
    pub(crate) fn new(asked_by: Option<IpAddr>, is_refused: bool) -> Self {
        Self {
            asked_by,
            is_refused,
            timer: ConnectionTimer::default(),
            heads: AtomicU64::new(0),
            handling: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            has_fragment: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            idle_since: AtomicU64::new(now()),
            is_closing: AtomicBool::new(false),
            closes: Notify::new(),
            held: Mutex::new(None),
        }
    }

    /// Records that the head of a request is complete.
    pub(crate) fn begin(&self) {
        self.heads.fetch_add(1, Ordering::Relaxed);
        self.handling.store(true, Ordering::Relaxed);
        self.idle_since.store(BUSY, Ordering::Relaxed);
    }

    /// Records that the answer is ready; part of the body may be `unread`.
    pub(crate) fn end(&self, unread: bool) {
        self.unread.store(unread, Ordering::Relaxed);
        self.handling.store(false, Ordering::Relaxed);
    }

    /// Returns true if the request's target has, or may have, a fragment.
    pub(crate) fn has_fragment(&self) -> bool {
        self.has_fragment.load(Ordering::Relaxed)
    }

    /// Records that the connection waits for the next request.
    fn rest(&self) {
        if self.idle_since.load(Ordering::Relaxed) == BUSY {
            self.idle_since.store(now(), Ordering::Relaxed);
        }
    }

    /// Returns true before the first request.
    pub(crate) fn is_fresh(&self) -> bool {
        self.heads.load(Ordering::Relaxed) == 0
    }

    /// Returns when the connection became idle; `None` if it is not idle or is closing.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        let since = self.idle_since.load(Ordering::Relaxed);
        (since != BUSY && !self.is_closing.load(Ordering::Relaxed)).then_some(since)
    }

    /// Closes the connection once no request is in progress.
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.closes.notify_one();
    }

    /// Completes when the connection should close.
    pub(crate) async fn closes(&self) {
        self.closes.notified().await;
    }

    /// Marks the answer as waiting for an event, until the guard is dropped. Meanwhile, the
    /// connection ends as soon as the client closes its side. Otherwise the client is still
    /// answered: it may close its side after its request.
    pub(crate) fn wait(self: &Arc<Self>) -> WaitingAnswer {
        self.waits.store(true, Ordering::Relaxed);
        WaitingAnswer(Arc::clone(self))
    }

    /// Counts the connection towards the token of its last request; returns the token's count.
    pub(crate) fn hold(&self, access: &Access) -> usize {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some(held) if held.is_of(access) => {}
            _ => *held = access.hold(),
        }
        held.as_ref().map_or(0, Held::count)
    }
}

/// Guard of an answer that waits for an event.
#[derive(Debug)]
pub(crate) struct WaitingAnswer(Arc<Phase>);

impl Drop for WaitingAnswer {
    fn drop(&mut self) {
        self.0.waits.store(false, Ordering::Relaxed);
    }
}

/// Time limits for a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a head, from its first byte; for the first head, from the accepted connection.
    pub(crate) head: Duration,
    /// For a whole head, including the time before its first byte.
    pub(crate) idle: Duration,
    /// For taking more of an answer.
    pub(crate) write: Duration,
}

/// Finds a `#` in the target of a request, since hyper removes it.
///
/// A line that ends in a target with a `#` and an HTTP version is a request line wherever it
/// appears: several requests may arrive in one read, directly after bodies. JSON contains no such
/// line, since its strings have no line breaks.
#[derive(Debug, Default)]
enum FragmentScan {
    #[default]
    Elsewhere,
    /// After a `#`, before any space.
    Fragment,
    /// After the next space: the bytes since then.
    Version(Vec<u8>),
}

impl FragmentScan {
    const VERSIONS: [&[u8]; 2] = [b"HTTP/1.1", b"HTTP/1.0"];

    /// Enough bytes for a version and trailing white space.
    const END_BYTES: usize = 32;

    /// Scans `bytes`; returns true if a request line with a `#` ends in them.
    fn read(&mut self, bytes: &[u8]) -> bool {
        if matches!(self, Self::Elsewhere) && !bytes.contains(&b'#') {
            return false;
        }
        for byte in bytes {
            match (&mut *self, byte) {
                (_, b'#') => *self = Self::Fragment,
                (Self::Fragment, b' ') => *self = Self::Version(Vec::new()),
                (Self::Version(text), b'\n') => {
                    if Self::VERSIONS.contains(&text.trim_ascii_end()) {
                        return true;
                    }
                    *self = Self::Elsewhere;
                }
                (Self::Version(text), byte) if text.len() < Self::END_BYTES => text.push(*byte),
                (Self::Version(_), _) | (Self::Fragment, b'\n') => *self = Self::Elsewhere,
                (Self::Fragment | Self::Elsewhere, _) => {}
            }
        }
        false
    }
}

/// A stream that fails with [`io::ErrorKind::TimedOut`] if its peer takes too long.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    phase: Arc<Phase>,
    patience: Patience,
    /// [`Phase::heads`] at the last read.
    heads: u64,
    /// True if bytes of the next head have arrived, or if it is the first head.
    head_begun: bool,
    fragment: FragmentScan,
    /// Bytes that were read while only the end of the stream was expected.
    early: Vec<u8>,
    /// Runs until the next head is complete.
    idle: Option<Timeout>,
    /// Each timer exists only during a delay: most heads and answers pass in one piece and need
    /// none.
    head_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Bytes that the peer has taken since `write_timer` started.
    taken: usize,
    linger_timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S, phase: Arc<Phase>, patience: Patience) -> Self {
        Self {
            stream,
            phase,
            patience,
            heads: 0,
            head_begun: true,
            fragment: FragmentScan::default(),
            early: Vec::new(),
            idle: None,
            head_timer: None,
            write_timer: None,
            taken: 0,
            linger_timer: None,
        }
    }

    /// Returns the result of a write, or a timeout if the peer takes too little.
    fn not_too_slow(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = progress {
            self.taken += written;
        }
        if progress.is_ready() {
            return progress;
        }
        if self.write_timer.is_none() {
            self.taken = 0;
        }
        let span = self.patience.write;
        while poll_timer(&mut self.write_timer, span, cx).is_ready() {
            if (self.taken as f64) < LEAST_RATE * span.as_secs_f64() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            (self.write_timer, self.taken) = (None, 0);
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Returns true once the peer has closed its side without further bytes. While hyper waits for
    /// an answer, it does not read, but it flushes whenever the connection is woken, and thus
    /// whenever there is something to read.
    fn is_gone(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if !self.early.is_empty() {
            return Ok(false);
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) => {
                self.early.extend_from_slice(buffer.filled());
                Ok(self.early.is_empty())
            }
        }
    }
}

/// Polls the timer, starting it first if necessary.
fn poll_timer(
    timer: &mut Option<Pin<Box<Sleep>>>,
    span: Duration,
    cx: &mut Context<'_>,
) -> Poll<()> {
    timer
        .get_or_insert_with(|| Box::pin(tokio::time::sleep(span)))
        .as_mut()
        .poll(cx)
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let progress = if this.early.is_empty() {
            Pin::new(&mut this.stream).poll_read(cx, buffer)
        } else {
            let count = this.early.len().min(buffer.remaining());
            buffer.put_slice(&this.early[..count]);
            this.early.drain(..count);
            Poll::Ready(Ok(()))
        };
        if this.fragment.read(&buffer.filled()[before..]) {
            this.phase.has_fragment.store(true, Ordering::Relaxed);
        }
        let heads = this.phase.heads.load(Ordering::Relaxed);
        if heads != this.heads {
            this.heads = heads;
            this.head_begun = false;
            this.head_timer = None;
            this.idle = None;
        }
        if this.phase.handling.load(Ordering::Relaxed) {
            // These bytes belong to the request's body, which has a timer of its own.
            return progress;
        }
        if progress.is_ready() {
            this.head_begun = true;
            return progress;
        }
        let idle = this
            .idle
            .get_or_insert_with(|| this.phase.timer.timeout(this.patience.idle));
        let mut is_late = idle.poll_unpin(cx).is_ready();
        if this.head_begun {
            is_late |= poll_timer(&mut this.head_timer, this.patience.head, cx).is_ready();
        } else {
            this.phase.rest();
        }
        match is_late {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.not_too_slow(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.not_too_slow(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.phase.waits.load(Ordering::Relaxed) && self.is_gone(cx)? {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let progress = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        ready!(self.not_too_slow(cx, progress))?;
        // The peer has nothing left to take.
        self.write_timer = None;
        Poll::Ready(Ok(()))
    }

    /// Closes this direction. If a body was refused, then waits briefly for the other direction.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let progress = Pin::new(&mut this.stream).poll_shutdown(cx).map_ok(|()| 0);
        ready!(this.not_too_slow(cx, progress))?;
        if !this.phase.unread.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut scrap = [0; 8192];
        while poll_timer(&mut this.linger_timer, LINGER, cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The client has read the answer and closed, or is gone.
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn client_that_takes_an_answer_too_slowly_is_given_up() {
        let second = Duration::from_secs(1);
        for (pause_ms, is_served) in [(1, true), (10, true), (100, false)] {
            let (server, mut client) = duplex(16);
            let patience = Patience {
                head: second,
                idle: second,
                write: 2 * second,
            };
            let mut server = Guarded::new(server, Arc::new(Phase::new(None, false)), patience);
            let answer = [b'x'; 10_000];
            let answering = tokio::spawn(async move {
                server.write_all(&answer).await?;
                server.flush().await
            });
            let mut piece = [0; 16];
            while !answering.is_finished() && client.read(&mut piece).await.unwrap() > 0 {
                sleep(Duration::from_millis(pause_ms)).await;
            }
            let answered = answering.await.unwrap().map_err(|error| error.kind());
            let expected = match is_served {
                true => Ok(()),
                false => Err(io::ErrorKind::TimedOut),
            };
            assert_eq!(answered, expected, "{pause_ms}");
        }
    }
}
