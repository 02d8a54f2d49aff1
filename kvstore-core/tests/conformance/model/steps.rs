//! The random calls.

use kvstore_core::Key;
use proptest::prelude::*;

/// Few keys, so that they collide: with common prefixes, delimiters and tags, and spread over
/// partitions.
pub(crate) const KEYS: [&str; 7] = ["a", "a/b", "a/b/c", "b", "é", "{t}x", "{t}y"];

pub(crate) fn key(index: usize) -> Key {
    Key::new(KEYS[index]).unwrap()
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Enqueue(Request),
    /// Sends an earlier request again, the one at this index from the last.
    Repeat(usize),
    Commit {
        checks: Vec<(usize, Guess)>,
        writes: Vec<(usize, Put)>,
    },
    /// Lets a worker process what it can, and end like this.
    Work(Ending),
    Expire,
    /// Advances the clock by seconds.
    Wait(u64),
    Restart,
    List {
        prefix: &'static str,
        delimiter: Option<&'static str>,
        limit: usize,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) operations: Vec<(usize, Guess, Put)>,
    pub(crate) batch: bool,
    pub(crate) keyed: bool,
}

/// A condition, before it is known which versions there are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guess {
    Any,
    Absent,
    Present,
    /// The current version of the key.
    Current,
    /// A version that it does not have.
    Other,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Put {
    Delete,
    Forever,
    /// For this many seconds; 0 is a deadline that has passed (in a direct commit).
    For(u64),
    /// With the entry's current deadline (in a job).
    Keep,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// Continues until nothing is left.
    Done,
    /// Dies after evaluating, before its commit.
    BeforeCommit,
    /// Dies after its commit, before it informs the queue.
    AfterCommit,
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0..KEYS.len();
    let guess = || {
        prop_oneof![
            4 => Just(Guess::Any),
            1 => Just(Guess::Absent),
            1 => Just(Guess::Present),
            2 => Just(Guess::Current),
            1 => Just(Guess::Other),
        ]
    };
    let put = || {
        prop_oneof![
            2 => Just(Put::Delete),
            3 => Just(Put::Forever),
            2 => (0..4_u64).prop_map(Put::For),
            1 => Just(Put::Keep),
        ]
    };
    let request = (
        prop::collection::vec((key(), guess(), put()), 1..4),
        prop::bool::weighted(0.3),
        any::<bool>(),
    )
        .prop_map(|(operations, batch, keyed)| Request {
            operations,
            batch,
            keyed,
        });
    let ending = prop_oneof![
        3 => Just(Ending::Done),
        1 => Just(Ending::BeforeCommit),
        1 => Just(Ending::AfterCommit),
    ];
    let step = prop_oneof![
        8 => request.prop_map(Step::Enqueue),
        1 => (0..5_usize).prop_map(Step::Repeat),
        4 => (prop::collection::vec((key(), guess()), 0..3), prop::collection::vec((key(), put()), 0..4))
            .prop_map(|(checks, writes)| Step::Commit { checks, writes }),
        4 => ending.prop_map(Step::Work),
        1 => Just(Step::Expire),
        2 => (1..4_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
        2 => (
            prop::sample::select(vec!["", "a", "a/", "a/b", "{t}", "z"]),
            prop::option::of(prop::sample::select(vec!["/", "b", "}"])),
            1..4_usize,
        )
            .prop_map(|(prefix, delimiter, limit)| Step::List { prefix, delimiter, limit }),
    ];
    prop::collection::vec(step, 1..60)
}
