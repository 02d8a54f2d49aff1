//! Makes a change safe to resend when its answer is lost. Each change carries the name of its
//! sender and a number. The partition keeps the last number of each sender with its answer, for
//! [`REMEMBERED`]. The same number gets the same answer and changes nothing. A smaller one changes
//! nothing either: it is a copy that was held up on a connection that broke long ago.
//!
//! A sender has one change in flight at a time, so concurrent changes need a sender each.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Error, Result, source};
use crate::model::id::QueueId;

/// How long a server remembers the last answer to a sender: far longer than any sender resends.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// How long a change whose answer was lost is resent. After that its result is unknown.
const RESEND_MAX: Duration = Duration::from_secs(5);

/// The pause before the first resend, which doubles with each, and its maximum.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];

/// The senders of this process to one partition that have no change in flight: for each the name of
/// the partition's key that holds the last answer to it, and the number of its last change.
#[derive(Debug, Default)]
pub(crate) struct Senders(Mutex<Vec<(String, u64)>>);

impl Senders {
    /// Takes a sender for one more change, with its next number.
    pub(crate) fn next(&self) -> Numbered<'_> {
        let free = self.free().pop();
        // A name that is unique worldwide.
        let new = || (format!("sender:{}", QueueId::random()), 0);
        let (record, last) = free.unwrap_or_else(new);
        Numbered {
            senders: self,
            record,
            number: last + 1,
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<(String, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        let record = std::mem::take(&mut self.record);
        self.senders.free().push((record, self.number));
    }
}

/// Sends a numbered change until its result is known, and returns that.
///
/// Once a change was sent and its result is unknown, only its own answer settles it: a refusal may
/// overtake a copy that is still on its way. The result stays [`Error::Unknown`] if no answer comes
/// within [`RESEND_MAX`].
pub(crate) async fn settled<T, F: Future<Output = Result<T>>>(
    mut send: impl FnMut() -> F,
) -> Result<T> {
    let (begun, mut pause) = (Instant::now(), PAUSES[0]);
    let mut before = None;
    loop {
        let unknown = match (send().await, before) {
            (Err(error @ Error::Unknown { .. }), _) => error,
            (Err(refusal @ Error::Unavailable { .. }), Some(Error::Unknown { what, .. })) => {
                let source = source(refusal);
                Error::Unknown { what, source }
            }
            (answer, _) => return answer,
        };
        if begun.elapsed() + pause > RESEND_MAX {
            return Err(unknown);
        }
        before = Some(unknown);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

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

    #[tokio::test(start_paused = true)]
    async fn only_its_own_answer_ends_a_change_that_was_sent() {
        let mut answers = vec![Ok(7), Err(Error::unavailable("the server")), unknown()];
        let answer = settled(|| ready(answers.pop().unwrap())).await;
        assert_eq!(answer.unwrap(), 7);

        let mut first = Some(unknown());
        let down = || Err(Error::unavailable("the server"));
        let answer = settled(|| ready(first.take().unwrap_or_else(down))).await;
        assert!(matches!(answer, Err(Error::Unknown { .. })), "{answer:?}");

        // One that was never sent needs no second try.
        let mut answers = vec![Err::<u8, _>(Error::unavailable("the server"))];
        let answer = settled(|| ready(answers.pop().unwrap())).await;
        assert!(
            matches!(answer, Err(Error::Unavailable { .. })),
            "{answer:?}"
        );
    }
}
