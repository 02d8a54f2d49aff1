//! The clock that hyper's timeouts go by: one timer a connection, which is moved only when it is due.
//!
//! hyper sets a timer before each request and drops it a moment later, when the head is there. To arm one in the runtime and to
//! take it back costs a lock each; here both cost nothing but a look at the clock.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hyper::rt;
use tokio::time::sleep_until;

/// The timers of one connection. hyper has one of them at a time; a second one is right, too, and only costs more.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionTimer {
    /// Armed for the deadline of some timeout of before. It may go off when that is long over: then it is armed anew.
    armed: Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>,
}

impl rt::Timer for ConnectionTimer {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }

    fn sleep(&self, duration: std::time::Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Timeout {
            deadline,
            timer: self.clone(),
        })
    }
}

/// Ready when its deadline has passed.
#[derive(Debug)]
struct Timeout {
    deadline: Instant,
    timer: ConnectionTimer,
}

impl rt::Sleep for Timeout {}

impl Future for Timeout {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline.into();
        let mut armed = self
            .timer
            .armed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let timer = armed.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            // It went off for a timeout that is over.
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::rt::Timer;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_timeout_ends_at_its_own_deadline_whatever_came_before_it() {
        let timer = ConnectionTimer::default();
        let mut expected = tokio::time::Instant::now();
        // Longer, shorter and equal ones, each after one that was dropped half-way.
        for (dropped, waited) in [(50, 10), (10, 50), (20, 20), (1, 5), (0, 0)] {
            let begun = timer.sleep_until((expected + Duration::from_secs(dropped)).into());
            let half = Duration::from_secs(dropped) / 2;
            let _ = tokio::time::timeout(half, begun).await;
            expected += half;
            timer
                .sleep_until((expected + Duration::from_secs(waited)).into())
                .await;
            expected += Duration::from_secs(waited);
            let late = tokio::time::Instant::now() - expected;
            assert!(
                late <= Duration::from_millis(5),
                "{dropped} {waited} {late:?}"
            );
            expected = tokio::time::Instant::now();
        }
    }
}
