//! The time: the wall clock and the monotonic clock of the machine behind one trait, so that tests can
//! move them, and the store's time, which is made of both. Order never rests on it: that is what
//! versions and positions are for.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::entry::Timestamp;

/// Tells the time of day, and how much of it has passed.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The wall-clock time. It may jump in either direction.
    fn now(&self) -> Timestamp;

    /// The time since a fixed moment of this process. It never goes back, whatever is done to the wall
    /// clock.
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
        Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    fn elapsed(&self) -> Duration {
        BEGINNING.elapsed()
    }
}

/// A clock that stands still until it is moved, for tests.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Manual>);

#[derive(Debug)]
struct Manual {
    wall: AtomicU64,
    elapsed: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(Manual {
            wall: AtomicU64::new(now.0),
            elapsed: AtomicU64::new(0),
        }))
    }

    /// Lets `span` pass.
    pub fn advance(&self, span: Duration) {
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.0.elapsed.fetch_add(span_ms, Ordering::SeqCst);
        self.set(self.now().after(span));
    }

    /// Sets the wall clock to `now`, which may be earlier. No time passes.
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

/// How far the two clocks may seem apart because one is read after the other.
const JITTER_MS: u64 = 5;

/// From here on a wall clock that is behind is worth a warning.
const BEHIND_WARN_MS: u64 = 1000;

/// The store's time: the wall clock while that is ahead of the last time used, and otherwise the last
/// time continued by the monotonic clock. It never goes back and never stands still, so a value that has
/// expired stays so, and a time to live of a second lasts a second.
///
/// While the wall clock is behind, deadlines that come in or go out are converted: outside they are
/// wall-clock times, now plus what is left.
#[derive(Debug)]
pub(crate) struct StoreTime {
    clock: Arc<dyn Clock>,
    /// The store's time without the monotonic reading, in microseconds: the largest ever seen.
    base_us: AtomicI64,
    /// How far the wall clock is behind the store's time, as last noticed.
    behind_ms: AtomicU64,
}

/// Both clocks at one moment.
struct Reading {
    time: Timestamp,
    wall: Timestamp,
}

impl Reading {
    fn behind_ms(&self) -> u64 {
        self.time.0.saturating_sub(self.wall.0)
    }
}

impl StoreTime {
    /// The time of a store that has used times up to `last`.
    pub(crate) fn new(clock: Arc<dyn Clock>, last: Timestamp) -> Self {
        let time = Self {
            clock,
            base_us: AtomicI64::new(i64::MIN),
            behind_ms: AtomicU64::new(0),
        };
        time.observe(last);
        time
    }

    /// The store's time.
    pub(crate) fn now(&self) -> Timestamp {
        let reading = self.read();
        if self.has_moved(&reading) {
            // A pause of the process between its readings of the two clocks looks the same, but once.
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

    /// The wall-clock time.
    pub(crate) fn wall(&self) -> Timestamp {
        self.clock.now()
    }

    /// Makes the time no earlier than `used`, which this store or another process has used for it.
    pub(crate) fn observe(&self, used: Timestamp) {
        let elapsed = micros(self.clock.elapsed().as_micros());
        let used = micros(u128::from(used.0) * 1000);
        self.base_us.fetch_max(used - elapsed, Ordering::SeqCst);
    }

    fn read(&self) -> Reading {
        // In this order: a pause in between makes the wall clock seem behind, which passes, and not the
        // store's time ahead, which would stay.
        let wall = self.clock.now();
        let elapsed = micros(self.clock.elapsed().as_micros());
        let base = micros(u128::from(wall.0) * 1000) - elapsed;
        let base = self.base_us.fetch_max(base, Ordering::SeqCst).max(base);
        let time = Timestamp(u64::try_from((base + elapsed) / 1000).unwrap_or(0));
        Reading { time, wall }
    }

    fn has_moved(&self, reading: &Reading) -> bool {
        let noted = self.behind_ms.load(Ordering::Relaxed);
        reading.behind_ms().abs_diff(noted) > JITTER_MS
    }

    fn note(&self, reading: &Reading) {
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

    /// A moment of the store's time as a wall-clock time, as of the last call of [`StoreTime::now`].
    pub(crate) fn to_wall(&self, at: Timestamp) -> Timestamp {
        Timestamp(at.0.saturating_sub(self.behind_ms.load(Ordering::Relaxed)))
    }

    /// A wall-clock time as a moment of the store's time.
    pub(crate) fn of_wall(&self, at: Timestamp) -> Timestamp {
        self.now();
        Timestamp(at.0.saturating_add(self.behind_ms.load(Ordering::Relaxed)))
    }
}

/// Microseconds that leave room for a sum of two.
fn micros(count: u128) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

/// Numbers stay exact as JSON numbers, which many programs read as 64-bit floats.
const NUMBER_MAX: u64 = 1 << 53;

/// A clock later than this, in the year 2112, is wrong.
const CLOCK_MAX_US: u64 = 1 << 52;

/// Where a store, or a queue, that has given out numbers up to `last` continues when it is opened: the
/// first number is the one after the result.
///
/// It is the time in microseconds. So what was given out in a history that is lost by now (a backup was
/// restored, a memory store restarted) is not given out again, without anyone telling. A clock that is
/// behind `last` cannot say that, so numbers jump ahead by at least 2^32, and by chance, so that two
/// continuations of one history do not meet.
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
    use crate::told::Told;

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
    fn time_neither_goes_back_nor_stands_still_when_the_clock_is_set_back() {
        let (clock, time) = time(Timestamp(0));
        time.now();
        clock.set(NOON.before(HOUR));
        assert_eq!(time.now(), NOON);
        clock.advance(Duration::from_secs(1));
        assert_eq!(time.now(), NOON.after(Duration::from_secs(1)));
        // What is left is what users see, whatever the clock shows.
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
    fn a_clock_that_is_behind_is_a_warning_with_both_times_once_each_time_it_happens() {
        let told = Told::default();
        let warnings = || {
            let text = told.text();
            let warnings = text.lines().filter(|line| line.starts_with("WARN"));
            warnings.map(str::to_owned).collect::<Vec<_>>()
        };
        let _told = told.listen();
        // At the opening.
        let (clock, time) = time(NOON.after(HOUR));
        (0..3).for_each(|_| _ = time.now());
        let [warning] = &warnings()[..] else {
            panic!("{}", told.text());
        };
        for moment in [NOON, NOON.after(HOUR)] {
            assert!(warning.contains(&moment.to_string()), "{warning}");
        }
        // While it runs: when it happens, and not for each call.
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
