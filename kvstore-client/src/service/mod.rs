//! Writes that are accepted into the server's queue, jobs, and the state of the queue.

mod request;

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use kvstore_core::error::{Subject, Unit};
use kvstore_core::limits::PAGE_ENTRIES_MAX;
use kvstore_core::model::command::{Action, Command};
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::{Applied, Computed, JobState, Outcome, Succeeded, Summary};
use kvstore_core::service::{self, Request, Submit, Submitted};
use kvstore_core::store::{ListRequest, Listed, Page};
use kvstore_core::{Entry, Error, Key, Result, Version};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::{ProblemReply, unexpected};
use crate::transport::{
    ApiCall, ApiReply, IDEMPOTENCY_REPLAYED, PREFER, RepeatEffect, RetryBackoff, SYNC_TOKEN,
    Transport,
};
use crate::wire::{self, RequestTarget, WireEntry};

/// The longest wait of one request, as limited by the API.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The queued writes of a server, with the verbs of [`Service`](kvstore_core::Service). Cheap to
/// clone.
///
/// ```no_run
/// # async fn program() -> kvstore_core::Result<()> {
/// # use std::time::Duration;
/// use kvstore_client::Client;
///
/// let kv = Client::open("http://127.0.0.1:8000").await?;
/// let service = kv.service();
/// let login = service
///     .set("session:7", "Ada")
///     .if_absent()
///     .expires_after(Duration::from_secs(3600))
///     .await?;
/// assert!(login.version().is_some());
/// service
///     .batch()
///     .check("account:2")
///     .if_absent()
///     .add("account:1", -30)
///     .set("account:3", &30)
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RemoteService {
    transport: Arc<Transport>,
}

/// A write to a server that is sent when it is awaited; made by the verbs of [`RemoteService`].
pub type Submission<'s> = service::Submission<'s, RemoteService>;

impl Submit for RemoteService {
    fn submit(&self, request: Request) -> impl Future<Output = Result<Submitted>> + Send {
        self.submit(request)
    }
}

impl RemoteService {
    pub(crate) fn new(transport: Arc<Transport>) -> Self {
        Self { transport }
    }

    pub(crate) fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// Sets `key` to `value`.
    pub fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Submission<'_> {
        self.batch().set(key, value)
    }

    /// Deletes `key`.
    pub fn delete(&self, key: &str) -> Submission<'_> {
        self.batch().delete(key)
    }

    /// Adds `by` to the 64-bit integer under `key`, 0 if it is absent; [`Submitted::number`] is the
    /// sum.
    pub fn add(&self, key: &str, by: i64) -> Submission<'_> {
        self.batch().add(key, by)
    }

    /// Merges `patch` into the value under `key` as specified by RFC 7396. The entry keeps its
    /// deadline.
    pub fn merge<T: Serialize + ?Sized>(&self, key: &str, patch: &T) -> Submission<'_> {
        self.batch().merge(key, patch)
    }

    /// Sets the deadline of the entry under `key` to `ttl` after acceptance.
    pub fn touch(&self, key: &str, ttl: Duration) -> Submission<'_> {
        self.batch().touch(key, ttl)
    }

    /// Begins a batch.
    pub fn batch(&self) -> Submission<'_> {
        Submission::new(self)
    }

    /// Submits a write to the server's queue, durably, and waits for its outcome if asked to.
    ///
    /// When this returns `Ok`, the write has its place in the order of its key and will be applied
    /// exactly once in effect. A wait that runs out is no error: the state is then
    /// [`JobState::Queued`]. The server always keeps the outcome, as with
    /// [`Request::keep_outcome`].
    ///
    /// # Errors
    /// Those of a [`Submission`]; [`Error::Unavailable`] if the server could not be reached and the
    /// write was not accepted; [`Error::Unknown`] if that is not known; [`Error::StorageFull`];
    /// [`Error::Denied`].
    pub async fn submit(&self, mut request: Request) -> Result<Submitted> {
        if request.idempotency_key.is_none() && self.transport.options.idempotency_keys {
            request.idempotency_key = Some(random_key());
            request.idempotency_window = Some(self.transport.retry_window(request.wait));
        }
        let is_keyed = request.idempotency_key.is_some();
        let command = &request.command;
        let mut call = request::call(&request)?;
        let end = Instant::now() + request.wait;
        let mut was_replayed = None;
        let mut backoff = RetryBackoff::default();
        loop {
            let left = end.saturating_duration_since(Instant::now()).min(WAIT_MAX);
            let mut call_now = call.clone();
            call_now.wait = left;
            let prefer = match left.is_zero() {
                true => "respond-async".to_owned(),
                false => format!("wait={}", left.as_millis().div_ceil(1000)),
            };
            call_now.header(PREFER, &prefer);
            let reply = self.transport.send(&call_now).await?;
            let mut submitted = submitted(command, &reply, &call_now)?;
            submitted.replayed = *was_replayed.get_or_insert(submitted.replayed);
            if submitted.state != JobState::Queued || !is_keyed {
                return Ok(submitted);
            }
            // The server stopped waiting early, as it does when it shuts down: the same request
            // under the same key is answered with the same job.
            let pause = backoff.next(Duration::ZERO);
            if Instant::now() + pause >= end {
                return Ok(submitted);
            }
            tokio::time::sleep(pause).await;
            call.effect = RepeatEffect::Once;
        }
    }

    pub(crate) async fn delete_all(&self, prefix: &str, wait: Duration) -> Result<u64> {
        let target = RequestTarget::new("/v1/kv")
            .with("prefix", prefix)
            .with("all", 1);
        let mut call = ApiCall::read(Method::DELETE, target.finish(), Subject::Key);
        // A repetition finds only what the first one has left.
        (call.effect, call.wait) = (RepeatEffect::Once, wait);
        call.header(PREFER, &format!("wait={}", wait.as_secs()));
        let reply = self.transport.send(&call).await?;
        match reply.status {
            StatusCode::OK => parse(&reply, &call).map(|answer: Cleared| answer.deleted),
            StatusCode::ACCEPTED => Err(unexpected(&reply, &call, &"the jobs are still queued")),
            _ => Err(ProblemReply::of(&reply).into_error(&call)),
        }
    }

    /// Returns the entry under `key`. To see a write of another process, call
    /// [`RemoteService::wait_visible`] first.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Denied`].
    pub async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let target = RequestTarget::entry(key).with("meta", 1).finish();
        let call = ApiCall::get(target, Subject::Key);
        let reply = self.transport.send(&call).await?;
        if reply.status == StatusCode::OK {
            let entry: WireEntry<'_> = parse(&reply, &call)?;
            return entry
                .entry()
                .map(Some)
                .ok_or_else(|| unexpected(&reply, &call, &"no entry"));
        }
        let problem = ProblemReply::of(&reply);
        match problem.is_absent_key() {
            true => Ok(None),
            false => Err(problem.into_error(&call)),
        }
    }

    /// Returns the entries under `keys`, in their order, as they were at one moment of each
    /// partition for each thousand keys, or fewer where the server's `--mget-max` is less.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if a thousand of them exceed the size of an answer;
    /// [`Error::Unavailable`], [`Error::Denied`].
    pub async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        let mut entries = Vec::with_capacity(keys.len());
        let mut most = PAGE_ENTRIES_MAX;
        while entries.len() < keys.len() {
            let keys = &keys[entries.len()..];
            let keys = &keys[..most.min(keys.len())];
            let (reply, call) = match self.mget(keys, None).await {
                Err(Error::TooLarge {
                    limit,
                    unit: Unit::Keys,
                    ..
                }) if (1..most as u64).contains(&limit) => {
                    most = limit as usize;
                    continue;
                }
                answer => answer?,
            };
            let found: WireEntries<'_> = parse(&reply, &call)?;
            let mut found = found.entries.into_iter().peekable();
            for key in keys {
                // The entries found are in the order of the keys.
                let entry = found.next_if(|entry| entry.key == *key);
                entries.push(match entry {
                    None => None,
                    Some(wire) => Some(
                        wire.entry()
                            .ok_or_else(|| unexpected(&reply, &call, &"no entry"))?,
                    ),
                });
            }
        }
        Ok(entries)
    }

    async fn mget(&self, keys: &[Key], token: Option<&JobId>) -> Result<(ApiReply, ApiCall)> {
        let subject = match token {
            Some(_) => Subject::SyncToken,
            None => Subject::Key,
        };
        let mut call = ApiCall::read(Method::POST, "/v1/mget".to_owned(), subject);
        let body = serde_json::to_vec(&serde_json::json!({ "keys": keys }));
        call.json("application/json", body.expect("keys have a JSON form"));
        if let Some(token) = token {
            call.header(SYNC_TOKEN, &token.to_string());
        }
        let reply = self.transport.send(&call).await?;
        if reply.status == StatusCode::OK {
            return Ok((reply, call));
        }
        let problem = ProblemReply::of(&reply);
        Err(match (token, problem.is("not-yet-visible")) {
            (Some(job), true) => Error::NotYetVisible { job: *job },
            _ => problem.into_error(&call),
        })
    }

    /// Returns a page of keys; pass [`Page::next`] as [`ListRequest::after`] to continue.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit outside 1 to 1000; [`Error::Unavailable`], [`Error::Denied`].
    pub async fn list(&self, request: &ListRequest) -> Result<Page> {
        let flag = |is_set: bool, value| is_set.then_some(value);
        let target = RequestTarget::new("/v1/kv")
            .with("prefix", &request.prefix)
            .with("limit", request.limit)
            .with_some("cursor", request.after.as_ref())
            .with_some("delimiter", request.delimiter.as_ref())
            .with_some("include", flag(request.include_values, "value"))
            .with_some("count", flag(request.count, "1"));
        if request.delimiter.as_deref() == Some("") {
            return Err(Error::Invalid {
                subject: Subject::Delimiter,
                reason: "it is empty".to_owned(),
            });
        }
        let call = ApiCall::get(target.finish(), Subject::Limit);
        let reply = self.transport.send(&call).await?;
        if reply.status != StatusCode::OK {
            return Err(ProblemReply::of(&reply).into_error(&call));
        }
        let page: WirePage<'_> = parse(&reply, &call)?;
        let entries: Option<Vec<Listed>> = page
            .keys
            .into_iter()
            .map(|wire| {
                Some(Listed {
                    version: wire.version()?,
                    size: wire.size?,
                    expires_at: wire.expires_at(),
                    value: wire.value(),
                    key: wire.key,
                })
            })
            .collect();
        Ok(Page {
            entries: entries
                .ok_or_else(|| unexpected(&reply, &call, &"an entry lacks its version"))?,
            prefixes: page.prefixes,
            next: page.cursor,
            count: page.count,
            as_of: kvstore_core::store::ChangeId::new(page.as_of),
        })
    }

    /// Waits until the write that `token` names has been applied (or has failed), so that a read
    /// shows it.
    ///
    /// # Errors
    /// [`Error::NotYetVisible`] after the server's longest wait; [`Error::Invalid`] if it knows no
    /// such write.
    pub async fn wait_visible(&self, token: &JobId) -> Result<()> {
        self.mget(&[], Some(token)).await.map(|_| ())
    }

    /// Checks that the server is ready, including its store and queue. A server that serves its
    /// probes on another port only shows that it is running.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn ping(&self) -> Result<()> {
        let call = ApiCall::get("/readyz".to_owned(), Subject::Job);
        let reply = self.transport.send(&call).await?;
        match reply.status {
            StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND => self.mget(&[], None).await.map(|_| ()),
            _ => Err(ProblemReply::of(&reply).into_error(&call)),
        }
    }
}

/// Returns 128 random bits.
fn random_key() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// Parses the JSON of an answer.
pub(crate) fn parse<'a, T: Deserialize<'a>>(reply: &'a ApiReply, call: &ApiCall) -> Result<T> {
    serde_json::from_slice(&reply.body).map_err(|error| unexpected(reply, call, &error))
}

/// The answer of `mget`.
#[derive(Debug, Deserialize)]
struct WireEntries<'a> {
    #[serde(borrow)]
    entries: Vec<WireEntry<'a>>,
}

/// A page of a listing.
#[derive(Debug, Deserialize)]
struct WirePage<'a> {
    #[serde(borrow)]
    keys: Vec<WireEntry<'a>>,
    prefixes: Vec<String>,
    cursor: Option<String>,
    count: Option<u64>,
    as_of: String,
}

/// The answer to a delete by prefix.
#[derive(Debug, Deserialize)]
struct Cleared {
    deleted: u64,
}

/// The answer to a write, a single one or a batch.
#[derive(Debug, Deserialize)]
struct WireWrite {
    job_id: JobId,
    #[serde(flatten)]
    one: WireApplied,
    results: Option<Vec<WireApplied>>,
}

/// The effect of one operation.
#[derive(Debug, Deserialize)]
pub(crate) struct WireApplied {
    op: Option<String>,
    etag: Option<String>,
    created: Option<bool>,
    deleted: Option<bool>,
    value: Option<i64>,
    expires_at: Option<String>,
}

impl WireApplied {
    /// Returns the effect, if the answer includes it.
    pub(crate) fn applied(&self) -> Option<Applied> {
        let version: Version = wire::version(self.etag.as_deref()?)?;
        let existed = match (self.created, self.deleted) {
            (Some(created), _) => !created,
            (None, Some(deleted)) => deleted,
            // A touch finds its entry, or fails.
            (None, None) => true,
        };
        Some(Applied {
            version,
            existed,
            computed: Computed {
                number: self.value,
                expires_at: self.expires_at.as_deref().and_then(wire::timestamp),
            },
        })
    }
}

/// Parses the answer to a write.
fn submitted(command: &Command, reply: &ApiReply, call: &ApiCall) -> Result<Submitted> {
    if !reply.status.is_success() {
        let problem = ProblemReply::of(reply);
        let operations = command.operations();
        let operation = operations
            .get(problem.failed_op())
            .unwrap_or(&operations[0]);
        return Err(problem.of_write(&operation.key, call));
    }
    let answer: WireWrite = parse(reply, call)?;
    let state = match reply.status {
        StatusCode::ACCEPTED => JobState::Queued,
        _ => {
            let results = answer.results.unwrap_or_else(|| vec![answer.one]);
            let writes = results
                .iter()
                .filter(|result| result.op.as_deref() != Some("check"));
            let writes: Option<Vec<Applied>> = writes.map(WireApplied::applied).collect();
            let summary = Summary::of(command);
            JobState::Finished(Outcome::Succeeded(
                writes
                    .filter(|writes| {
                        let is_write = |operation: &&_| !matches!(action(operation), Action::Check);
                        writes.len() == command.operations().iter().filter(is_write).count()
                    })
                    .map(|writes| Succeeded { summary, writes }),
            ))
        }
    };
    Ok(Submitted {
        id: answer.job_id,
        replayed: is_replayed(&reply.headers),
        state,
    })
}

fn action(operation: &kvstore_core::model::command::Operation) -> &Action {
    &operation.action
}

fn is_replayed(headers: &HeaderMap) -> bool {
    headers
        .get(IDEMPOTENCY_REPLAYED)
        .is_some_and(|value| value == "true")
}
