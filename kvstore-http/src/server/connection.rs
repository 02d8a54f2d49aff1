//! One TCP connection, guarded against peers that stop half-way.
//!
//! hyper has one timer for the whole time until a request's head is complete, so that a client which is idle between two
//! requests and one that sends a byte a second look alike to it. Here they are told apart; and a client that takes nothing of its
//! answer, which hyper waits for without end, is given up as well.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long the end of a refused body is read and dropped after the answer. Closing at once would make the kernel reset the
/// connection, and the client would lose the answer that tells it what was wrong.
const LINGER: Duration = Duration::from_secs(2);

/// What a connection and the handling of its requests know of each other.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    /// How many heads of requests have been complete.
    heads: AtomicU64,
    /// The answer to the last of them is not ready.
    handling: AtomicBool,
    /// Some of the last request's body was not read.
    unread: AtomicBool,
}

impl Phase {
    /// The head of a request is complete.
    pub(crate) fn begin(&self) {
        self.heads.fetch_add(1, Ordering::Relaxed);
        self.handling.store(true, Ordering::Relaxed);
    }

    /// Its answer is ready; some of its body may be `unread`.
    pub(crate) fn end(&self, unread: bool) {
        self.unread.store(unread, Ordering::Relaxed);
        self.handling.store(false, Ordering::Relaxed);
    }
}

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a head, from its first byte on.
    pub(crate) head: Duration,
    /// Between two pieces of an answer.
    pub(crate) write: Duration,
}

/// A stream that fails with [`io::ErrorKind::TimedOut`] when its peer takes too long.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    phase: Arc<Phase>,
    patience: Patience,
    /// [`Phase::heads`] when it was last looked at.
    heads: u64,
    /// Bytes have come that belong to the next one.
    head_begun: bool,
    /// Each timer exists only while somebody is late: most heads and answers pass in one piece and need none.
    head_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    linger_timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S, phase: Arc<Phase>, patience: Patience) -> Self {
        Self {
            stream,
            phase,
            patience,
            heads: 0,
            head_begun: false,
            head_timer: None,
            write_timer: None,
            linger_timer: None,
        }
    }

    /// What a write came to, or a failure if it has been pending too long.
    fn not_too_slow<T>(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.write_timer = None;
            return progress;
        }
        ready!(poll_timer(&mut self.write_timer, self.patience.write, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
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
        let progress = Pin::new(&mut this.stream).poll_read(cx, buffer);
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
        let progress = Pin::new(&mut self.stream).poll_flush(cx);
        self.not_too_slow(cx, progress)
    }

    /// Closes this direction, and then waits a little for the other one if a body was refused.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let progress = Pin::new(&mut this.stream).poll_shutdown(cx);
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
