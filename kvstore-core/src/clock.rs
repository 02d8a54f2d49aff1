//! Time. A trait covers the machine's wall clock and monotonic clock, so that tests can move them;
//! the store's time is made of both. Order never depends on time: that is what versions and
//! positions are for.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::entry::{Timestamp, milliseconds};

/// A source of wall-clock time and of elapsed time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the wall-clock time, which may jump in either direction.
    fn now(&self) -> Timestamp;

    /// Returns the time since a fixed moment of this process. It never goes back, whatever happens
    /// to the wall clock.
    fn elapsed(&self) -> Duration;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the machine for the time of day"
    )]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(milliseconds(since_epoch))
    }

    fn elapsed(&self) -> Duration {
        BEGINNING.elapsed()
    }
}

/// A clock for tests, which only moves when a test moves it.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Manual>);

#[derive(Debug)]
struct Manual {
    wall: AtomicU64,
    elapsed: AtomicU64,
}

impl ManualClock {
    /// Creates a clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(Manual {
            wall: AtomicU64::new(now.0),
            elapsed: AtomicU64::new(0),
        }))
    }

    /// Advances both clocks by `span`.
    pub fn advance(&self, span: Duration) {
        self.0
            .elapsed
            .fetch_add(milliseconds(span), Ordering::SeqCst);
        self.set(self.now().after(span));
    }

    /// Sets the wall clock to `now`, which may be earlier. No time elapses.
    pub fn set(&self, now: Timestamp) {
        self.0.wall.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.wall.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.elapsed.load(Ordering::SeqCst))
    }
}

/// The largest apparent drift between the two clocks that comes from reading one after the other.
const JITTER_MS: u64 = 5;

/// A wall clock that is this far behind deserves a warning.
const BEHIND_WARN_MS: u64 = 1000;

/// The store's time: the wall clock while that is ahead of the last time used; otherwise the last
/// time used, continued by the monotonic clock. It never goes back and never stops, so an expired
/// value stays expired, and a time to live of a second lasts a second.
///
/// While the wall clock is behind, deadlines are converted as they come in and go out: outside they
/// are wall-clock times, that is, now plus the time left.
#[derive(Debug)]
pub(crate) struct StoreTime {
    clock: Arc<dyn Clock>,
    /// The store's time minus the monotonic reading, in microseconds: the largest ever seen.
    base_us: AtomicI64,
    /// How far the wall clock is behind the store's time, as last noticed.
    behind_ms: AtomicU64,
}

/// Readings of both clocks at one moment.
struct ClockReading {
    time: Timestamp,
    wall: Timestamp,
}

impl ClockReading {
    fn behind_ms(&self) -> u64 {
        self.time.0.saturating_sub(self.wall.0)
    }
}

impl StoreTime {
    /// Creates the time of a store that has used times up to `last`.
    pub(crate) fn new(clock: Arc<dyn Clock>, last: Timestamp) -> Self {
        let time = Self {
            clock,
            base_us: AtomicI64::new(i64::MIN),
            behind_ms: AtomicU64::new(0),
        };
        time.observe(last);
        time
    }

    /// Returns the store's time.
    pub(crate) fn now(&self) -> Timestamp {
        let reading = self.read();
        if self.has_moved(&reading) {
            // A pause of the process between the two readings looks the same, but not twice in a
            // row.
            let again = self.read();
            if self.has_moved(&again)
                && again.behind_ms().abs_diff(reading.behind_ms()) <= JITTER_MS
            {
                self.note(&again);
            }
            return again.time;
        }
        reading.time
    }

    /// Returns the wall-clock time.
    pub(crate) fn wall(&self) -> Timestamp {
        self.clock.now()
    }

    /// Ensures that the time is no earlier than `used`, a time that this store or another process
    /// has used for it.
    pub(crate) fn observe(&self, used: Timestamp) {
        let elapsed = micros(self.clock.elapsed().as_micros());
        let used = micros(u128::from(used.0) * 1000);
        self.base_us.fetch_max(used - elapsed, Ordering::SeqCst);
    }

    fn read(&self) -> ClockReading {
        // The order matters: a pause in between then makes the wall clock seem behind, which
        // passes, rather than the store's time ahead, which would persist.
        let wall = self.clock.now();
        let elapsed = micros(self.clock.elapsed().as_micros());
        let base = micros(u128::from(wall.0) * 1000) - elapsed;
        let base = self.base_us.fetch_max(base, Ordering::SeqCst).max(base);
        let time = Timestamp(u64::try_from((base + elapsed) / 1000).unwrap_or(0));
        ClockReading { time, wall }
    }

    fn has_moved(&self, reading: &ClockReading) -> bool {
        let noted = self.behind_ms.load(Ordering::Relaxed);
        reading.behind_ms().abs_diff(noted) > JITTER_MS
    }

    fn note(&self, reading: &ClockReading) {
        let behind = reading.behind_ms();
        let noted = self.behind_ms.swap(behind, Ordering::SeqCst);
        if behind >= noted.saturating_add(BEHIND_WARN_MS) {
            tracing::warn!(
                clock = %reading.wall,
                store = %reading.time,
                "the clock is behind the time that this store has used: it continues from its own time, and \
                 deadlines keep the time that they had left; check the machine's clock"
            );
        } else if behind < BEHIND_WARN_MS && noted >= BEHIND_WARN_MS {
            tracing::info!(clock = %reading.wall, "the clock is no longer behind the store's time");
        }
    }

    /// Converts a moment of the store's time to wall-clock time, as of the last call of
    /// [`StoreTime::now`].
    pub(crate) fn to_wall(&self, at: Timestamp) -> Timestamp {
        Timestamp(at.0.saturating_sub(self.behind_ms.load(Ordering::Relaxed)))
    }

    /// Converts a wall-clock time to a moment of the store's time.
    pub(crate) fn of_wall(&self, at: Timestamp) -> Timestamp {
        self.now();
        Timestamp(at.0.saturating_add(self.behind_ms.load(Ordering::Relaxed)))
    }
}

/// Clamps a number of microseconds so that two of them can be added.
fn micros(count: u128) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

/// Numbers up to this are exact as JSON numbers, which many programs read as 64-bit floats.
const NUMBER_MAX: u64 = 1 << 53;

/// A clock beyond this, in the year 2112, is wrong.
const CLOCK_MAX_US: u64 = 1 << 52;

/// Returns where a store or queue that has handed out numbers up to `last` continues when it is
/// opened; its first number is the one after the result.
///
/// The result is the time in microseconds. Numbers handed out by a lost history (a backup was
/// restored, a memory store restarted) are therefore never handed out again, without any
/// coordination. A clock behind `last` cannot guarantee this, so numbers then jump ahead by a
/// random amount of at least 2^32, and two continuations of one history do not collide.
pub(crate) fn first_number(last: u64, clock: Timestamp) -> u64 {
    let now = clock.0.saturating_mul(1000).min(CLOCK_MAX_US);
    let jump = fastrand::u64(1 << 32..1 << 36);
    match last.saturating_add(jump) {
        _ if now > last => now,
        ahead if ahead < NUMBER_MAX => ahead,
        _ => last.saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told::CapturedLog;

    const NOON: Timestamp = Timestamp(1_800_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn time(last: Timestamp) -> (ManualClock, StoreTime) {
        let clock = ManualClock::new(NOON);
        (clock.clone(), StoreTime::new(Arc::new(clock), last))
    }

    #[test]
    fn time_follows_the_wall_clock_while_that_is_ahead() {
        let (clock, time) = time(Timestamp(0));
        assert_eq!(time.now(), NOON);
        clock.set(NOON.after(HOUR));
        assert_eq!(time.now(), NOON.after(HOUR));
        assert_eq!(time.to_wall(NOON), NOON);
    }

    #[test]
    fn time_neither_goes_back_nor_stops_when_the_clock_is_set_back() {
        let (clock, time) = time(Timestamp(0));
        time.now();
        clock.set(NOON.before(HOUR));
        assert_eq!(time.now(), NOON);
        clock.advance(Duration::from_secs(1));
        assert_eq!(time.now(), NOON.after(Duration::from_secs(1)));
        // Users see the time left, whatever the clock shows.
        let deadline = time.now().after(HOUR);
        assert_eq!(time.to_wall(deadline), clock.now().after(HOUR));
        assert_eq!(time.of_wall(clock.now().after(HOUR)), deadline);
        clock.set(NOON.after(HOUR));
        assert_eq!(time.now(), NOON.after(HOUR));
        assert_eq!(time.to_wall(deadline), deadline);
    }

    #[test]
    fn time_continues_from_the_last_one_used_before_the_store_was_opened() {
        let (clock, time) = time(NOON.after(10 * HOUR));
        assert_eq!(time.now(), NOON.after(10 * HOUR));
        clock.advance(HOUR);
        assert_eq!(time.now(), NOON.after(11 * HOUR));
        time.observe(NOON.after(20 * HOUR));
        clock.advance(HOUR);
        assert_eq!(time.now(), NOON.after(21 * HOUR));
    }

    #[test]
    fn a_clock_that_falls_behind_is_logged_once_with_both_times() {
        let told = CapturedLog::default();
        let warnings = || {
            let text = told.text();
            let warnings = text.lines().filter(|line| line.starts_with("WARN"));
            warnings.map(str::to_owned).collect::<Vec<_>>()
        };
        let _told = told.listen();
        // On opening.
        let (clock, time) = time(NOON.after(HOUR));
        (0..3).for_each(|_| _ = time.now());
        let [warning] = &warnings()[..] else {
            panic!("{}", told.text());
        };
        for moment in [NOON, NOON.after(HOUR)] {
            assert!(warning.contains(&moment.to_string()), "{warning}");
        }
        // While running: once each time it happens, not once a call.
        clock.advance(HOUR);
        time.now();
        assert_eq!(warnings().len(), 1);
        clock.set(NOON.after(3 * HOUR));
        time.now();
        assert_eq!(warnings().len(), 1);
        for back in 1..=2 {
            clock.set(NOON.after((3 - back) * HOUR));
            (0..3).for_each(|_| _ = time.now());
            assert_eq!(warnings().len(), 1 + back as usize, "{}", told.text());
        }
    }

    #[test]
    fn numbers_are_the_time_or_jump_ahead_of_a_clock_that_is_behind() {
        assert_eq!(first_number(7, Timestamp(1000)), 1_000_000);
        let last = 2_000_000;
        let ahead = first_number(last, Timestamp(1000));
        assert!(ahead >= last + (1 << 32), "{ahead}");
        assert_ne!(ahead, first_number(last, Timestamp(1000)));
        for last in [0, 1 << 52, NUMBER_MAX - 1, u64::MAX] {
            for clock in [0, NOON.0, u64::MAX] {
                let first = first_number(last, Timestamp(clock));
                assert!(first > last || last == u64::MAX);
                assert!(first <= NUMBER_MAX || last >= NUMBER_MAX, "{last} {clock}");
            }
        }
    }
}
