//! `GET /v1/watch`: changes as they become visible, as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! Nothing is buffered here for a slow client: changes are taken from the store as the connection
//! accepts their text, and wait in the store's history, which is limited. A client that falls
//! behind the history is disconnected.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{StreamExt, unfold};
use hyper::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use kvstore_core::error::Subject;
use kvstore_core::store::{
    ChangeId, ChangeKind, Changed, ListRequest, Listed, Watch, WatchFrom, WatchRequest,
};
use kvstore_core::{Error, Service};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::context::Context;
use super::list::include_values;
use crate::access::token::{Access, Held, Tokens};
use crate::answer::error::{Problem, Result};
use crate::answer::field::{Field, Place, raw};
use crate::answer::json::Object;
use crate::answer::problems::Kind;
use crate::answer::reply::{Body, NO_STORE, Reply};
use crate::request::target::Query;
use crate::server::connection::WaitingAnswer;
use crate::server::in_flight::{InFlight, UNCOUNTED_BYTES};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Without it, nginx withholds events until a buffer is full.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Milliseconds after which a browser reconnects.
const RETRY: &str = "retry: 2000\n";

/// The same, while the service cannot serve the watch.
const RETRY_LATER: &str = "retry: 10000\n\n";

/// Available events are sent together up to this many bytes; a larger event is sent alone.
const TOGETHER_BYTES: usize = 16 << 10;

/// Maximum size of the values of a snapshot that are read at a time, in bytes, unless a single
/// value is larger.
const PAGE_BYTES: usize = 64 << 10;

/// Limits the number of open watches.
#[derive(Debug)]
pub(crate) struct WatchSlots {
    free: Arc<Semaphore>,
    /// True once the server drains.
    ended: watch::Sender<bool>,
}

/// A place among the open watches, released on drop.
#[derive(Debug)]
pub(super) struct WatchSlot {
    ended: watch::Receiver<bool>,
    access: Access,
    tokens: Option<Arc<Tokens>>,
    _place: OwnedSemaphorePermit,
    _held: Option<Held>,
    _waiting: WaitingAnswer,
}

impl WatchSlots {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(most)),
            ended: watch::Sender::new(false),
        }
    }

    /// Ends all watches: their clients should reconnect to another server.
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Takes a place for the request of `context`. One token may hold at most half of them.
    pub(super) fn admit(&self, context: &Context<'_>) -> Result<WatchSlot> {
        let Ok(place) = Arc::clone(&self.free).try_acquire_owned() else {
            return Err(Problem::unavailable(
                Kind::Overloaded,
                "there are as many watchers as the server takes",
            ));
        };
        let held = context.access.watch();
        let most = context.options.watchers_max.div_ceil(2);
        if held.as_ref().is_some_and(|held| held.count() > most) {
            return Err(Problem::unavailable(
                Kind::Overloaded,
                "this token has as many watchers as the server takes of one token",
            ));
        }
        Ok(WatchSlot {
            ended: self.ended.subscribe(),
            access: context.access.clone(),
            tokens: context.options.tokens.clone(),
            _place: place,
            _held: held,
            _waiting: context.phase.wait(),
        })
    }
}

impl WatchSlot {
    /// Returns once the server drains or the client's access is revoked.
    pub(super) async fn ended(&mut self) {
        let revoked = async {
            match &self.tokens {
                Some(tokens) => tokens.revoked(&self.access).await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            // The server outlives its requests, so the channel is open.
            let _ = self.ended.wait_for(|is_ended| *is_ended).await;
        };
        tokio::select! {
            () = ended => {}
            () = revoked => {}
        }
    }
}

/// Answers a watch that cannot be served now. A browser's `EventSource` gives up permanently on any
/// status but 200 (<https://html.spec.whatwg.org/multipage/server-sent-events.html>, §9.2.3). It
/// therefore receives a stream that ends at once and says when to reconnect.
pub(super) fn put_off(parts: &Parts, problem: Box<Problem>) -> Result<Reply> {
    if problem.kind().status() != StatusCode::SERVICE_UNAVAILABLE || !takes_events(parts) {
        return Err(problem);
    }
    let mut reply = stream(Body::whole(RETRY_LATER));
    let headers = reply.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(reply)
}

/// Returns true if `Accept` names `text/event-stream`, as `EventSource` does.
fn takes_events(parts: &Parts) -> bool {
    let lines = parts.headers.get_all(ACCEPT).iter();
    let mut ranges = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    ranges.any(|range| {
        let essence = range.split(|byte| *byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii();
        essence.eq_ignore_ascii_case(EVENT_STREAM.as_bytes())
    })
}

/// Answers `GET` and `HEAD /v1/watch`.
pub(super) async fn get(context: &Context<'_>, parts: &Parts) -> Result<Reply> {
    let query = Query::new(parts.uri.query());
    let mut wanted = WatchQuery::of(query)?;
    context.access.may_list(&wanted.request.prefix)?;
    context.wait_visible(query).await?;
    let since = since(parts, query)?;
    if let Some(id) = &since {
        wanted.request.from = WatchFrom::After(ChangeId::new(id.clone()));
    }
    let watcher = context.watchers.admit(context)?;
    let store = context.service.store();
    // The watch starts before the snapshot is read: a change in between is sent twice rather than
    // missed.
    let watch = match store.watch(&wanted.request).await {
        Err(gap) if since.is_some() && is_gap(&gap) && takes_events(parts) => {
            wanted.gap = Some(gap.to_string());
            wanted.request.from = WatchFrom::Now;
            store.watch(&wanted.request).await?
        }
        watch => {
            // A client that resumes has already received the snapshot.
            wanted.snapshot &= since.is_none();
            watch?
        }
    };
    let body = match parts.method {
        Method::HEAD => Body::default(),
        _ => {
            let events = Events::new(context, watcher, watch, wanted);
            Body::events(unfold(events, Events::next).boxed())
        }
    };
    Ok(stream(body))
}

/// Returns true if the changes since the client's last id are unknown: they are no longer kept, or
/// the id is another store's.
fn is_gap(error: &Error) -> bool {
    let is_foreign =
        matches!(error, Error::Invalid { subject, .. } if *subject == Subject::ChangeId);
    is_foreign || matches!(error, Error::Compacted)
}

fn stream(body: Body) -> Reply {
    let mut reply = Response::new(body);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, EVENT_STREAM);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    reply
}

/// Returns the id at which the client resumes. The header of a browser that reconnects takes
/// precedence over the address.
fn since(parts: &Parts, query: Query<'_>) -> Result<Option<String>> {
    let malformed = || Problem::malformed("Last-Event-ID must be an id that an event had");
    let header = match parts.headers.get(LAST_EVENT_ID) {
        Some(line) => Some(line.to_str().map_err(|_| malformed())?.to_owned()),
        None => None,
    };
    let known = match header {
        Some(header) => Some(header),
        None => query.get("since")?.map(String::from),
    };
    Ok(known.filter(|id| !id.is_empty()))
}

/// The parameters of a watch.
#[derive(Debug)]
struct WatchQuery {
    request: WatchRequest,
    snapshot: bool,
    /// Why changes since the client's last id may be missing.
    gap: Option<String>,
}

impl WatchQuery {
    fn of(query: Query<'_>) -> Result<Self> {
        let kinds = match query.get("events")? {
            None => ChangeKind::ALL.to_vec(),
            Some(names) => names.split(',').map(kind).collect::<Result<_>>()?,
        };
        let request = WatchRequest {
            from: WatchFrom::Now,
            prefix: query.get("prefix")?.map(String::from).unwrap_or_default(),
            kinds,
            include_values: include_values(query)?,
        };
        Ok(Self {
            request,
            snapshot: query.switch("snapshot")?,
            gap: None,
        })
    }
}

fn name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Set => "set",
        ChangeKind::Delete => "delete",
        ChangeKind::Expire => "expire",
    }
}

fn kind(wanted: &str) -> Result<ChangeKind> {
    let found = ChangeKind::ALL
        .into_iter()
        .find(|kind| name(*kind) == wanted);
    found.ok_or_else(|| {
        Problem::field(Field::value_error(
            Place::In("query", "events"),
            "it must be some of set, delete and expire, with commas between them",
            raw(wanted),
        ))
    })
}

/// The events still to be sent to one client.
struct Events {
    service: Service,
    in_flight: InFlight,
    watcher: WatchSlot,
    watch: Watch,
    wanted: WatchQuery,
    heartbeat: Duration,
    stage: Stage,
    /// The last id sent to the client.
    told: ChangeId,
}

enum Stage {
    Begin,
    /// The next page of the snapshot.
    Snapshot(ListRequest),
    Changes,
}

impl Events {
    fn new(context: &Context<'_>, watcher: WatchSlot, watch: Watch, wanted: WatchQuery) -> Self {
        Self {
            service: context.service.clone(),
            in_flight: context.in_flight.clone(),
            heartbeat: context.options.watch_heartbeat,
            told: watch.start.clone(),
            watcher,
            watch,
            wanted,
            stage: Stage::Begin,
        }
    }

    /// Returns the next text to send; `None` at the end.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        let mut text = Vec::new();
        if self.watcher.ended().now_or_never().is_some() {
            return None;
        }
        match &self.stage {
            Stage::Begin => {
                text.extend_from_slice(RETRY.as_bytes());
                if let Some(reason) = self.wanted.gap.take() {
                    // The reset has no id if a snapshot follows, since the snapshot has none
                    // either.
                    if !self.wanted.snapshot {
                        write_id(&mut text, &self.watch.start);
                    }
                    write_event(&mut text, "reset", Object::new().member("reason", reason));
                }
                if self.wanted.snapshot {
                    // No id: a client disconnected midway must start again.
                    text.push(b'\n');
                    self.stage = Stage::Snapshot(ListRequest {
                        prefix: self.wanted.request.prefix.clone(),
                        include_values: self.wanted.request.include_values,
                        ..ListRequest::default()
                    });
                } else {
                    write_id(&mut text, &self.watch.start);
                    text.push(b'\n');
                    self.stage = Stage::Changes;
                }
            }
            Stage::Snapshot(request) => {
                let page = self.service.list_within(request, PAGE_BYTES).await;
                let page = page.inspect_err(log_end).ok()?;
                for listed in page.entries {
                    write_present(&mut text, listed);
                }
                match page.next {
                    Some(next) => {
                        let request = request.clone();
                        let after = Some(next);
                        self.stage = Stage::Snapshot(ListRequest { after, ..request });
                    }
                    None => {
                        write_id(&mut text, &self.watch.start);
                        text.extend_from_slice(b"event: synced\ndata: {}\n\n");
                        self.stage = Stage::Changes;
                    }
                }
            }
            Stage::Changes => self.write_changes(&mut text).await?,
        }
        let text = Bytes::from(text);
        if text.len() <= UNCOUNTED_BYTES {
            return Some((text, self));
        }
        let hold = tokio::select! {
            biased;
            () = self.watcher.ended() => return None,
            hold = self.in_flight.wait(text.len()) => hold,
        };
        Some((hold.carried(text), self))
    }

    /// Writes the available changes, or a heartbeat after a pause without any. Returns `None` at
    /// the end.
    async fn write_changes(&mut self, text: &mut Vec<u8>) -> Option<()> {
        let pause = tokio::time::sleep(self.heartbeat);
        tokio::pin!(pause);
        while text.is_empty() {
            let change = tokio::select! {
                biased;
                () = self.watcher.ended() => return None,
                change = self.watch.changes.next() => change?,
                () = &mut pause => {
                    text.extend_from_slice(b": heartbeat\n");
                    // Advances the client's id past changes that it filters out, which may leave
                    // the history at any time.
                    let place = (self.watch.place)();
                    if place != self.told {
                        write_id(text, &place);
                        self.told = place;
                    }
                    text.push(b'\n');
                    return Some(());
                }
            };
            self.write_change(text, change.inspect_err(log_end).ok()?);
        }
        while text.len() < TOGETHER_BYTES {
            // An end or an error here recurs in the next call.
            let Some(Some(Ok(change))) = self.watch.changes.next().now_or_never() else {
                break;
            };
            self.write_change(text, change);
        }
        Some(())
    }

    fn write_change(&mut self, text: &mut Vec<u8>, change: Changed) {
        write_id(text, &change.id);
        let mut data = Object::new()
            .member("key", &change.key)
            .etag(change.version);
        if let Some(value) = change.value {
            data = data.raw("value", value.as_bytes());
        }
        write_event(text, name(change.kind), data);
        self.told = change.id;
    }
}

fn write_present(text: &mut Vec<u8>, listed: Listed) {
    let mut data = Object::new()
        .member("key", &listed.key)
        .etag(listed.version);
    if let Some(value) = listed.value {
        data = data.raw("value", value.as_bytes());
    }
    write_event(text, name(ChangeKind::Set), data);
}

fn write_id(text: &mut Vec<u8>, id: &ChangeId) {
    for piece in ["id: ", id.as_str(), "\n"] {
        text.extend_from_slice(piece.as_bytes());
    }
}

/// Writes one event. Its JSON text contains no line breaks.
fn write_event(text: &mut Vec<u8>, name: &str, data: Object) {
    for piece in ["event: ", name, "\ndata: "] {
        text.extend_from_slice(piece.as_bytes());
    }
    text.extend_from_slice(&data.finish());
    text.extend_from_slice(b"\n\n");
}

/// Logs why a watch ended. The client learns the reason when it reconnects.
fn log_end(error: &Error) {
    tracing::info!(%error, "a watch has ended");
}
