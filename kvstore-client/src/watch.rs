//! Live changes as a stream that resumes by itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kvstore_core::error::Subject;
use kvstore_core::store::{ChangeId, ChangeKind, Changed, Watch, WatchFrom, WatchRequest};
use kvstore_core::{Error, Key, Result, Value, Version};
use tokio::time::{sleep, timeout};

use crate::error::source;
use crate::events::{EventParser, ServerSentEvent};
use crate::transport::{ApiCall, Connection, LAST_EVENT_ID, RetryBackoff, Transport};
use crate::wire::{RequestTarget, WireEntry};

/// An event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An existing entry: a part of the snapshot.
    Present {
        /// Its key.
        key: Key,
        /// Its version.
        version: Version,
        /// Its value, if values were asked for.
        value: Option<Value>,
    },
    /// The snapshot is complete. What follows are changes.
    Synced,
    /// A change.
    Changed(Changed),
    /// The history since the last event is lost, or the snapshot was interrupted. A new snapshot
    /// follows; keys that it does not hold are absent.
    Reset,
}

/// A watch of the keys with one prefix, made by [`Client::watch`](crate::Client::watch).
///
/// ```no_run
/// # async fn program(kv: kvstore_client::Client) -> kvstore_core::Result<()> {
/// use std::collections::BTreeMap;
///
/// use futures_util::TryStreamExt;
/// use kvstore_client::Event;
/// use kvstore_core::store::ChangeKind;
///
/// // A copy of all users, kept up to date.
/// let mut users = BTreeMap::new();
/// let mut events = kv.watch("user:").snapshot().values().stream();
/// while let Some(event) = events.try_next().await? {
///     match event {
///         Event::Reset => users.clear(),
///         Event::Present { key, value, .. } => drop(users.insert(key, value)),
///         Event::Changed(change) if change.kind == ChangeKind::Set => {
///             users.insert(change.key, change.value);
///         }
///         Event::Changed(change) => drop(users.remove(&change.key)),
///         Event::Synced => println!("{} users", users.len()),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens before `stream`"]
#[derive(Clone, Debug)]
pub struct Watching {
    transport: Arc<Transport>,
    prefix: String,
    kinds: Option<Vec<ChangeKind>>,
    values: bool,
    snapshot: bool,
    since: Option<ChangeId>,
}

impl Watching {
    pub(crate) fn new(transport: Arc<Transport>, prefix: &str) -> Self {
        Self {
            transport,
            prefix: prefix.to_owned(),
            kinds: None,
            values: false,
            snapshot: false,
            since: None,
        }
    }

    /// Includes values.
    pub fn values(mut self) -> Self {
        self.values = true;
        self
    }

    /// Begins with a snapshot of the existing entries.
    pub fn snapshot(mut self) -> Self {
        self.snapshot = true;
        self
    }

    /// Shows only changes of these kinds.
    pub fn kinds(mut self, kinds: &[ChangeKind]) -> Self {
        self.kinds = Some(kinds.to_vec());
        self
    }

    /// Begins after a change seen before, and without a snapshot unless the history since then is
    /// lost.
    pub fn since(mut self, id: ChangeId) -> Self {
        self.since = Some(id);
        self
    }

    /// Connects when it is polled, and again whenever the connection breaks, continuing after the
    /// last change shown: a change may be repeated, but none is skipped.
    ///
    /// If the server no longer has the history since then, a watch with a snapshot continues with
    /// [`Event::Reset`] and a new one, and a watch without ends with [`Error::Compacted`]. The
    /// watch also ends with an error if the server rejects it, as with [`Error::Denied`]; an
    /// unreachable server does not end it.
    pub fn stream(self) -> BoxStream<'static, Result<Event>> {
        let feed = RunningWatch::new(self);
        stream::try_unfold(feed, |mut feed| async move {
            Ok(feed.next().await?.map(|event| (event, feed)))
        })
        .boxed()
    }

    /// Returns the changes in the form of a store of the core.
    pub(crate) async fn changes(mut self, request: &WatchRequest) -> Result<Watch> {
        if let WatchFrom::After(id) = &request.from {
            self.since = Some(id.clone());
        }
        self.kinds = Some(request.kinds.clone());
        self.values = request.include_values;
        let retry_for = self.transport.options.retry_for;
        let mut feed = RunningWatch::new(self);
        let start = match timeout(retry_for, feed.begin()).await {
            Ok(start) => start?,
            Err(_) => return Err(feed.last_error()),
        };
        let place = Arc::new(Mutex::new(start.clone()));
        feed.place = Some(Arc::clone(&place));
        let changes = stream::try_unfold(feed, |mut feed| async move {
            Ok(feed.next().await?.map(|event| (event, feed)))
        });
        let changes = changes.try_filter_map(|event| async move {
            Ok(match event {
                Event::Changed(change) => Some(change),
                _ => None,
            })
        });
        Ok(Watch {
            start,
            changes: changes.boxed(),
            place: Box::new(move || place.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        })
    }
}

/// A running watch.
struct RunningWatch {
    watching: Watching,
    /// The last change received, or where the watch began.
    last: Option<ChangeId>,
    connection: Option<EventConnection>,
    received: VecDeque<Event>,
    backoff: RetryBackoff,
    /// True once an incomplete snapshot has been shown in part.
    is_half_shown: bool,
    /// Where to publish the position up to which everything was taken, if requested.
    place: Option<Arc<Mutex<ChangeId>>>,
    error: Option<Error>,
}

/// A connection that delivers events.
struct EventConnection {
    body: Incoming,
    events: EventParser,
    /// Dropping it would end the body.
    _connection: Connection,
}

impl RunningWatch {
    fn new(watching: Watching) -> Self {
        Self {
            last: watching.since.clone(),
            watching,
            connection: None,
            received: VecDeque::new(),
            backoff: RetryBackoff::default(),
            is_half_shown: false,
            place: None,
            error: None,
        }
    }

    /// Connects and returns where the watch begins.
    async fn begin(&mut self) -> Result<ChangeId> {
        loop {
            if self.connection.is_some()
                && let Some(start) = &self.last
            {
                return Ok(start.clone());
            }
            self.step().await?;
        }
    }

    async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            let event = self.received.pop_front();
            let id = match &event {
                Some(Event::Changed(change)) => Some(&change.id),
                Some(_) => None,
                None => self.last.as_ref(),
            };
            if let (Some(place), Some(id)) = (&self.place, id) {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = id.clone();
            }
            if event.is_some() {
                return Ok(event);
            }
            self.step().await?;
        }
    }

    /// Connects or reads the next piece.
    async fn step(&mut self) -> Result<()> {
        match self.connection.take() {
            None => self.connect().await,
            Some(reading) => self.read(reading).await,
        }
    }

    async fn connect(&mut self) -> Result<()> {
        let watching = &self.watching;
        let kinds = watching.kinds.as_ref();
        let kinds = kinds.map(|kinds| kinds.iter().map(name).collect::<Vec<_>>().join(","));
        let target = RequestTarget::new("/v1/watch")
            .with("prefix", &watching.prefix)
            .with_some("events", kinds)
            .with_some("include", watching.values.then_some("value"))
            .with_some("snapshot", watching.snapshot.then_some("1"));
        let mut call = ApiCall::get(target.finish(), Subject::ChangeId);
        if let Some(last) = &self.last {
            let added = call.header(LAST_EVENT_ID, last.as_str());
            added.ok_or_else(|| Error::Invalid {
                subject: Subject::ChangeId,
                reason: "it does not have the form that a server hands out".to_owned(),
            })?;
        }
        match watching.transport.stream(&call).await {
            Ok((response, connection)) => {
                if self.is_half_shown {
                    self.is_half_shown = false;
                    self.received.push_back(Event::Reset);
                }
                self.connection = Some(EventConnection {
                    body: response.into_body(),
                    events: EventParser::default(),
                    _connection: connection,
                });
            }
            Err((Error::Compacted, _)) if watching.snapshot && self.last.is_some() => {
                self.last = None;
                self.is_half_shown = false;
                self.received.push_back(Event::Reset);
            }
            Err((error, true)) => {
                self.error = Some(error);
                self.pause().await;
            }
            Err((error, false)) => return Err(error),
        }
        Ok(())
    }

    async fn read(&mut self, mut reading: EventConnection) -> Result<()> {
        let options = &self.watching.transport.options;
        let answer_bytes_max = options.answer_bytes_max;
        let piece = match timeout(options.watch_timeout, reading.body.frame()).await {
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            // It ended, broke or fell silent: reconnect.
            ended => {
                self.error = Some(Error::Unavailable {
                    what: "the watch was cut off".to_owned(),
                    source: match ended {
                        Ok(Some(Err(error))) => source(error),
                        _ => None,
                    },
                });
                self.pause().await;
                return Ok(());
            }
        };
        let mut sent = Vec::new();
        reading.events.take(&piece, |event| sent.push(event));
        if reading.events.pending_bytes() > answer_bytes_max {
            return Err(Error::TooLarge {
                subject: Subject::Value,
                limit: answer_bytes_max as u64,
                unit: kvstore_core::error::Unit::Bytes,
            });
        }
        for sent in sent {
            self.backoff = RetryBackoff::default();
            self.take(sent)?;
        }
        self.connection = Some(reading);
        Ok(())
    }

    fn take(&mut self, sent: ServerSentEvent) -> Result<()> {
        let id = sent.id.map(ChangeId::new);
        let kind = ChangeKind::ALL
            .into_iter()
            .find(|kind| name(kind) == sent.name);
        match (kind, sent.name.as_str()) {
            (Some(kind), _) => {
                let entry: Option<WireEntry<'_>> = serde_json::from_str(&sent.data).ok();
                let entry = entry.and_then(|entry| {
                    let (version, value) = (entry.version()?, entry.value());
                    Some((entry.key, version, value))
                });
                let Some((key, version, value)) = entry else {
                    return Err(Error::Unavailable {
                        what: format!("an event of the watch is not as expected: {}", sent.data),
                        source: None,
                    });
                };
                self.received.push_back(match &id {
                    Some(id) => Event::Changed(Changed {
                        id: id.clone(),
                        key,
                        version,
                        kind,
                        value,
                    }),
                    None => {
                        self.is_half_shown = true;
                        Event::Present {
                            key,
                            version,
                            value,
                        }
                    }
                });
            }
            (None, "synced") => {
                self.is_half_shown = false;
                self.received.push_back(Event::Synced);
            }
            // Only the id has advanced, or the event's type is unknown to this version.
            _ => {}
        }
        if id.is_some() {
            self.last = id;
        }
        Ok(())
    }

    async fn pause(&mut self) {
        sleep(self.backoff.next(Duration::ZERO)).await;
    }

    fn last_error(self) -> Error {
        self.error.unwrap_or_else(|| Error::Unavailable {
            what: "the server does not begin the watch".to_owned(),
            source: None,
        })
    }
}

fn name(kind: &ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Set => "set",
        ChangeKind::Delete => "delete",
        ChangeKind::Expire => "expire",
    }
}
