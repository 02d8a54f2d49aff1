//! How long to wait before the next try.

use std::time::Duration;

/// The upper bound of the first wait: about as long as a store needs to fail over to its next
/// connection.
const FIRST: Duration = Duration::from_millis(20);

/// The upper bound of every wait: the longest that a partition stays idle after the store is back.
const LONGEST: Duration = Duration::from_secs(5);

/// Exponential backoff with full jitter: each wait is random between zero and a bound that doubles,
/// so that workers that failed together do not retry together.
///
/// Source: <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns the wait after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let bound = FIRST
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(fastrand::f64())
    }

    /// Starts over after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_doubles_up_to_the_longest_wait() {
        let longest_of = |failures: u32| {
            (0..500)
                .map(|_| Backoff { failures }.next())
                .max()
                .unwrap_or_default()
        };
        // The longest of 500 random waits lies in the upper tenth of its range, except with a
        // probability of 10^-22.
        for (failures, bound_ms) in [(0, 20), (1, 40), (3, 160), (8, 5000), (40, 5000)] {
            let bound = Duration::from_millis(bound_ms);
            let longest = longest_of(failures);
            assert!(
                longest <= bound && longest > bound.mul_f64(0.9),
                "{failures} {longest:?}"
            );
        }
    }

    #[test]
    fn success_starts_over() {
        let mut backoff = Backoff { failures: 30 };
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
