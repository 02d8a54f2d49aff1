//! Jobs on their way into the queue. Jobs that arrive for a partition while a batch is in flight
//! form the next batch. So a server needs one script call for jobs that arrive together, and their
//! order is that of arrival.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::{Error, Result, Subject, Unit};
use crate::in_memory::log::Remembered;
use crate::limits::WORK_BATCH_JOBS;
use crate::model::entry::milliseconds;
use crate::model::id::{JobId, Partition, Position};
use crate::model::job::NewJob;
use crate::queue::Accepted;
use crate::redis::queue::pack;
use crate::redis::run::resend::{REMEMBERED, Senders, settled};
use crate::redis::scripts::Script;
use crate::redis::session::Session;
use crate::redis::text::{number, position, unexpected};

/// Most jobs that wait for the batch before them, in each partition of each process. Further jobs
/// are refused.
const WAITING_MAX: usize = 10_000;

/// Most bytes of those jobs.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Bytes (keys and values) past which a batch takes no more jobs. A batch becomes one entry of the
/// log, which is read whole.
const ENTRY_BYTES: usize = 256 << 10;

/// A job that waits: what the script takes of it, and the channel for its answer.
struct WaitingJob {
    size: usize,
    text: String,
    /// The key, the fingerprint of the request, the window and the minimum in milliseconds.
    idempotency: Option<(String, String, u64, u64)>,
    answer: oneshot::Sender<Result<Accepted>>,
}

/// The jobs that wait for one partition.
#[derive(Default)]
pub(crate) struct Lane {
    state: Mutex<LaneState>,
    senders: Senders,
}

#[derive(Default)]
struct LaneState {
    waiting: VecDeque<WaitingJob>,
    bytes: usize,
    /// True while a batch is in flight. There is never more than one, so none overtakes another.
    under_way: bool,
}

impl Lane {
    /// Adds a job to those that wait, and returns the receiver of its answer.
    pub(crate) fn add(
        &self,
        job: &NewJob,
        bytes_max: usize,
    ) -> Result<oneshot::Receiver<Result<Accepted>>> {
        let size = job.size_bytes();
        if size > bytes_max {
            return Err(Error::TooLarge {
                subject: Subject::Job,
                limit: bytes_max as u64,
                unit: Unit::Bytes,
            });
        }
        let idempotency = job.idempotency.as_ref().map(|idempotency| {
            (
                Remembered::hash(idempotency).to_string(),
                job.command.fingerprint().to_string(),
                milliseconds(idempotency.window),
                milliseconds(idempotency.minimum),
            )
        });
        let text = pack::text(job)?;
        let (answer, answered) = oneshot::channel();
        let mut state = self.state();
        let is_full = state.waiting.len() >= WAITING_MAX || state.bytes + size > WAITING_BYTES_MAX;
        if is_full && !state.waiting.is_empty() {
            let what = "the queue (jobs on their way to the Redis server)";
            return full(what, WAITING_MAX, None);
        }
        state.bytes += size;
        state.waiting.push_back(WaitingJob {
            size,
            text,
            idempotency,
            answer,
        });
        Ok(answered)
    }

    /// Ensures that the jobs that wait are sent, even if no caller waits for the answers.
    pub(crate) fn send(self: &Arc<Self>, session: &Arc<Session>, partition: Partition) {
        if !mem::replace(&mut self.state().under_way, true) {
            let (lane, session) = (Arc::clone(self), Arc::clone(session));
            tokio::spawn(async move {
                while let Some(batch) = lane.next() {
                    send(&session, &lane.senders, partition, batch).await;
                }
            });
        }
    }

    /// Takes the next batch. Returns `None` if nothing waits; then no batch is in flight.
    fn next(&self) -> Option<Vec<WaitingJob>> {
        let mut state = self.state();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < WORK_BATCH_JOBS
            && bytes < ENTRY_BYTES
            && let Some(job) = state.waiting.pop_front()
        {
            bytes += job.size;
            batch.push(job);
        }
        state.bytes -= bytes;
        state.under_way = !batch.is_empty();
        state.under_way.then_some(batch)
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends one batch and answers each of its jobs.
async fn send(session: &Session, senders: &Senders, partition: Partition, batch: Vec<WaitingJob>) {
    let options = &session.options;
    let sent_as = senders.next();
    let sizes = batch.iter().map(|job| job.size);
    let keys = batch.iter().zip(1_u64..);
    let keys = keys.filter_map(|(job, number)| Some((number, job.idempotency.as_ref()?)));
    let mut script = session.call(Script::Enqueue, partition);
    script = script.key(session.keys.of(partition, &sent_as.record));
    script.add((
        session.skew(),
        session.keys.jobs_channel(),
        partition.0,
        options.jobs_max,
        options.bytes_max,
        options.idempotency_keys_max,
        sent_as.number,
        REMEMBERED.as_millis() as u64,
        batch.len(),
        sizes.sum::<usize>(),
        keys.clone().count(),
    ));
    for job in &batch {
        script.add((job.size, &job.text));
    }
    for key in keys {
        script.add(key);
    }
    let sending = || session.number("the job was accepted", &script);
    let words: Result<Vec<String>> = settled(sending).await;
    let answers = words.and_then(|words| answers(session, partition, batch.len(), &words));
    let answers = answers.unwrap_or_else(|error| vec![Err(error); batch.len()]);
    for (job, answer) in batch.into_iter().zip(answers) {
        if let Ok(accepted) = &answer {
            session.runs.acknowledge(partition, accepted.id.position);
        }
        // The caller may have gone.
        let _ = job.answer.send(answer);
    }
}

fn full<T>(what: &'static str, limit: usize, room_in: Option<Duration>) -> Result<T> {
    Err(Error::Full {
        what,
        limit: limit as u64,
        room_in,
    })
}

/// Decodes the script's answer to each of the jobs that were sent.
fn answers(
    session: &Session,
    partition: Partition,
    sent: usize,
    words: &[String],
) -> Result<Vec<Result<Accepted>>> {
    let (major, first, words) = match words {
        [ok, major, first] if ok == "ok" => (major, first, vec!["new"; sent]),
        [ok, major, first, words @ ..] if ok == "ok" && words.len() == sent => {
            (major, first, words.iter().map(String::as_str).collect())
        }
        _ => return Err(unexpected()),
    };
    let mut next = Position {
        major: number(major)?,
        minor: number(first)?,
    };
    let id = |position| JobId {
        queue: session.queue,
        partition,
        position,
    };
    let options = &session.options;
    let decode = |word: &str| match word.split_once(' ').unwrap_or((word, "")) {
        ("new", _) => {
            let new = id(next);
            next.minor += 1;
            Ok(Accepted::waiting(new))
        }
        ("reused", _) => Err(Error::KeyReused),
        ("jobs", _) => full("the queue (jobs)", options.jobs_max, None),
        ("bytes", _) => full("the queue (bytes)", options.bytes_max, None),
        ("keys", room_in) => full(
            "the queue (idempotency keys)",
            options.idempotency_keys_max,
            Some(Duration::from_millis(number(room_in)?)),
        ),
        (earlier, _) => Ok(Accepted::replayed(id(position(earlier)?))),
    };
    Ok(words.into_iter().map(decode).collect())
}
