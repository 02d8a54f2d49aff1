//! One TCP connection, guarded against peers that stop half-way.
//!
//! hyper has one timer for the whole time until a request's head is complete, so that a client which is idle between two
//! requests and one that sends a byte a second look alike to it. Here they are told apart; and a client that takes nothing of its
//! answer, which hyper waits for without end, is given up as well.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::access::token::{Access, Held};
use crate::server::timer::ConnectionTimer;

/// How long the end of a refused body is read and dropped after the answer. Closing at once would make the kernel reset the
/// connection, and the client would lose the answer that tells it what was wrong.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes of an answer that a client has to take in a second, averaged over its time for writing:
/// what is sent to slower ones would be in memory for too long.
const LEAST_RATE: f64 = 1024.0;

/// What a connection and the handling of its requests know of each other.
#[derive(Debug)]
pub(crate) struct Phase {
    /// The address by which requests must ask for this server, besides its names; `None` if they
    /// may ask for any.
    pub(crate) asked_by: Option<IpAddr>,
    /// What its timeouts go by.
    pub(crate) timer: ConnectionTimer,
    /// How many heads of requests have been complete.
    heads: AtomicU64,
    /// The answer to the last of them is not ready.
    handling: AtomicBool,
    /// Some of the last request's body was not read.
    unread: AtomicBool,
    /// The target of the next request, or of one that was sent behind it without waiting, has a
    /// fragment, which is gone from the one that hyper hands on.
    has_fragment: AtomicBool,
    /// The answer waits for something to happen, so a client that closes its side is gone.
    waits: AtomicBool,
    /// Since when it has been without a request, in microseconds of the process; [`BUSY`] during one.
    idle_since: AtomicU64,
    /// It is to close, as soon as the request under way is answered.
    is_closing: AtomicBool,
    closes: Notify,
    /// The token of its last request.
    held: Mutex<Option<Held>>,
}

/// Not idle: a request is under way.
const BUSY: u64 = u64::MAX;

/// Microseconds since the first call.
fn now() -> u64 {
    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGINNING.elapsed().as_micros()).unwrap_or(BUSY - 1)
}

impl Phase {
    pub(crate) fn new(asked_by: Option<IpAddr>) -> Self {
        Self {
            asked_by,
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

    /// The head of a request is complete.
    pub(crate) fn begin(&self) {
        self.heads.fetch_add(1, Ordering::Relaxed);
        self.handling.store(true, Ordering::Relaxed);
        self.idle_since.store(BUSY, Ordering::Relaxed);
    }

    /// Its answer is ready; some of its body may be `unread`.
    pub(crate) fn end(&self, unread: bool) {
        self.unread.store(unread, Ordering::Relaxed);
        self.handling.store(false, Ordering::Relaxed);
    }

    /// Returns true if the target of the request has a fragment, or may have one.
    pub(crate) fn has_fragment(&self) -> bool {
        self.has_fragment.load(Ordering::Relaxed)
    }

    /// It waits for the next request.
    fn rest(&self) {
        if self.idle_since.load(Ordering::Relaxed) == BUSY {
            self.idle_since.store(now(), Ordering::Relaxed);
        }
    }

    /// Returns true before the first request.
    pub(crate) fn is_fresh(&self) -> bool {
        self.heads.load(Ordering::Relaxed) == 0
    }

    /// Since when it has been idle; `None` if it is not, or is to close anyway.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        let since = self.idle_since.load(Ordering::Relaxed);
        (since != BUSY && !self.is_closing.load(Ordering::Relaxed)).then_some(since)
    }

    /// Closes it once no request is under way.
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.closes.notify_one();
    }

    /// Ready when it is to close.
    pub(crate) async fn closes(&self) {
        self.closes.notified().await;
    }

    /// From now until it is dropped, a client that closes its side is gone, and the connection ends at once. Otherwise it is answered
    /// all the same: a client may close its side once it has asked.
    pub(crate) fn wait(self: &Arc<Self>) -> WaitingAnswer {
        self.waits.store(true, Ordering::Relaxed);
        WaitingAnswer(Arc::clone(self))
    }

    /// Counts the connection among those of the token that it was used with last; returns how many the token has.
    pub(crate) fn hold(&self, access: &Access) -> usize {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some(held) if held.is_of(access) => {}
            _ => *held = access.hold(),
        }
        held.as_ref().map_or(0, Held::count)
    }
}

/// An answer that waits for something to happen.
#[derive(Debug)]
pub(crate) struct WaitingAnswer(Arc<Phase>);

impl Drop for WaitingAnswer {
    fn drop(&mut self) {
        self.0.waits.store(false, Ordering::Relaxed);
    }
}

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a head: from its first byte on, and for the first one from the moment on when the connection was accepted.
    pub(crate) head: Duration,
    /// For taking more of an answer.
    pub(crate) write: Duration,
}

/// Finds a `#` in the target of a request, which is gone from the one that hyper hands on.
///
/// A line that ends in a target with a `#` and a version of HTTP is a request line, wherever it
/// comes: requests may come in one read, with bodies right before them. No JSON has such a line,
/// since its strings have no line breaks.
#[derive(Debug, Default)]
enum FragmentScan {
    #[default]
    Elsewhere,
    /// Behind a `#`, before any space.
    Fragment,
    /// Behind the first space after that: what has come since.
    Version(Vec<u8>),
}

impl FragmentScan {
    const VERSIONS: [&[u8]; 2] = [b"HTTP/1.1", b"HTTP/1.0"];

    /// Bytes in which a version and white space behind it fit.
    const END_BYTES: usize = 32;

    /// Reads on in `bytes`; returns true if a request line with a `#` ends in them.
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

/// A stream that fails with [`io::ErrorKind::TimedOut`] when its peer takes too long.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    phase: Arc<Phase>,
    patience: Patience,
    /// [`Phase::heads`] when it was last looked at.
    heads: u64,
    /// Bytes have come that belong to the next one, or it is the first one.
    head_begun: bool,
    fragment: FragmentScan,
    /// What was read when nothing was expected but the end.
    early: Vec<u8>,
    /// Each timer exists only while somebody is late: most heads and answers pass in one piece and need none.
    head_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Bytes that the peer has taken since that timer runs.
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
            head_timer: None,
            write_timer: None,
            taken: 0,
            linger_timer: None,
        }
    }

    /// Returns what a write came to, or a failure if the peer takes too little.
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
    /// Returns true once the peer has closed its side with nothing before that. hyper reads nothing while it waits for an answer, but
    /// flushes whenever the connection is woken, and so whenever this has something to read.
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

/// Polls the timer, and starts it first if it does not run.
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
        }
        if this.phase.handling.load(Ordering::Relaxed) {
            // What comes now is the request's body, which has a timer of its own.
        } else if progress.is_ready() {
            this.head_begun = true;
        } else if this.head_begun {
            ready!(poll_timer(&mut this.head_timer, this.patience.head, cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        } else {
            this.phase.rest();
        }
        progress
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
        // Nothing is left that the peer has to take in time.
        self.write_timer = None;
        Poll::Ready(Ok(()))
    }

    /// Closes this direction, and then waits a little for the other one if a body was refused.
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
                write: 2 * second,
            };
            let mut server = Guarded::new(server, Arc::new(Phase::new(None)), patience);
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
