//! Jobs, dead letters and the state of the queue.

use std::time::Duration;

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::{Method, StatusCode};
use kvstore_core::error::Subject;
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::Applied;
use kvstore_core::{Key, Result, Version};
use serde::Deserialize;

use crate::error::{ProblemReply, unexpected};
use crate::service::{RemoteService, WireApplied, parse};
use crate::transport::{ApiCall, ApiReply, RepeatEffect};
use crate::wire::{self, RequestTarget};

/// The known facts about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// The job.
    pub id: JobId,
    /// Its kind: `set`, `delete`, `add`, `merge`, `touch` or `batch`, while that is kept.
    pub op: Option<String>,
    /// Its key, or the first key of a batch, while that is kept.
    pub key: Option<Key>,
    /// How often it was tried, if known.
    pub attempts: Option<u32>,
    /// Its state.
    pub outcome: JobOutcome,
    /// When it was accepted; in a listing of waiting jobs only.
    pub accepted_at: Option<Timestamp>,
    /// When it became a dead letter; in a listing only.
    pub dead_at: Option<Timestamp>,
}

/// The state of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// It waits to be applied.
    Queued,
    /// It is applied; with its effect, if it is not a batch and that is kept.
    Succeeded(Option<Applied>),
    /// It could not be carried out when its turn came; nothing took effect.
    Failed {
        /// Why.
        reason: String,
        /// The operation of a batch that failed, from 0.
        operation: usize,
        /// The version of the operation's key at that moment; `None` if it was absent.
        current: Option<Version>,
    },
    /// The store rejected it for good, or its attempts ran out. It is kept as a dead letter.
    Dead {
        /// Why, for an operator.
        reason: String,
    },
}

/// Which jobs to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// The waiting jobs.
    Queued,
    /// The dead letters.
    Dead,
}

impl JobStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Dead => "dead",
        }
    }
}

/// How full the queue is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct QueueStatus {
    /// How many jobs wait.
    pub jobs: u64,
    /// Their keys and values, in bytes.
    pub bytes: u64,
    /// The age of the oldest waiting job, in seconds; `None` if none waits.
    pub oldest_age_seconds: Option<f64>,
    /// How many dead letters there are.
    pub dead: u64,
    /// How many partitions the queue has.
    pub partitions: u16,
}

impl RemoteService {
    /// Returns the known facts about a job, once it is finished or after `wait`; `None` if it is
    /// unknown or forgotten.
    ///
    /// # Errors
    /// [`Error::Unavailable`](kvstore_core::Error::Unavailable),
    /// [`Error::Denied`](kvstore_core::Error::Denied).
    pub async fn job(&self, id: &JobId, wait: Duration) -> Result<Option<JobInfo>> {
        let seconds = wait.as_millis().div_ceil(1000).min(60);
        let target = RequestTarget::new(&format!("/v1/jobs/{id}")).with("wait", seconds);
        let mut call = ApiCall::get(target.finish(), Subject::JobId);
        call.wait = wait;
        let reply = self.transport().send(&call).await?;
        match reply.status {
            StatusCode::OK => info(&reply, &call).map(Some),
            StatusCode::NOT_FOUND if ProblemReply::of(&reply).is_own() => Ok(None),
            _ => Err(ProblemReply::of(&reply).into_error(&call)),
        }
    }

    /// Streams the waiting jobs, or the dead letters, that the token may see, in ascending order.
    ///
    /// # Errors
    /// Those of [`RemoteService::job`]; the stream ends after the first.
    pub fn jobs(&self, status: JobStatus) -> BoxStream<'static, Result<JobInfo>> {
        let target = move |cursor: Option<String>| {
            let target = RequestTarget::new("/v1/jobs")
                .with("status", status.as_str())
                .with("limit", 1000);
            target.with_some("cursor", cursor).finish()
        };
        let first = (self.clone(), Some(target(None)));
        let pages = stream::try_unfold(first, move |(service, wanted)| async move {
            let Some(wanted) = wanted else {
                return Ok(None);
            };
            let call = ApiCall::get(wanted, Subject::JobId);
            let reply = service.expect(StatusCode::OK, &call).await?;
            let page: WireJobPage = parse(&reply, &call)?;
            let jobs: Option<Vec<JobInfo>> = page.jobs.into_iter().map(WireJob::info).collect();
            let jobs = jobs.ok_or_else(|| unexpected(&reply, &call, &"a job has no status"))?;
            let next = page.cursor.map(|cursor| target(Some(cursor)));
            Ok(Some((
                stream::iter(jobs.into_iter().map(Ok)),
                (service, next),
            )))
        });
        pages.try_flatten().boxed()
    }

    /// Retries a dead letter as a new job, and returns that job. Two retries of one letter are one
    /// job.
    ///
    /// # Errors
    /// [`Error::NotFound`](kvstore_core::Error::NotFound) if there is no such letter.
    pub async fn retry(&self, id: &JobId) -> Result<JobId> {
        let mut call = write(Method::POST, format!("/v1/jobs/{id}/retry"));
        // The server derives an idempotency key from the old id.
        call.effect = RepeatEffect::Once;
        let reply = self.expect(StatusCode::OK, &call).await?;
        let answer: Retried = parse(&reply, &call)?;
        Ok(answer.job_id)
    }

    /// Drops a dead letter, and returns true if it existed.
    ///
    /// # Errors
    /// Those of [`RemoteService::job`].
    pub async fn forget(&self, id: &JobId) -> Result<bool> {
        let call = write(Method::DELETE, format!("/v1/jobs/{id}"));
        let reply = self.transport().send(&call).await?;
        match reply.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND if ProblemReply::of(&reply).is_own() => Ok(false),
            _ => Err(ProblemReply::of(&reply).into_error(&call)),
        }
    }

    /// Retries all dead letters that the token may see, and returns their number.
    ///
    /// # Errors
    /// Those of [`RemoteService::job`]. Some letters may have been retried then; repeating the call
    /// is safe.
    pub async fn retry_dead(&self) -> Result<u64> {
        let call = write(Method::POST, "/v1/jobs/retry?status=dead".to_owned());
        let reply = self.expect(StatusCode::OK, &call).await?;
        let answer: Many = parse(&reply, &call)?;
        answer
            .retried
            .ok_or_else(|| unexpected(&reply, &call, &"it has no number"))
    }

    /// Drops all dead letters that the token may see, and returns their number.
    ///
    /// # Errors
    /// Those of [`RemoteService::job`]. Some letters may have been dropped then; repeating the call
    /// is safe.
    pub async fn forget_dead(&self) -> Result<u64> {
        let call = write(Method::DELETE, "/v1/jobs?status=dead".to_owned());
        let reply = self.expect(StatusCode::OK, &call).await?;
        let answer: Many = parse(&reply, &call)?;
        answer
            .forgotten
            .ok_or_else(|| unexpected(&reply, &call, &"it has no number"))
    }

    /// Returns how full the queue is.
    ///
    /// # Errors
    /// Those of [`RemoteService::job`].
    pub async fn queue_status(&self) -> Result<QueueStatus> {
        let call = ApiCall::get("/v1/queue".to_owned(), Subject::Job);
        let reply = self.expect(StatusCode::OK, &call).await?;
        parse(&reply, &call)
    }

    async fn expect(&self, status: StatusCode, call: &ApiCall) -> Result<ApiReply> {
        let reply = self.transport().send(call).await?;
        match reply.status == status {
            true => Ok(reply),
            false => Err(ProblemReply::of(&reply).into_error(call)),
        }
    }
}

/// Builds a write that finds nothing left to do when it is sent twice.
fn write(method: Method, target: String) -> ApiCall {
    ApiCall {
        effect: RepeatEffect::Once,
        ..ApiCall::read(method, target, Subject::JobId)
    }
}

fn info(reply: &ApiReply, call: &ApiCall) -> Result<JobInfo> {
    let job: WireJob = parse(reply, call)?;
    job.info()
        .ok_or_else(|| unexpected(reply, call, &"the job has no status"))
}

/// A page of jobs.
#[derive(Debug, Deserialize)]
struct WireJobPage {
    jobs: Vec<WireJob>,
    cursor: Option<String>,
}

/// A job of the API.
#[derive(Debug, Deserialize)]
struct WireJob {
    id: JobId,
    op: Option<String>,
    key: Option<Key>,
    status: String,
    attempts: Option<u32>,
    result: Option<WireApplied>,
    error: Option<WireError>,
    accepted_at: Option<String>,
    dead_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct WireError {
    detail: String,
    current_etag: Option<String>,
    failed_op: Option<usize>,
}

impl WireJob {
    fn info(self) -> Option<JobInfo> {
        let error = self.error;
        let outcome = match (self.status.as_str(), error) {
            ("queued", _) => JobOutcome::Queued,
            ("succeeded", _) => {
                JobOutcome::Succeeded(self.result.and_then(|result| result.applied()))
            }
            ("failed", Some(error)) => JobOutcome::Failed {
                reason: error.detail,
                operation: error.failed_op.unwrap_or(0),
                current: error.current_etag.as_deref().and_then(wire::version),
            },
            ("dead", Some(error)) => JobOutcome::Dead {
                reason: error.detail,
            },
            _ => return None,
        };
        Some(JobInfo {
            id: self.id,
            op: self.op,
            key: self.key,
            attempts: self.attempts,
            outcome,
            accepted_at: self.accepted_at.as_deref().and_then(wire::timestamp),
            dead_at: self.dead_at.as_deref().and_then(wire::timestamp),
        })
    }
}

#[derive(Debug, Deserialize)]
struct Retried {
    job_id: JobId,
}

#[derive(Debug, Deserialize)]
struct Many {
    retried: Option<u64>,
    forgotten: Option<u64>,
}
