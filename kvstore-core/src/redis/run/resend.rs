//! Makes a change safe to resend when its answer is lost. Each change carries the name of its
//! sender and a number. The partition keeps the last number of each sender with its answer, for
//! [`REMEMBERED`]. The same number gets the same answer and changes nothing. A smaller one changes
//! nothing either: it is a copy that was held up on a connection that broke long ago.
//!
//! A sender has one change in flight at a time, so concurrent changes need a sender each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};
use crate::model::id::QueueId;

/// How long a server remembers the last answer to a sender: far longer than any sender resends.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// How long a change whose answer was lost is resent. After that its result is unknown.
const RESEND_MAX: Duration = Duration::from_secs(5);

/// The pause before the first resend, which doubles with each, and its maximum.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];

/// The senders of this process to one partition.
#[derive(Debug)]
pub(crate) struct Senders {
    /// A name that is unique worldwide.
    name: String,
    state: Mutex<SenderState>,
}

#[derive(Debug, Default)]
struct SenderState {
    made: u64,
    free: Vec<Sender>,
}

#[derive(Debug)]
struct Sender {
    place: u64,
    /// The number of its last change.
    number: u64,
}

impl Default for Senders {
    fn default() -> Self {
        Self {
            name: QueueId::random().to_string(),
            state: Mutex::default(),
        }
    }
}

impl Senders {
    /// Takes a sender for one more change, with its next number.
    pub(crate) fn next(&self) -> Numbered<'_> {
        let mut state = self.state();
        let mut sender = state.free.pop().unwrap_or_else(|| {
            state.made += 1;
            Sender {
                place: state.made,
                number: 0,
            }
        });
        sender.number += 1;
        let (place, number) = (sender.place, sender.number);
        Numbered {
            senders: self,
            record: format!("sender:{}.{place}", self.name),
            number,
            sender: Some(sender),
        }
    }

    fn state(&self) -> MutexGuard<'_, SenderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sender and number of one change. Dropping it frees the sender, even before an answer has
/// come.
#[derive(Debug)]
pub(crate) struct Numbered<'s> {
    senders: &'s Senders,
    /// The name of the partition's key that holds the last answer to the sender.
    pub(crate) record: String,
    pub(crate) number: u64,
    sender: Option<Sender>,
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        let sender = self.sender.take();
        self.senders.state().free.extend(sender);
    }
}

/// The tries to send one numbered change.
#[derive(Debug)]
pub(crate) struct SendTries {
    begun: Instant,
    pause: Duration,
    unknown: Option<Error>,
}

impl Default for SendTries {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            pause: PAUSES[0],
            unknown: None,
        }
    }
}

impl SendTries {
    /// Returns the result of the change, given the latest `answer`; `None`, after a pause, if it
    /// must be resent.
    ///
    /// Once a change was sent and its result is unknown, only its own answer settles it: a refusal
    /// may overtake a copy that is still on its way. The result stays [`Error::Unknown`] if no
    /// answer comes within [`RESEND_MAX`].
    pub(crate) async fn settled<T>(&mut self, answer: Result<T>) -> Option<Result<T>> {
        match answer {
            Err(error @ Error::Unknown { .. }) => self.unknown = Some(error),
            Err(refusal @ Error::Unavailable { .. }) if self.unknown.is_some() => {
                // The cause of the unknown result.
                if let Some(Error::Unknown { source, .. }) = &mut self.unknown {
                    *source = Some(Arc::new(refusal));
                }
            }
            answer => return Some(answer),
        }
        if self.begun.elapsed() + self.pause > RESEND_MAX {
            return self.unknown.take().map(Err);
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES[1]);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown() -> Result<u8> {
        Err(Error::Unknown {
            what: "it was made".to_owned(),
            source: None,
        })
    }

    #[test]
    fn changes_under_way_have_senders_of_their_own_and_numbers_only_go_up() {
        let senders = Senders::default();
        let (first, second) = (senders.next(), senders.next());
        assert_ne!(first.record, second.record);
        assert_eq!((first.number, second.number), (1, 1));
        let record = first.record.clone();
        drop(first);
        let third = senders.next();
        assert_eq!((&third.record, third.number), (&record, 2));
        assert_ne!(Senders::default().next().record, record);
    }

    async fn until_settled(mut send: impl FnMut() -> Result<u8>) -> Result<u8> {
        let mut tries = SendTries::default();
        loop {
            if let Some(answer) = tries.settled(send()).await {
                return answer;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_its_own_answer_ends_a_change_that_was_sent() {
        let mut answers = vec![Ok(7), Err(Error::unavailable("the server")), unknown()];
        let answer = until_settled(|| answers.pop().unwrap()).await;
        assert_eq!(answer.unwrap(), 7);

        let mut first = Some(unknown());
        let down = || Err(Error::unavailable("the server"));
        let answer = until_settled(|| first.take().unwrap_or_else(down)).await;
        assert!(matches!(answer, Err(Error::Unknown { .. })), "{answer:?}");

        // One that was never sent needs no second try.
        let mut answers = vec![Err::<u8, _>(Error::unavailable("the server"))];
        let answer = until_settled(|| answers.pop().unwrap()).await;
        assert!(
            matches!(answer, Err(Error::Unavailable { .. })),
            "{answer:?}"
        );
    }
}
