//! The timer for all timeouts of a connection, which is reset only when it is due.
//!
//! A connection has a timer from each answer to the next request, and a write has one until it is
//! accepted. Arming and disarming a timer in the runtime takes a lock each time. Here, both only
//! read the clock.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::poll_immediate;
use tokio::time::{Instant, Sleep, sleep_until};

/// The timers of one connection and of its current request.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionTimer {
    /// Armed for the deadline of an earlier timeout. If that one is over when the timer fires, the
    /// timer is reset.
    armed: Arc<Mutex<Option<Pin<Box<Sleep>>>>>,
}

/// Longer than any process lives; the end of a longer span might overflow the clock.
const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);

impl ConnectionTimer {
    /// Returns the output of `future`, or `None` if it takes longer than `limit`. Most futures are
    /// ready at once and need no timer.
    pub(crate) async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        match poll_immediate(&mut future).await {
            None => tokio::select! {
                biased;
                output = future => Some(output),
                () = self.timeout(limit) => None,
            },
            output => output,
        }
    }

    /// Returns a future that completes after `limit`.
    pub(crate) fn timeout(&self, limit: Duration) -> Timeout {
        Timeout {
            deadline: Instant::now() + limit.min(NEVER),
            timer: self.clone(),
        }
    }
}

/// Completes at its deadline.
#[derive(Debug)]
pub(crate) struct Timeout {
    deadline: Instant,
    timer: ConnectionTimer,
}

impl Future for Timeout {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
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
            // It fired for a timeout that is over.
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timeouts_beside_each_other_end_at_their_own_deadlines() {
        let timer = ConnectionTimer::default();
        let seconds = Duration::from_secs;
        for (outer, inner, expected) in [(9, 1, Some(None)), (1, 9, None), (1, 0, Some(None))] {
            let begun = Instant::now();
            let pending = timer.within(seconds(inner), pending::<()>());
            assert_eq!(timer.within(seconds(outer), pending).await, expected);
            let late = begun.elapsed() - seconds(outer.min(inner));
            assert!(late <= Duration::from_millis(5), "{outer} {inner} {late:?}");
        }
        assert_eq!(timer.within(Duration::ZERO, ready(1)).await, Some(1));
        let soon = tokio::time::sleep(seconds(1));
        assert_eq!(timer.within(Duration::MAX, soon).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn each_timeout_ends_at_its_own_deadline_whatever_came_before_it() {
        let timer = ConnectionTimer::default();
        let mut expected = Instant::now();
        // Longer, shorter and equal ones, each after one that was dropped half-way.
        for (dropped, waited) in [(50, 10), (10, 50), (20, 20), (1, 5), (0, 0)] {
            let begun = timer.timeout(Duration::from_secs(dropped));
            let half = Duration::from_secs(dropped) / 2;
            let _ = tokio::time::timeout(half, begun).await;
            expected += half;
            timer.timeout(Duration::from_secs(waited)).await;
            expected += Duration::from_secs(waited);
            let late = Instant::now() - expected;
            assert!(
                late <= Duration::from_millis(5),
                "{dropped} {waited} {late:?}"
            );
            expected = Instant::now();
        }
    }
}
