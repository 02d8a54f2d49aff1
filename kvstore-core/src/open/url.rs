//! The URL of a store or a queue, parsed once. Nothing else in the workspace interprets its text.
//!
//! A URL may hold a password, in any place if it is malformed. So neither `Display` nor `Debug` of
//! a [`StoreUrl`] shows a login, and no error repeats any part of the text: errors name only words
//! that this module knows.
//!
//! What is not here: access to the folder or server, which happens when they are opened.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::json_file;
use crate::limits::{IDEMPOTENCY_KEYS_MAX, QUEUE_BYTES_DEFAULT, QUEUE_JOBS_DEFAULT};
use crate::machine;
use crate::model::id::PartitionCount;
use crate::queue::QueueOptions;
use crate::redis;
use crate::store::Retention;

/// The URL of a store or of a queue, for [`open`](fn@super::open).
///
/// * `file:FOLDER`: a folder of JSON files, created if it is missing; `file:database`,
///   `file:/var/lib/kvstore` or `file:///var/lib/kvstore`. Parameters: `data_bytes`, a ceiling on
///   the memory of entries (keys, values and 112 bytes each; half of the machine's or container's
///   memory by default); `snapshot_bytes`, how large the journal gets before `data.json` is written
///   again (unless that is larger, then its size); `keep_edit=true`, for one start: keep a
///   `data.json` that was edited although the journals hold later commits, and discard those;
///   `apply_on_acceptance=false`: leave every job to the worker, even if no other job is waiting.
/// * `memory:`: everything ends with the process. Parameters: `partitions` of the queue.
/// * `redis://[:PASSWORD@]HOST[:PORT][/DATABASE]`, `redis+unix:///PATH`, or
///   `redis+cluster://[:PASSWORD@]HOST[:PORT],HOST[:PORT]` with some of the servers of a Redis
///   Cluster: a Redis server that many processes share (needs the feature `redis`). `rediss` in
///   place of `redis` for TLS (needs the feature `redis-tls`), with the parameters `ca_file` (the
///   authorities trusted for the server, in place of the system's), `cert_file` and `key_file` (for
///   a server that authenticates its clients), all in PEM. Parameters: `prefix` of its keys (`kv`);
///   `partitions`, fixed when the store is created (64); `password_file`, in place of a password in
///   the URL, read again for each connection; `durability=relaxed`: accept a server whose settings
///   may lose acknowledged writes; `wait_replicas`: how many of its replicas must have a write
///   before it is acknowledged.
/// * All: `queue_jobs` and `queue_bytes`, the bounds on what waits in one partition,
///   `idempotency_keys`, the bound on the keys that it remembers, and `outcomes` and
///   `dead_letters`, the bounds on those that the store keeps of it; `file:` and `memory:` also
///   `changes`, the number of changes that a watch can start from.
///
/// Parameters follow a question mark, as in `file:database?data_bytes=2GiB&queue_jobs=10000`. In a
/// password, `/`, `?`, `#` and `%` are written `%2F`, `%3F`, `%23` and `%25`; nothing else is
/// percent-decoded.
///
/// ```
/// use kvstore_core::open::StoreUrl;
///
/// let url: StoreUrl = "redis://:hunter2@localhost/1?prefix=orders".parse()?;
/// assert_eq!(url.to_string(), "redis://***@localhost/1?prefix=orders");
/// # Ok::<(), kvstore_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    pub(super) target: Target,
    has_parameters: bool,
    /// The text without its login.
    shown: String,
}

/// The backend that a URL names.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Target {
    Memory {
        partitions: PartitionCount,
        queue: UrlQueueBounds,
        retention: Retention,
    },
    File(FileTarget),
    Redis(RedisTarget),
}

/// A folder and how it is opened.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct FileTarget {
    pub(super) folder: PathBuf,
    data_bytes: Option<u64>,
    snapshot_bytes: Option<u64>,
    keep_edit: bool,
    apply_on_acceptance: Option<bool>,
    queue: UrlQueueBounds,
    retention: Retention,
}

/// A server and how it is used.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RedisTarget {
    pub(super) address: redis::Address,
    prefix: Option<String>,
    partitions: Option<PartitionCount>,
    password_file: Option<PathBuf>,
    relaxed: bool,
    wait_replicas: Option<usize>,
    ca_file: Option<PathBuf>,
    /// A certificate and its key.
    client_files: Option<(PathBuf, PathBuf)>,
    queue: UrlQueueBounds,
    retention: Retention,
}

/// The bounds on what waits in each partition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct UrlQueueBounds {
    jobs: usize,
    bytes: usize,
    idempotency_keys: usize,
}

impl StoreUrl {
    /// Returns true if `text` begins with a scheme, known or not, and so is no path.
    pub fn is_url(text: &str) -> bool {
        split_scheme(text).is_some()
    }

    /// Returns true for a store that no other process can reach.
    pub fn is_memory(&self) -> bool {
        matches!(self.target, Target::Memory { .. })
    }

    /// Returns true for a store that any number of processes write to at once.
    pub fn is_shared(&self) -> bool {
        matches!(self.target, Target::Redis(_))
    }

    /// Returns the folder of a store in files, and `None` for any other store.
    pub fn folder(&self) -> Option<&Path> {
        match &self.target {
            Target::File(file) => Some(&file.folder),
            Target::Memory { .. } | Target::Redis(_) => None,
        }
    }

    /// Returns the bounds in force on this store and its queue, by the names of their parameters:
    /// on the memory of entries, on what waits in each partition, and on what is kept of it.
    /// `queue` is the URL of a queue other than the store's own.
    pub fn bounds(&self, queue: Option<&Self>) -> Vec<(&'static str, u64)> {
        let waiting = queue.unwrap_or(self).target.queue();
        let kept = self.target.retention();
        let mut bounds = vec![
            ("queue_jobs", waiting.jobs as u64),
            ("queue_bytes", waiting.bytes as u64),
            ("idempotency_keys", waiting.idempotency_keys as u64),
            ("outcomes", kept.outcomes as u64),
            ("dead_letters", kept.dead_letters as u64),
            ("changes", kept.changes as u64),
        ];
        if let Target::File(file) = &self.target {
            let data_bytes = file.options(self.memory(queue)).data_bytes_max;
            bounds.extend(data_bytes.map(|bytes| ("data_bytes", bytes)));
        }
        bounds
    }

    /// Returns the memory of the process if it is to bound the data: only a folder with a queue of
    /// its own knows how much space is left when it accepts a write.
    pub(super) fn memory(&self, queue: Option<&Self>) -> Option<u64> {
        let is_alone = queue.is_none_or(|queue| queue == self);
        machine::memory_bytes().filter(|_| is_alone)
    }

    /// Checks that `queue` can be the queue in front of this store.
    ///
    /// # Errors
    /// [`Error::Config`] with the reason.
    pub fn check_queue(&self, queue: &Self) -> Result<()> {
        if self == queue {
            return Ok(());
        }
        match (&self.target, &queue.target) {
            (Target::File { .. }, Target::Memory { .. }) => wrong(
                "a queue in memory would lose accepted writes when the process ends, which a store in files promises not to",
            ),
            (Target::Memory { .. }, Target::File { .. }) => wrong(
                "a queue in files would outlive its store in memory, and its applied writes would be gone",
            ),
            (Target::File { .. }, Target::File { .. }) => wrong(
                "a queue in files is in its store's folder: leave it out, or give the same URL as for the store",
            ),
            (Target::Memory { .. }, Target::Memory { .. }) => wrong(
                "a queue in memory belongs to its store: leave it out, or give the same URL as for the store",
            ),
            (Target::File(file), Target::Redis(_)) if file.data_bytes.is_some() => wrong(
                "a folder behind a queue on Redis can have no data_bytes: the process that accepts a write does not know how much space is left",
            ),
            (Target::File(file), Target::Redis(_)) if file.queue != UrlQueueBounds::default() => {
                wrong(
                    "a queue on Redis has its own bounds: give queue_jobs, queue_bytes and idempotency_keys in its URL, not in the folder's",
                )
            }
            (Target::File { .. }, Target::Redis(_)) => Ok(()),
            (Target::Memory { .. }, Target::Redis(_)) => wrong(
                "a queue on Redis would outlive its store in memory, and its applied writes would be gone",
            ),
            (Target::Redis(_), _) => wrong(
                "a store on Redis and its queue are on one server under one prefix: leave the queue out, or give the same URL as for the store",
            ),
        }
    }

    /// Returns the folder to follow while another process writes to it ([`follow`](super::follow)).
    ///
    /// # Errors
    /// [`Error::Config`] with the reason why this store cannot be followed.
    pub fn folder_to_follow(&self) -> Result<&Path> {
        match &self.target {
            Target::Redis(_) => wrong(
                "a store on Redis needs no follower: any number of processes read and write there as they are",
            ),
            Target::Memory { .. } => {
                wrong("a store in memory belongs to one process, and no other one can write to it")
            }
            Target::File(_) if self.has_parameters => wrong(
                "the parameters are for the process that writes to the folder: one that only reads takes none",
            ),
            Target::File(file) => Ok(&file.folder),
        }
    }
}

impl Target {
    fn queue(&self) -> UrlQueueBounds {
        match self {
            Self::Memory { queue, .. } => *queue,
            Self::File(file) => file.queue,
            Self::Redis(redis) => redis.queue,
        }
    }

    fn retention(&self) -> Retention {
        match self {
            Self::Memory { retention, .. } => *retention,
            Self::File(file) => file.retention,
            Self::Redis(redis) => redis.retention,
        }
    }
}

impl Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown, f)
    }
}

impl FromStr for StoreUrl {
    type Err = Error;

    /// Parses the URL of a store.
    ///
    /// # Errors
    /// [`Error::Config`], which says what is wrong and repeats nothing of `url`.
    fn from_str(url: &str) -> Result<Self> {
        if url.chars().any(char::is_control) {
            return wrong("it contains a control character");
        }
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let Some((scheme, rest)) = split_scheme(place) else {
            return wrong("it is a path: put file: before the folder, as in file:database");
        };
        let mut parameters = Parameters::parse(query)?;
        let (target, shown) = match scheme {
            "memory" if rest.is_empty() => {
                let target = Target::Memory {
                    partitions: parameters
                        .take("partitions", partition_count)?
                        .unwrap_or(PartitionCount::ONE),
                    queue: UrlQueueBounds::take(&mut parameters)?,
                    retention: in_memory(&mut parameters)?,
                };
                (target, place.to_owned())
            }
            "memory" => return wrong("memory: takes no path, only parameters"),
            "file" => {
                let file = FileTarget::take(rest, &mut parameters)?;
                (Target::File(file), place.to_owned())
            }
            "redis" | "rediss" | "redis+unix" | "redis+cluster" | "rediss+cluster" => {
                let redis = RedisTarget::take(place, &mut parameters)?;
                let shown = redis.address.to_string();
                (Target::Redis(redis), shown)
            }
            _ => {
                return wrong(
                    "its scheme is unknown: expected file:, memory:, redis:, rediss:, redis+unix:, redis+cluster: or rediss+cluster:",
                );
            }
        };
        parameters.finish()?;
        Ok(Self {
            target,
            has_parameters: url.contains('?'),
            shown: match query {
                "" => shown,
                // Each parameter was recognized, so none of them is part of a secret.
                query => format!("{shown}?{query}"),
            },
        })
    }
}

/// Returns the scheme and the rest; `None` for a path.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    (!scheme.contains(['/', '\\', '.'])).then_some((scheme, rest))
}

impl FileTarget {
    fn take(rest: &str, parameters: &mut Parameters) -> Result<Self> {
        Ok(Self {
            folder: folder(rest)?,
            data_bytes: parameters.take("data_bytes", at_least_one(bytes))?,
            snapshot_bytes: parameters.take("snapshot_bytes", at_least_one(bytes))?,
            keep_edit: parameters.take("keep_edit", switch)?.unwrap_or(false),
            apply_on_acceptance: parameters.take("apply_on_acceptance", switch)?,
            queue: UrlQueueBounds::take(parameters)?,
            retention: in_memory(parameters)?,
        })
    }

    /// Returns the options. `memory` is the memory of the process, if it is to bound the data.
    pub(super) fn options(&self, memory: Option<u64>) -> json_file::Options {
        let defaults = json_file::Options::default();
        json_file::Options {
            queue: self.queue.options(PartitionCount::ONE),
            data_bytes_max: self.data_bytes.or(memory.map(|bytes| bytes / 2)),
            retention: self.retention,
            snapshot_bytes_min: self.snapshot_bytes.unwrap_or(defaults.snapshot_bytes_min),
            keep_edit: self.keep_edit,
            apply_on_acceptance: self
                .apply_on_acceptance
                .unwrap_or(defaults.apply_on_acceptance),
            ..defaults
        }
    }
}

/// Returns the folder of a `file:` URL: everything between the scheme and the parameters, byte for
/// byte. Nothing is decoded, so any path without a question mark can be written as it is.
fn folder(rest: &str) -> Result<PathBuf> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => {
            return wrong(
                "after file:// an absolute path must follow, as in file:///var/lib/kvstore; write a relative one as file:database",
            );
        }
        None => rest,
    };
    if path.is_empty() {
        return wrong("a folder must follow, as in file:database");
    }
    Ok(PathBuf::from(path))
}

impl RedisTarget {
    fn take(place: &str, parameters: &mut Parameters) -> Result<Self> {
        let address: redis::Address = place.parse()?;
        let ca_file = parameters.take("ca_file", str::parse)?;
        let certificate = parameters.take("cert_file", str::parse)?;
        let key = parameters.take("key_file", str::parse)?;
        if certificate.is_some() != key.is_some() {
            return wrong("cert_file and key_file go together: give both, or neither");
        }
        if (ca_file.is_some() || key.is_some()) && !address.is_tls() {
            return wrong(
                "ca_file, cert_file and key_file are for TLS: use a URL that begins with rediss:, or leave them out",
            );
        }
        Ok(Self {
            ca_file,
            client_files: certificate.zip(key),
            address,
            prefix: parameters.take("prefix", prefix)?,
            partitions: parameters.take("partitions", partition_count)?,
            password_file: parameters.take("password_file", str::parse)?,
            relaxed: parameters.take("durability", durability)?.unwrap_or(false),
            wait_replicas: parameters
                .take("wait_replicas", at_least_one(str::parse))?
                .map(saturated),
            queue: UrlQueueBounds::take(parameters)?,
            retention: of_jobs(parameters)?,
        })
    }

    /// Reads the files that the parameters name.
    pub(super) fn options(&self) -> Result<redis::Options> {
        let read = |name: &str, file: &PathBuf| {
            std::fs::read(file).or_else(|error| {
                wrong(format!("{name} {} cannot be read: {error}", file.display()))
            })
        };
        let ca = match &self.ca_file {
            None => None,
            Some(file) => Some(read("ca_file", file)?),
        };
        let client_certificate = match &self.client_files {
            None => None,
            Some((chain, key)) => Some(redis::ClientCertificate {
                chain: read("cert_file", chain)?,
                key: read("key_file", key)?,
            }),
        };
        let defaults = redis::Options::default();
        Ok(redis::Options {
            prefix: self.prefix.clone().unwrap_or(defaults.prefix.clone()),
            partitions: self.partitions,
            password_file: self.password_file.clone(),
            ca,
            client_certificate,
            jobs_max: self.queue.jobs,
            bytes_max: self.queue.bytes,
            idempotency_keys_max: self.queue.idempotency_keys,
            outcomes_max: self.retention.outcomes,
            dead_letters_max: self.retention.dead_letters,
            relaxed_durability: self.relaxed,
            wait_replicas: self.wait_replicas.unwrap_or(0),
            ..defaults
        })
    }
}

impl Default for UrlQueueBounds {
    fn default() -> Self {
        Self {
            jobs: QUEUE_JOBS_DEFAULT,
            bytes: QUEUE_BYTES_DEFAULT,
            idempotency_keys: IDEMPOTENCY_KEYS_MAX,
        }
    }
}

impl UrlQueueBounds {
    pub(super) fn options(self, partitions: PartitionCount) -> QueueOptions {
        QueueOptions {
            partitions,
            jobs_max: self.jobs,
            bytes_max: self.bytes,
            idempotency_keys_max: self.idempotency_keys,
            ..QueueOptions::default()
        }
    }

    fn take(parameters: &mut Parameters) -> Result<Self> {
        let jobs = parameters.take("queue_jobs", at_least_one(str::parse))?;
        let bytes = parameters.take("queue_bytes", at_least_one(bytes))?;
        let keys = parameters.take("idempotency_keys", at_least_one(str::parse))?;
        let defaults = Self::default();
        Ok(Self {
            jobs: jobs.map_or(defaults.jobs, saturated),
            bytes: bytes.map_or(defaults.bytes, saturated),
            idempotency_keys: keys.map_or(defaults.idempotency_keys, saturated),
        })
    }
}

/// Takes the bounds on what a store of any kind keeps of jobs.
fn of_jobs(parameters: &mut Parameters) -> Result<Retention> {
    let defaults = Retention::default();
    let mut most = |name, default| {
        let most = parameters.take(name, at_least_one(str::parse))?;
        Ok(most.map_or(default, saturated))
    };
    Ok(Retention {
        outcomes: most("outcomes", defaults.outcomes)?,
        dead_letters: most("dead_letters", defaults.dead_letters)?,
        ..defaults
    })
}

/// Takes the bounds on what a store that is held in memory keeps.
fn in_memory(parameters: &mut Parameters) -> Result<Retention> {
    let changes = parameters.take("changes", at_least_one(str::parse))?;
    let of_jobs = of_jobs(parameters)?;
    Ok(Retention {
        changes: changes.map_or(of_jobs.changes, saturated),
        ..of_jobs
    })
}

fn saturated(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The parameters after the question mark. Each of them must be taken.
struct Parameters<'a> {
    left: Vec<(&'a str, &'a str)>,
    /// The names asked for so far.
    known: Vec<&'static str>,
}

impl<'a> Parameters<'a> {
    fn parse(query: &'a str) -> Result<Self> {
        let pairs = query.split('&').filter(|part| !part.is_empty());
        match pairs.map(|part| part.split_once('=')).collect() {
            Some(left) => Ok(Self {
                left,
                known: Vec::new(),
            }),
            None => wrong(format!("a parameter has no value; {QUESTION_MARK}")),
        }
    }

    fn take<T, E: Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>> {
        self.known.push(name);
        let mut values = self.left.extract_if(.., |(present, _)| *present == name);
        let value = values.next();
        if values.next().is_some() {
            return wrong(format!("parameter {name} is given twice"));
        }
        match value.map(|(_, value)| parse(value)).transpose() {
            Ok(value) => Ok(value),
            Err(reason) => wrong(format!("parameter {name}: {reason}")),
        }
    }

    /// Rejects parameters that were not taken. A name may be a piece of a password.
    fn finish(self) -> Result<()> {
        if self.left.is_empty() {
            return Ok(());
        }
        wrong(format!(
            "it has an unknown parameter: expected {}; {QUESTION_MARK}",
            self.known.join(", ")
        ))
    }
}

/// A hint for parameters that make no sense.
const QUESTION_MARK: &str = "a question mark in a password is written %3F";

fn prefix(text: &str) -> Result<String, &'static str> {
    // The login comes before the host, so the `@` ends a password with an unescaped question mark.
    match text.contains('@') {
        true => Err("it must not contain an @; a question mark in a password is written %3F"),
        false => Ok(text.to_owned()),
    }
}

fn partition_count(text: &str) -> Result<PartitionCount, &'static str> {
    text.parse()
        .ok()
        .and_then(|count| PartitionCount::new(count).ok())
        .ok_or("it is not a number from 1 to 65535")
}

/// Returns true for a server that may lose what it has acknowledged.
fn durability(text: &str) -> Result<bool, &'static str> {
    match text {
        "relaxed" => Ok(true),
        "checked" => Ok(false),
        _ => Err("it is neither relaxed nor checked"),
    }
}

fn switch(text: &str) -> Result<bool, &'static str> {
    text.parse().map_err(|_| "it is neither true nor false")
}

fn at_least_one<E: Display>(
    parse: impl Fn(&str) -> Result<u64, E>,
) -> impl Fn(&str) -> Result<u64, String> {
    move |text| match parse(text) {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(reason) => Err(reason.to_string()),
    }
}

/// Parses a number of bytes: digits, alone or followed by `KiB`, `MiB`, `GiB` or `TiB`.
///
/// # Errors
/// For any other text, and for numbers above 64 bits.
pub fn bytes(text: &str) -> Result<u64, &'static str> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (digits, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .unwrap_or((text, 0));
    // `u64`'s own parser would also accept a plus sign.
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(digits)
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or("it is not a number of bytes, such as 65536 or 64MiB")
}

fn wrong<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Config(message.into()))
}
