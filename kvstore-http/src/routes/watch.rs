//! `GET /v1/watch`: changes as they become visible, as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! Nothing is kept here for a client that is slow: changes are taken from the store as the connection takes their text, and they
//! wait in the store's history, which is bounded. Who falls out of it is disconnected.

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

/// nginx would keep events back otherwise, until it has a buffer full of them.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// After how many milliseconds a browser connects again.
const RETRY: &str = "retry: 2000\n";

/// The same where the service cannot serve it now.
const RETRY_LATER: &str = "retry: 10000\n\n";

/// Events that are there already go out together, up to so many bytes; one larger than this, alone.
const TOGETHER_BYTES: usize = 16 << 10;

/// Most bytes of values that are read of a snapshot at a time, unless a single value is larger.
const PAGE_BYTES: usize = 64 << 10;

/// Those who wait for changes, all of them together.
#[derive(Debug)]
pub(crate) struct WatchSlots {
    free: Arc<Semaphore>,
    /// True from the moment on when the server is told to stop.
    ended: watch::Sender<bool>,
}

/// One of them, for as long as it waits.
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

    /// Lets all of them end: they should be at another server.
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
    }

    /// A place among them for the request of `context`. No token has more than half of them.
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
    /// Returns when the server is told to stop, or the client may no longer know what it waits for.
    pub(super) async fn ended(&mut self) {
        let revoked = async {
            match &self.tokens {
                Some(tokens) => tokens.revoked(&self.access).await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            // The server outlives its requests, so it is not closed.
            let _ = self.ended.wait_for(|is_ended| *is_ended).await;
        };
        tokio::select! {
            () = ended => {}
            () = revoked => {}
        }
    }
}

/// `GET` and `HEAD`
pub(super) async fn get(context: &Context<'_>, parts: &Parts) -> Result<Reply> {
    let watching = watch(context, parts).await;
    watching.or_else(|problem| put_off(parts, problem))
}

/// Answers a request that cannot be served now. A browser's `EventSource` gives up for good on any
/// status but 200 (<https://html.spec.whatwg.org/multipage/server-sent-events.html>, §9.2.3): it
/// gets a stream that ends and says when to connect again.
pub(super) fn put_off(parts: &Parts, problem: Box<Problem>) -> Result<Reply> {
    if problem.kind().status() != StatusCode::SERVICE_UNAVAILABLE || !takes_events(parts) {
        return Err(problem);
    }
    let mut reply = stream(Body::whole(RETRY_LATER));
    let headers = reply.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(reply)
}

/// Returns true if the client names `text/event-stream` among what it accepts, as `EventSource`
/// does.
fn takes_events(parts: &Parts) -> bool {
    let lines = parts.headers.get_all(ACCEPT).iter();
    let mut ranges = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    ranges.any(|range| {
        let essence = range.split(|byte| *byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii();
        essence.eq_ignore_ascii_case(EVENT_STREAM.as_bytes())
    })
}

async fn watch(context: &Context<'_>, parts: &Parts) -> Result<Reply> {
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
    // Before the snapshot is read: a change meanwhile is sent again, and none is missed.
    let watch = match store.watch(&wanted.request).await {
        Err(gap) if since.is_some() && is_gap(&gap) && takes_events(parts) => {
            wanted.gap = Some(gap.to_string());
            wanted.request.from = WatchFrom::Now;
            store.watch(&wanted.request).await?
        }
        watch => {
            // A client that connects again has had what was there.
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

/// Returns true if nothing can be said of the changes behind the id that a client has seen: its
/// history is no longer kept, or was another store's.
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

/// Where the client has come to: a browser that connects again says it in the header, whatever stands in the address.
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

/// What a client wants to hear of.
#[derive(Debug)]
struct WatchQuery {
    request: WatchRequest,
    snapshot: bool,
    /// Why changes may have been missed since the client was here.
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

/// The events of one client, still to be sent.
struct Events {
    service: Service,
    in_flight: InFlight,
    watcher: WatchSlot,
    watch: Watch,
    wanted: WatchQuery,
    heartbeat: Duration,
    stage: Stage,
    /// The last id that the client was told.
    told: ChangeId,
}

enum Stage {
    Begin,
    /// The next page of what is there.
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

    /// The text that is sent next; `None` at the end.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        let mut text = Vec::new();
        if self.watcher.ended().now_or_never().is_some() {
            return None;
        }
        match &self.stage {
            Stage::Begin => {
                text.extend_from_slice(RETRY.as_bytes());
                if let Some(reason) = self.wanted.gap.take() {
                    // Without an id if a snapshot follows, as that is.
                    if !self.wanted.snapshot {
                        write_id(&mut text, &self.watch.start);
                    }
                    write_event(&mut text, "reset", Object::new().member("reason", reason));
                }
                if self.wanted.snapshot {
                    // Without an id: who is cut off in the middle begins anew.
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

    /// The changes that are there, or a heartbeat if there are none for so long; `None` at the end.
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
                    // Of what the client does not want to hear it should know that it is behind it: it need not be in the history.
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
            // What ends the stream ends the next call, too.
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

/// No JSON text of ours has a line break in it.
fn write_event(text: &mut Vec<u8>, name: &str, data: Object) {
    for piece in ["event: ", name, "\ndata: "] {
        text.extend_from_slice(piece.as_bytes());
    }
    text.extend_from_slice(&data.finish());
    text.extend_from_slice(b"\n\n");
}

/// The client connects again, and is told what is wrong then.
fn log_end(error: &Error) {
    tracing::info!(%error, "a watch has ended");
}
