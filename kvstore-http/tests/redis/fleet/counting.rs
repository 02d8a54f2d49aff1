//! Counters that all clients increment. Each increment adds its own power of two, so the sum shows
//! which increments count, and that none counts twice.

use std::sync::{Mutex, MutexGuard};

/// Number of powers of two in a counter.
const BITS: usize = 62;

/// All counters of a run.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Vec<Sums>>);

/// The knowledge of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    begun: usize,
    /// Sum of the increments that certainly count.
    acknowledged: i64,
    /// Sum of those that may count.
    open: i64,
}

/// One increment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Increment {
    pub(crate) counter: usize,
    pub(crate) by: i64,
    /// The acknowledged sum before it was sent.
    before: i64,
}

/// The outcome of an increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Counted {
    Never,
    Perhaps,
    Certainly,
}

impl Counters {
    pub(crate) fn begin(&self) -> Increment {
        let mut all = self.all();
        if all.last().is_none_or(|sums| sums.begun == BITS) {
            all.push(Sums::default());
        }
        let counter = all.len() - 1;
        let sums = &mut all[counter];
        let by = 1 << sums.begun;
        sums.begun += 1;
        sums.open |= by;
        Increment {
            counter,
            by,
            before: sums.acknowledged,
        }
    }

    pub(crate) fn end(&self, increment: Increment, counted: Counted) {
        let sums = &mut self.all()[increment.counter];
        if counted != Counted::Perhaps {
            sums.open &= !increment.by;
        }
        if counted == Counted::Certainly {
            sums.acknowledged |= increment.by;
        }
    }

    /// Returns the knowledge of each counter.
    pub(crate) fn sums(&self) -> Vec<Sums> {
        self.all().clone()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Sums>> {
        self.0.lock().unwrap()
    }
}

impl Increment {
    /// Returns true if `sum` is a possible result: it includes this increment and all acknowledged
    /// before it.
    pub(crate) fn explains(&self, sum: i64) -> bool {
        let at_least = self.before | self.by;
        sum >= 0 && sum & at_least == at_least
    }
}

impl Sums {
    /// Returns true if `sum` includes all acknowledged increments.
    pub(crate) fn is_reached(&self, sum: i64) -> bool {
        sum & self.acknowledged == self.acknowledged
    }

    /// Returns true if `sum` is a possible final value: it includes each acknowledged increment
    /// once, and of the others only those that may count.
    pub(crate) fn explains(&self, sum: i64) -> bool {
        let rest = sum - self.acknowledged;
        rest >= 0 && rest & !self.open == 0
    }
}

#[test]
fn a_lost_a_doubled_and_a_refused_increment_are_found() {
    let counters = Counters::default();
    let [lost, refused, open, doubled] = [(); 4].map(|()| counters.begin());
    counters.end(lost, Counted::Certainly);
    counters.end(refused, Counted::Never);
    counters.end(open, Counted::Perhaps);
    counters.end(doubled, Counted::Certainly);
    let sums = counters.sums()[0];
    let right = lost.by + doubled.by;
    for (sum, is_right) in [
        (right, true),
        (right + open.by, true),
        (doubled.by, false),
        (right - lost.by + open.by, false),
        (right + refused.by, false),
        (right + doubled.by, false),
        (right + lost.by, false),
        (right + 2 * open.by, false),
        (0, false),
    ] {
        assert_eq!(sums.explains(sum), is_right, "{sum:b} by {sums:?}");
    }
    let later = counters.begin();
    assert!(later.explains(right + later.by));
    assert!(!later.explains(right), "it does not count itself");
    assert!(
        !later.explains(lost.by + later.by),
        "it was counted before one that was acknowledged"
    );
    // The first counter fills up at some point.
    let last = (0..BITS).map(|_| counters.begin()).last().unwrap();
    assert_eq!((last.counter, counters.sums().len()), (1, 2));
}
