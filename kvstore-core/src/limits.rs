//! All bounds of the core in one place, each with its unit and its reason.
//!
//! What an operator may want to change is a setting of the service or the backend; only its default
//! is here.

use std::time::Duration;

/// Longest key, in Unicode characters: JSON Schema can only count characters, and it has to agree
/// with us exactly.
pub const KEY_CHARS_MAX: usize = 512;

/// Deepest nesting of arrays and objects in a value: as deep as common JSON readers accept.
pub const VALUE_DEPTH_MAX: usize = 128;

/// Default largest value, in bytes, without white space between tokens.
pub const VALUE_BYTES_DEFAULT: usize = 1 << 20;

/// Most operations in one batch: its checks and writes become one line of a file, or the keys of
/// one script.
pub const BATCH_OPERATIONS_MAX: usize = 1000;

/// Memory that an entry takes besides its key and value, in bytes, in stores that hold all data in
/// memory.
pub const ENTRY_BYTES: u64 = 112;

/// Most entries on one page of a listing.
pub const PAGE_ENTRIES_MAX: usize = 1000;

/// Most bytes of values on one page of a listing; a single larger entry still fits.
pub const PAGE_VALUE_BYTES_MAX: usize = 8 << 20;

/// Shortest time to live.
pub const TTL_MIN: Duration = Duration::from_secs(1);

/// Longest time to live: ten years, long enough for any use and far from any overflow.
pub const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Default bound on jobs accepted but not yet applied, in each partition.
pub const QUEUE_JOBS_DEFAULT: usize = 100_000;

/// Default bound on the bytes of those jobs (keys and values), in each partition: they are held in
/// memory.
pub const QUEUE_BYTES_DEFAULT: usize = 64 << 20;

/// How long the outcome of a job is kept once it is known, unless it is displaced earlier.
pub const OUTCOME_RETENTION: Duration = Duration::from_secs(60 * 60);

/// Default number of outcomes kept in each partition; beyond that the oldest are dropped, and the
/// jobs up to them become unknown.
pub const OUTCOMES_MAX: usize = 100_000;

/// Most bytes of kept outcomes of a partition; beyond that the oldest are dropped.
pub const OUTCOMES_BYTES_MAX: usize = 32 << 20;

/// Default number of dead letters kept in each partition; beyond that the partition waits until an
/// operator handles some.
pub const DEAD_LETTERS_MAX: usize = 10_000;

/// Most bytes of dead letters of a partition, not counting the last one. Beyond that the partition
/// waits until some are retried or dropped.
pub const DEAD_LETTERS_BYTES_MAX: usize = 64 << 20;

/// Default number of changes kept for `watch`; a watcher that falls further behind starts again
/// from a listing.
pub const CHANGES_MAX: usize = 10_000;

/// Most bytes of the keys of those changes in a store that is held in memory.
pub const CHANGES_BYTES_MAX: usize = 2 << 20;

/// How long an idempotency key is remembered by default.
pub const IDEMPOTENCY_WINDOW_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// The default minimum for which an idempotency key is remembered, however many others come.
pub const IDEMPOTENCY_MINIMUM_DEFAULT: Duration = Duration::from_secs(60 * 60);

/// Most idempotency keys remembered in each partition. Beyond that a new key replaces the one whose
/// minimum ended first; while no minimum has ended, it is refused.
pub const IDEMPOTENCY_KEYS_MAX: usize = 100_000;

/// How long a claim on a partition lasts unless it is renewed; workers renew every third of it.
pub const CLAIM_PERIOD: Duration = Duration::from_secs(10);

/// Most jobs that a worker applies in one commit, and that are accepted together. Beyond some 64
/// jobs a larger batch hardly lowers the cost per job; a thousand would block a Redis server for
/// milliseconds.
pub const WORK_BATCH_JOBS: usize = 512;

/// Most writes in one commit of a worker, and most checks, unless a single job has more. A script
/// cannot unpack more than a few thousand values.
pub const WORK_BATCH_WRITES: usize = 1000;

/// Most bytes (keys and values) in one commit of a worker, unless a single job has more: a commit
/// is built in memory.
pub const WORK_BATCH_BYTES: usize = 8 << 20;

/// Most expired entries removed by one call of `expire`, so that one call has a bounded cost.
pub const EXPIRE_BATCH: usize = 1000;

/// How far versions and positions jump when it is unknown which ones were handed out before: far
/// more than can be in flight.
pub const RENUMBER_GAP: u64 = 1 << 32;
