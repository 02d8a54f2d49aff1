//! A proxy between one process and Redis, which forwards everything until a cut is requested.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long answers are withheld after a request has passed, so that Redis has executed it when the
/// connection is cut.
const SWALLOWING: Duration = Duration::from_millis(30);

/// The same while there is no answer to withhold.
const SWALLOWING_MAX: Duration = Duration::from_secs(2);

/// The proxy of one process, which ends with the runtime.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    cut_before: Cut,
    cut_after: Cut,
    closed: watch::Sender<bool>,
    turned_away: AtomicUsize,
    held: watch::Sender<bool>,
    late: AtomicUsize,
}

/// A requested cut, and the number of cuts made.
#[derive(Debug, Default)]
struct Cut {
    is_wanted: AtomicBool,
    made: AtomicUsize,
}

impl Cut {
    fn take(&self) -> bool {
        self.is_wanted.swap(false, Ordering::SeqCst)
    }

    fn count(&self) {
        self.made.fetch_add(1, Ordering::SeqCst);
    }
}

/// The point at which a connection is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// The request has not reached Redis.
    BeforeTheRequest,
    /// Redis has executed the request, and the answer is lost.
    BeforeTheAnswer,
}

impl Proxy {
    pub(crate) async fn start(socket: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            socket: socket.to_owned(),
            cut_before: Cut::default(),
            cut_after: Cut::default(),
            closed: watch::Sender::new(false),
            turned_away: AtomicUsize::new(0),
            held: watch::Sender::new(false),
            late: AtomicUsize::new(0),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared }
    }

    fn cut(&self, place: Place) -> &Cut {
        match place {
            Place::BeforeTheRequest => &self.shared.cut_before,
            Place::BeforeTheAnswer => &self.shared.cut_after,
        }
    }

    /// Requests a cut at the next request.
    pub(crate) fn want_cut(&self, place: Place) {
        self.cut(place).is_wanted.store(true, Ordering::SeqCst);
    }

    /// Withdraws the request, unless the cut has happened.
    pub(crate) fn want_no_cut(&self, place: Place) {
        self.cut(place).take();
    }

    /// Returns the number of connections cut during a request.
    pub(crate) fn cuts(&self, place: Place) -> usize {
        self.cut(place).made.load(Ordering::SeqCst)
    }

    /// Ends all connections and blocks new ones, or permits them again.
    pub(crate) fn close(&self, is_closed: bool) {
        self.shared.closed.send_replace(is_closed);
    }

    /// Returns the number of connections that `close` ended or blocked.
    pub(crate) fn turned_away(&self) -> usize {
        self.shared.turned_away.load(Ordering::SeqCst)
    }

    /// Holds requests back, or releases them and all later ones.
    pub(crate) fn hold(&self, is_held: bool) {
        self.shared.held.send_replace(is_held);
    }

    /// Returns the number of connections whose requests were held back and then released.
    pub(crate) fn late(&self) -> usize {
        self.shared.late.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // If either side ends, both do; that is no failure.
            let _ = pass(client, &shared).await;
        });
    }
}

async fn pass(mut client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut closed = shared.closed.subscribe();
    if *closed.borrow_and_update() {
        shared.turned_away.fetch_add(1, Ordering::SeqCst);
        return Ok(());
    }
    client.set_nodelay(true)?;
    let mut redis = UnixStream::connect(&shared.socket).await?;
    let (mut request, mut answer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut held = shared.held.subscribe();
    let mut is_held = *held.borrow_and_update();
    loop {
        tokio::select! {
            _ = held.changed() => {
                is_held = *held.borrow_and_update();
                if !is_held && let Ok(count @ 1..) = client.try_read(&mut request) {
                    redis.write_all(&request[..count]).await?;
                    shared.late.fetch_add(1, Ordering::SeqCst);
                }
            }
            count = client.read(&mut request), if !is_held => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                if shared.cut_before.take() {
                    shared.cut_before.count();
                    return Ok(());
                }
                redis.write_all(&request[..count]).await?;
                if shared.cut_after.take() && swallow(&mut redis, &mut answer).await? {
                    shared.cut_after.count();
                    return Ok(());
                }
            }
            count = redis.read(&mut answer) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                client.write_all(&answer[..count]).await?;
            }
            _ = closed.changed() => {
                shared.turned_away.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
        }
    }
}

/// Reads answers until a pause; returns true if there was one.
async fn swallow(redis: &mut UnixStream, answer: &mut [u8]) -> std::io::Result<bool> {
    let mut swallowed = 0;
    let mut until = Instant::now() + SWALLOWING_MAX;
    while let Ok(count) = timeout_at(until, redis.read(answer)).await {
        let count = count?;
        if count == 0 {
            break;
        }
        swallowed += count;
        until = Instant::now() + SWALLOWING;
    }
    Ok(swallowed > 0)
}
