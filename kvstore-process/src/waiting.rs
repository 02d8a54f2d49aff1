//! Reports that a program waits for a store or a queue before it can start.

use kvstore_core::error::{Error, in_one_line};

use crate::notify::notify_waiting;

/// The reason for the wait that was reported last.
#[derive(Debug, Default)]
pub struct Waiting {
    reason: Option<String>,
}

impl Waiting {
    /// Reports that the program waits because of `error`: to the supervisor each time, and in the
    /// log only when the reason changes.
    pub fn report(&mut self, error: &Error) {
        let reason = in_one_line(error);
        notify_waiting(&format!("waiting: {reason}"));
        if self.reason.as_ref() != Some(&reason) {
            tracing::warn!(%reason, "waiting until store and queue can be reached");
            self.reason = Some(reason);
        }
    }
}
