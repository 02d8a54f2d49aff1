//! Jobs on their way into the queue. Jobs that arrive for a partition while a batch is in flight
//! form the next batch. So a server needs one script call for jobs that arrive together, and their
//! order is that of arrival.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
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

/// A job that waits, with the channel for its answer.
pub(crate) struct WaitingJob {
    job: NewJob,
    answer: oneshot::Sender<Result<Accepted>>,
}

impl WaitingJob {
    pub(crate) fn new(job: NewJob) -> (Self, oneshot::Receiver<Result<Accepted>>) {
        let (answer, answered) = oneshot::channel();
        (Self { job, answer }, answered)
    }

    fn answer(self, answer: Result<Accepted>) {
        // The caller may have gone.
        let _ = self.answer.send(answer);
    }
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
    /// Accepts `jobs` and ensures that they are sent, even if no caller waits for the answers.
    pub(crate) fn send(
        self: &Arc<Self>,
        session: &Arc<Session>,
        partition: Partition,
        jobs: Vec<WaitingJob>,
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for job in jobs {
            let size = job.job.size_bytes();
            let is_full =
                state.waiting.len() >= WAITING_MAX || state.bytes + size > WAITING_BYTES_MAX;
            if is_full && !state.waiting.is_empty() {
                job.answer(Err(Error::Full {
                    what: "the queue (jobs on their way to the Redis server)",
                    limit: WAITING_MAX as u64,
                    room_in: None,
                }));
            } else {
                state.bytes += size;
                state.waiting.push_back(job);
            }
        }
        if !state.waiting.is_empty() && !mem::replace(&mut state.under_way, true) {
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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < WORK_BATCH_JOBS
            && bytes < ENTRY_BYTES
            && let Some(job) = state.waiting.pop_front()
        {
            bytes += job.job.size_bytes();
            batch.push(job);
        }
        state.bytes -= bytes;
        state.under_way = !batch.is_empty();
        state.under_way.then_some(batch)
    }
}

/// Sends one batch and answers each of its jobs.
async fn send(session: &Session, senders: &Senders, partition: Partition, batch: Vec<WaitingJob>) {
    let options = &session.options;
    let sent_as = senders.next();
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
    ));
    let mut sent = Vec::with_capacity(batch.len());
    let mut texts = Vec::with_capacity(batch.len());
    for waiting in batch {
        if waiting.job.size_bytes() > options.bytes_max {
            waiting.answer(Err(Error::TooLarge {
                subject: Subject::Job,
                limit: options.bytes_max as u64,
                unit: Unit::Bytes,
            }));
            continue;
        }
        match pack::text(&waiting.job) {
            Ok(text) => {
                texts.push(text);
                sent.push(waiting);
            }
            Err(error) => waiting.answer(Err(Error::invalid(Subject::Job, error.to_string()))),
        }
    }
    if sent.is_empty() {
        return;
    }
    let sizes = sent.iter().map(|waiting| waiting.job.size_bytes());
    let keys = sent.iter().zip(1_u64..).filter_map(|(waiting, number)| {
        let idempotency = waiting.job.idempotency.as_ref()?;
        Some((number, &waiting.job, idempotency))
    });
    script.add((sent.len(), sizes.sum::<usize>(), keys.clone().count()));
    for (waiting, text) in sent.iter().zip(&texts) {
        script.add((waiting.job.size_bytes(), text));
    }
    for (number, job, idempotency) in keys {
        script.add((
            number,
            Remembered::hash(idempotency).to_string(),
            job.command.fingerprint().to_string(),
            milliseconds(idempotency.window),
            milliseconds(idempotency.minimum),
        ));
    }
    let sending = || session.number("the job was accepted", &script);
    let answered = settled(sending).await;
    match answered.and_then(|words: Vec<String>| answers(session, partition, sent.len(), &words)) {
        Ok(answers) if answers.len() == sent.len() => {
            let accepted = answers.iter().flatten();
            let last = accepted.map(|accepted| accepted.id.position).max();
            session
                .runs
                .acknowledge(partition, last.unwrap_or_default());
            for (waiting, answer) in sent.into_iter().zip(answers) {
                waiting.answer(answer);
            }
        }
        Ok(_) => sent
            .into_iter()
            .for_each(|waiting| waiting.answer(Err(unexpected()))),
        Err(error) => sent
            .into_iter()
            .for_each(|waiting| waiting.answer(Err(error.clone()))),
    }
}

/// Decodes the script's answer to each of the jobs that were sent.
fn answers(
    session: &Session,
    partition: Partition,
    sent: usize,
    words: &[String],
) -> Result<Vec<Result<Accepted>>> {
    let [ok, major, first, words @ ..] = words else {
        return Err(unexpected());
    };
    if ok != "ok" {
        return Err(unexpected());
    }
    let mut next = Position {
        major: number(major)?,
        minor: number(first)?,
    };
    let id = |position| JobId {
        queue: session.queue,
        partition,
        position,
    };
    let full = |what, limit, room_in| {
        Err(Error::Full {
            what,
            limit: limit as u64,
            room_in,
        })
    };
    let all_new = vec!["new"; sent];
    let each = match words {
        [] => all_new,
        words => words.iter().map(String::as_str).collect(),
    };
    each.into_iter()
        .map(|word| {
            Ok(match word {
                "new" => {
                    let answer = Ok(Accepted::waiting(id(next)));
                    next.minor += 1;
                    answer
                }
                "reused" => Err(Error::KeyReused),
                "jobs" => full("the queue (jobs)", session.options.jobs_max, None),
                "bytes" => full("the queue (bytes)", session.options.bytes_max, None),
                word => match word.strip_prefix("keys ") {
                    Some(room_in) => full(
                        "the queue (idempotency keys)",
                        session.options.idempotency_keys_max,
                        Some(Duration::from_millis(number(room_in)?)),
                    ),
                    None => Ok(Accepted::replayed(id(position(word)?))),
                },
            })
        })
        .collect()
}
