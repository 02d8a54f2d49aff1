//! A URL to an open backend: the place that names them all.
//!
//! What is not here: flags and variables (`process`), and what a backend does with its options.

mod folder_queue;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::SystemClock;
use crate::error::{Error, Result};
use crate::json_file::{self, JsonFile, JsonReader};
use crate::limits::{QUEUE_BYTES_DEFAULT, QUEUE_JOBS_DEFAULT};
use crate::memory::{MemoryQueue, MemoryStore};
use crate::model::id::PartitionCount;
use crate::open::folder_queue::{FolderQueue, Role};
use crate::queue::JobQueue;
use crate::queue::QueueOptions;
use crate::redis::{self, QueueAlone, Redis};
use crate::store::Store;

/// How often a worker that stands by tries to get the folder.
const STAND_BY_PERIOD: Duration = Duration::from_millis(50);

/// A store and the queue in front of it, open.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The queue; its jobs are for this store.
    pub queue: Arc<dyn JobQueue>,
}

impl Opened {
    /// Closes both: the queue first, so that nothing more is accepted. Both are tried, the first failure is the answer.
    ///
    /// # Errors
    /// Those of [`JobQueue::close`] and [`Store::close`].
    pub async fn close(&self) -> Result<()> {
        let queue = self.queue.close().await;
        let store = self.store.close().await;
        queue.and(store)
    }
}

/// Opens the store at `store_url` and the queue in front of it: at `queue_url`, or else the store's own.
///
/// * `file:FOLDER`: a folder of JSON files, made if it is missing; `file:database`, `file:/var/lib/kvstore` or
///   `file:///var/lib/kvstore`. Parameters: `data_bytes`, a ceiling on keys and values, all of which are in memory;
///   `snapshot_bytes`, how large the journal gets before `data.json` is written anew (unless that is larger, then its
///   size); `keep_edit=true`, for one start: take a `data.json` that was edited although later commits stand in journals,
///   and give those up.
/// * `memory:`: nothing outlives the process. Parameters: `partitions` of the queue.
/// * `redis://[:PASSWORD@]HOST[:PORT][/DATABASE]`, `redis+unix:///PATH`, or `redis+cluster://[:PASSWORD@]HOST[:PORT],HOST[:PORT]` with some
///   of the servers of a Redis Cluster: a Redis, which many processes share (needs the feature `redis`). `rediss` in place of `redis` for
///   TLS (needs the feature `redis-tls`), with the parameters `ca_file` (who may vouch for the server, in place of those that the system
///   trusts), `cert_file` and `key_file` (for a server that asks who its clients are), all in PEM. Parameters:
///   `prefix` of its keys (`kv`); `partitions`, fixed when the store is created (64); `password_file`, in place of a password
///   in the URL; `durability=relaxed`: take a server as it is, though its settings may lose what it has acknowledged; `wait_replicas`:
///   how many of its replicas must have a write, too, before it is acknowledged.
/// * All: `queue_jobs` and `queue_bytes`, the bounds on what waits in one partition.
///
/// Parameters follow a question mark, as in `file:database?data_bytes=2GiB&queue_jobs=10000`. Nothing is percent-decoded.
///
/// A folder may have a queue on Redis in front of it, `redis://…` as `queue_url`: then any number of processes accept writes and
/// [`follow`] the folder, while the one that opens it here applies them. The bounds of the queue stand in its own URL then, and
/// the folder can have no `data_bytes`, since who accepts a write does not know how much room there is.
///
/// # Errors
/// [`Error::Config`] if a URL is not of these forms, or the two do not go together; otherwise the backend's:
/// [`Error::Locked`], [`Error::Corrupt`], [`Error::Unavailable`].
pub async fn open(store_url: &str, queue_url: Option<&str>) -> Result<Opened> {
    open_with(store_url, queue_url, None).await
}

/// [`open`] for a worker that another one may be ahead of: where the queue of a folder is on Redis, it waits until nobody else
/// holds the folder, and then takes over. `locked` hears of each try that was too early. Dropping the future ends the wait.
///
/// # Errors
/// Those of [`open`]; [`Error::Locked`] only for a folder with a queue of its own, whose jobs nobody else can add to.
pub async fn stand_by(
    store_url: &str,
    queue_url: Option<&str>,
    mut locked: impl FnMut(&Error) + Send,
) -> Result<Opened> {
    open_with(store_url, queue_url, Some(&mut locked)).await
}

async fn open_with(
    store_url: &str,
    queue_url: Option<&str>,
    locked: Option<&mut (dyn FnMut(&Error) + Send)>,
) -> Result<Opened> {
    check_store(store_url)?;
    if let Some(queue_url) = queue_url {
        check_queue(store_url, queue_url)?;
    }
    match store_url.parse()? {
        Target::Memory { partitions, queue } => Ok(Opened {
            store: Arc::new(MemoryStore::default()),
            queue: Arc::new(MemoryQueue::new(
                queue.options(partitions),
                Arc::new(SystemClock),
            )),
        }),
        Target::File {
            folder,
            data_bytes,
            snapshot_bytes,
            keep_edit,
            queue,
        } => {
            let defaults = json_file::Options::default();
            let options = json_file::Options {
                queue: queue.options(PartitionCount::ONE),
                data_bytes_max: data_bytes,
                snapshot_bytes_min: snapshot_bytes.unwrap_or(defaults.snapshot_bytes_min),
                keep_edit,
                ..defaults
            };
            // First, so that whoever stands by knows that its settings are right.
            let redis = open_queue(queue_url).await?;
            let file = match (&redis, locked) {
                (Some(redis), Some(locked)) => {
                    open_when_free(&folder, &options, redis, locked).await
                }
                _ => JsonFile::open(folder, options).await,
            }?;
            match redis {
                Some(redis) => put_behind(&file, redis).await,
                None => Ok(Opened {
                    store: file.store(),
                    queue: file.queue(),
                }),
            }
        }
        Target::Redis(target) => {
            let options = target.options()?;
            let redis = Redis::open(&target.address, options).await?;
            Ok(Opened {
                store: redis.store(),
                queue: redis.queue(),
            })
        }
    }
}

/// The queue at `queue_url`, if it is one on Redis.
async fn open_queue(queue_url: Option<&str>) -> Result<Option<QueueAlone>> {
    match queue_url.map(str::parse).transpose()? {
        Some(Target::Redis(target)) => {
            let queue = QueueAlone::open(&target.address, &target.options()?).await?;
            Ok(Some(queue))
        }
        _ => Ok(None),
    }
}

/// Opens a folder as soon as nobody else has it, and waits for its queue, which may have gone meanwhile.
async fn open_when_free(
    folder: &Path,
    options: &json_file::Options,
    redis: &QueueAlone,
    locked: &mut (dyn FnMut(&Error) + Send),
) -> Result<JsonFile> {
    let file = loop {
        match JsonFile::open(folder, options.clone()).await {
            Err(error @ Error::Locked { .. }) => locked(&error),
            opened => break opened?,
        }
        tokio::time::sleep(STAND_BY_PERIOD).await;
    };
    let mut is_told = false;
    while let Err(error) = redis.queue().ping().await {
        if !is_told {
            tracing::warn!(%error, "the folder is free, and its queue is waited for");
        }
        is_told = true;
        tokio::time::sleep(STAND_BY_PERIOD).await;
    }
    Ok(file)
}

/// Puts a folder behind a queue on Redis, in place of its own.
async fn put_behind(file: &JsonFile, redis: QueueAlone) -> Result<Opened> {
    let (store, own) = (file.store(), file.queue());
    // What it has accepted would be skipped if this folder had no say in which queue it applies.
    if store.active_queue().await?.is_none() && own.depth().await?.jobs > 0 {
        store.adopt_queue(own.id()).await?;
    }
    let role = Role::Writer(own.id());
    own.close().await?;
    Ok(Opened {
        queue: Arc::new(FolderQueue::new(redis, store.clone(), role)),
        store,
    })
}

/// Opens the store at `store_url` for reading, while another process writes there: a folder of JSON files, which may come later
/// than this ([`JsonReader`] says what holds then). Its own queue accepts nothing; one on Redis does, once the folder can be read
/// and is seen to apply it. With both, make a [`Service::reading`](crate::service::Service::reading).
///
/// # Errors
/// [`Error::Config`] if the URLs are wrong, or the store is one that other processes can't read so; [`Error::Unavailable`] if there
/// is no thread for it, or no queue.
pub async fn follow(store_url: &str, queue_url: Option<&str>) -> Result<Opened> {
    check_follow(store_url, queue_url)?;
    let redis = open_queue(queue_url).await?;
    let reader = JsonReader::open(file_folder(store_url)?, Arc::new(SystemClock)).await?;
    let store: Arc<dyn Store> = Arc::new(reader.clone());
    let queue: Arc<dyn JobQueue> = match redis {
        Some(redis) => Arc::new(FolderQueue::new(redis, store.clone(), Role::Reader(reader))),
        None => reader.queue(),
    };
    Ok(Opened { store, queue })
}

/// Whether [`follow`] takes these, without opening anything.
///
/// # Errors
/// [`Error::Config`] that says why not.
pub(crate) fn check_follow(store_url: &str, queue_url: Option<&str>) -> Result<()> {
    check_store(store_url)?;
    if let Some(queue_url) = queue_url {
        check_queue(store_url, queue_url)?;
    }
    match store_url.parse()? {
        Target::Redis(_) => wrong(
            "a store on Redis needs no follower: any number of processes read and write there as they are",
        ),
        Target::Memory { .. } => {
            wrong("a store in memory is inside one process, and nobody else could write to it")
        }
        Target::File { .. } if store_url.contains('?') => wrong(
            "the parameters are for the process that writes to the folder: one that only reads takes none",
        ),
        Target::File { .. } => Ok(()),
    }
}

/// The folder of a store in files, for tools that work on the files themselves.
///
/// # Errors
/// [`Error::Config`] if `url` is that of another store, or none.
pub fn file_folder(url: &str) -> Result<PathBuf> {
    check_store(url)?;
    match url.parse()? {
        Target::File { folder, .. } => Ok(folder),
        Target::Memory { .. } | Target::Redis(_) => wrong("it is no store in files"),
    }
}

/// Whether `url` can be a store's, without opening it.
///
/// # Errors
/// [`Error::Config`] that says what it should be.
pub fn check_store(url: &str) -> Result<()> {
    match url.parse()? {
        Target::File { folder, .. } if folder.is_file() => wrong(format!(
            "{} is a file: name the folder that data.json stands in",
            folder.display()
        )),
        Target::File { .. } | Target::Memory { .. } => Ok(()),
        Target::Redis(target) => redis::check_url(&target.address),
    }
}

/// Whether `queue_url` can be the queue in front of the store at `store_url`.
///
/// # Errors
/// [`Error::Config`] that says why not.
pub(crate) fn check_queue(store_url: &str, queue_url: &str) -> Result<()> {
    let store: Target = store_url.parse()?;
    let queue: Target = queue_url.parse()?;
    if store_url == queue_url {
        return Ok(());
    }
    match (store, queue) {
        (Target::File { .. }, Target::Memory { .. }) => wrong(
            "a queue in memory would lose accepted writes when the process ends, which a store in files promises not to",
        ),
        (Target::Memory { .. }, Target::File { .. }) => wrong(
            "a queue in files would outlive its store in memory, and its applied writes would be gone",
        ),
        (Target::File { .. }, Target::File { .. }) => wrong(
            "a queue in files stands in its store's folder: leave it out, or give the same URL as for the store",
        ),
        (Target::Memory { .. }, Target::Memory { .. }) => wrong(
            "a queue in memory belongs to its store: leave it out, or give the same URL as for the store",
        ),
        (
            Target::File {
                data_bytes: Some(_),
                ..
            },
            Target::Redis(_),
        ) => wrong(
            "a folder behind a queue on Redis can have no data_bytes: who accepts a write does not know how much room there is",
        ),
        (Target::File { queue, .. }, Target::Redis(_)) if queue != QueueBounds::default() => wrong(
            "a queue on Redis has its own bounds: give queue_jobs and queue_bytes in its URL, not in the folder's",
        ),
        (Target::File { .. }, Target::Redis(target)) => redis::check_url(&target.address),
        (Target::Memory { .. }, Target::Redis(_)) => wrong(
            "a queue on Redis would outlive its store in memory, and its applied writes would be gone",
        ),
        (Target::Redis(_), _) => wrong(
            "a store on Redis and its queue stand on one server under one prefix: leave the queue out, or give the same URL as for the store",
        ),
    }
}

/// What a URL names, checked but not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// `memory:` with `partitions`, `queue_jobs`, `queue_bytes`.
    Memory {
        partitions: PartitionCount,
        queue: QueueBounds,
    },
    /// `file:FOLDER` with `data_bytes`, `snapshot_bytes`, `keep_edit`, `queue_jobs`, `queue_bytes`.
    File {
        folder: PathBuf,
        /// The ceiling on the data, all of which is in memory.
        data_bytes: Option<u64>,
        /// The least size of the journal at which `data.json` is written anew.
        snapshot_bytes: Option<u64>,
        /// Whether an edit is worth more than the commits after it.
        keep_edit: bool,
        queue: QueueBounds,
    },
    /// `redis://…`, `redis+unix:///…` or `redis+cluster://…`; with TLS `rediss://…` or `rediss+cluster://…`.
    Redis(RedisTarget),
}

/// A server with `prefix`, `partitions`, `password_file`, `durability`, `wait_replicas`, `queue_jobs`, `queue_bytes`; by TLS also
/// `ca_file`, `cert_file` and `key_file`.
#[derive(Clone, PartialEq, Eq)]
struct RedisTarget {
    /// The URL without the parameters. It may hold a password.
    address: String,
    prefix: Option<String>,
    partitions: Option<PartitionCount>,
    password_file: Option<PathBuf>,
    relaxed: bool,
    wait_replicas: Option<usize>,
    ca_file: Option<PathBuf>,
    /// A certificate and its key.
    client_files: Option<(PathBuf, PathBuf)>,
    queue: QueueBounds,
}

impl std::fmt::Debug for RedisTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisTarget")
            .field("prefix", &self.prefix)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl RedisTarget {
    fn take(address: &str, parameters: &mut Parameters) -> Result<Self> {
        let ca_file = parameters.take("ca_file", str::parse)?;
        let certificate = parameters.take("cert_file", str::parse)?;
        let key = parameters.take("key_file", str::parse)?;
        if certificate.is_some() != key.is_some() {
            return wrong("cert_file and key_file go together: give both, or neither");
        }
        if (ca_file.is_some() || key.is_some()) && !address.starts_with("rediss") {
            return wrong(
                "ca_file, cert_file and key_file are for TLS: let the URL begin with rediss:, or leave them out",
            );
        }
        Ok(Self {
            ca_file,
            client_files: certificate.zip(key),
            address: address.to_owned(),
            prefix: parameters.take("prefix", str::parse)?,
            partitions: parameters.take("partitions", partition_count)?,
            password_file: parameters.take("password_file", str::parse)?,
            relaxed: parameters.take("durability", durability)?.unwrap_or(false),
            wait_replicas: parameters
                .take("wait_replicas", at_least_one(str::parse))?
                .map(saturated),
            queue: QueueBounds::take(parameters)?,
        })
    }

    /// With what stands in files, which are read now.
    fn options(&self) -> Result<redis::Options> {
        let read = |name: &str, file: &PathBuf| {
            std::fs::read(file)
                .or_else(|error| wrong(format!("{name} {} can't be read: {error}", file.display())))
        };
        let password = match &self.password_file {
            None => None,
            Some(file) => match String::from_utf8(read("password_file", file)?) {
                Ok(password) => Some(password.trim_end_matches(['\r', '\n']).to_owned()),
                Err(_) => return wrong(format!("password_file {} is not UTF-8", file.display())),
            },
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
            password,
            ca,
            client_certificate,
            jobs_max: self.queue.jobs,
            bytes_max: self.queue.bytes,
            relaxed_durability: self.relaxed,
            wait_replicas: self.wait_replicas.unwrap_or(0),
            ..defaults
        })
    }
}

/// The bounds on what waits in each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QueueBounds {
    jobs: usize,
    bytes: usize,
}

impl Default for QueueBounds {
    fn default() -> Self {
        Self {
            jobs: QUEUE_JOBS_DEFAULT,
            bytes: QUEUE_BYTES_DEFAULT,
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let (scheme, rest) = match place.split_once(':') {
            Some((scheme, rest)) if !scheme.contains(['/', '\\', '.']) => (scheme, rest),
            _ => {
                return wrong("it is a path: put file: before the folder, as in file:database");
            }
        };
        let mut parameters = Parameters::parse(query)?;
        let target = match scheme {
            "memory" if rest.is_empty() => Self::Memory {
                partitions: parameters
                    .take("partitions", partition_count)?
                    .unwrap_or(PartitionCount::ONE),
                queue: QueueBounds::take(&mut parameters)?,
            },
            "memory" => return wrong("memory: takes no path, only parameters"),
            "file" => Self::File {
                folder: folder(rest)?,
                data_bytes: parameters.take("data_bytes", at_least_one(bytes))?,
                snapshot_bytes: parameters.take("snapshot_bytes", at_least_one(bytes))?,
                keep_edit: parameters.take("keep_edit", switch)?.unwrap_or(false),
                queue: QueueBounds::take(&mut parameters)?,
            },
            "redis" | "rediss" | "redis+unix" | "redis+cluster" | "rediss+cluster" => {
                Self::Redis(RedisTarget::take(place, &mut parameters)?)
            }
            _ => {
                return wrong(format!(
                    "{scheme}: is no backend of this program, file:, memory:, redis:, rediss:, redis+unix:, redis+cluster: and rediss+cluster: are"
                ));
            }
        };
        parameters.finish(scheme)?;
        Ok(target)
    }
}

impl QueueBounds {
    fn options(self, partitions: PartitionCount) -> QueueOptions {
        QueueOptions {
            partitions,
            jobs_max: self.jobs,
            bytes_max: self.bytes,
            ..QueueOptions::default()
        }
    }

    fn take(parameters: &mut Parameters) -> Result<Self> {
        let jobs = parameters.take("queue_jobs", at_least_one(str::parse))?;
        let bytes = parameters.take("queue_bytes", at_least_one(bytes))?;
        let defaults = Self::default();
        Ok(Self {
            jobs: jobs.map_or(defaults.jobs, saturated),
            bytes: bytes.map_or(defaults.bytes, saturated),
        })
    }
}

fn saturated(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The folder of a `file:` URL, which is everything between the scheme and the parameters, byte for byte: nothing is
/// decoded, so any path without a question mark can be written as it is.
fn folder(rest: &str) -> Result<PathBuf> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => {
            return wrong(
                "after file:// an absolute path has to follow, as in file:///var/lib/kvstore; write a relative one as file:database",
            );
        }
        None => rest,
    };
    if path.is_empty() {
        return wrong("a folder has to follow, as in file:database");
    }
    Ok(PathBuf::from(path))
}

/// The parameters behind the question mark, each of which has to be taken.
struct Parameters<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Parameters<'a> {
    fn parse(query: &'a str) -> Result<Self> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return wrong(format!("parameter {part} has no value"));
            };
            if pairs.iter().any(|(earlier, _)| *earlier == name) {
                return wrong(format!("parameter {name} stands in it twice"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    fn take<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>> {
        let Some(index) = self.0.iter().position(|(present, _)| *present == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.swap_remove(index);
        match parse(value) {
            Ok(value) => Ok(Some(value)),
            Err(reason) => wrong(format!("parameter {name} can't be {value:?}: {reason}")),
        }
    }

    /// Names what was not taken, but not its value, which may be secret.
    fn finish(self, scheme: &str) -> Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => wrong(format!("{scheme}: has no parameter {name}")),
        }
    }
}

fn partition_count(text: &str) -> Result<PartitionCount, &'static str> {
    text.parse()
        .ok()
        .and_then(|count| PartitionCount::new(count).ok())
        .ok_or("it is not a number from 1 to 65535")
}

/// Whether a server may be one that loses what it has acknowledged.
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

/// A number of bytes: digits, with `KiB`, `MiB`, `GiB` or `TiB` behind them or nothing.
///
/// # Errors
/// For anything else, and for more than 64 bits hold.
pub(crate) fn bytes(text: &str) -> Result<u64, &'static str> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (digits, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .unwrap_or((text, 0));
    // The number's own parser would take a plus sign, too.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{Command, Operation};
    use crate::model::job::NewJob;
    use crate::model::key::Key;
    use crate::model::value::Value;

    fn file(folder: &str) -> Target {
        Target::File {
            folder: folder.into(),
            data_bytes: None,
            snapshot_bytes: None,
            keep_edit: false,
            queue: QueueBounds {
                jobs: QUEUE_JOBS_DEFAULT,
                bytes: QUEUE_BYTES_DEFAULT,
            },
        }
    }

    fn message(result: Result<impl std::fmt::Debug>) -> String {
        match result {
            Err(Error::Config(message)) => message,
            other => panic!("{other:?} is not a wrong setting"),
        }
    }

    #[test]
    fn folder_is_what_stands_between_scheme_and_parameters() {
        for (url, folder) in [
            ("file:database", "database"),
            ("file:./a/b", "./a/b"),
            ("file:../a", "../a"),
            ("file:/var/lib/kvstore", "/var/lib/kvstore"),
            ("file:///var/lib/kvstore", "/var/lib/kvstore"),
            ("file:with space and %20", "with space and %20"),
            ("file:C:old", "C:old"),
            ("file:database?", "database"),
        ] {
            assert_eq!(url.parse::<Target>().unwrap(), file(folder), "{url}");
        }
    }

    #[test]
    fn what_can_only_be_written_is_not_followed() {
        for (url, part) in [
            ("memory:", "inside one process"),
            ("file:x?keep_edit=true", "takes none"),
            ("file:x?unknown=1", "unknown"),
            ("x", "file:"),
        ] {
            let told = message(check_follow(url, None));
            assert!(told.contains(part), "{url}: {told}");
        }
        assert!(check_follow("file:x", Some("file:x")).is_ok());
        assert!(check_follow("file:x", Some("redis://b")).is_ok());
        assert!(check_follow("file:x", Some("memory:")).is_err());
    }

    #[test]
    fn parameters_are_taken() {
        assert_eq!(
            "file:x?data_bytes=2GiB&queue_jobs=7&queue_bytes=64KiB&snapshot_bytes=1MiB&keep_edit=true"
                .parse::<Target>()
                .unwrap(),
            Target::File {
                folder: "x".into(),
                data_bytes: Some(2 << 30),
                snapshot_bytes: Some(1 << 20),
                keep_edit: true,
                queue: QueueBounds {
                    jobs: 7,
                    bytes: 65536
                },
            }
        );
        assert_eq!(
            "memory:?partitions=8".parse::<Target>().unwrap(),
            Target::Memory {
                partitions: PartitionCount::new(8).unwrap(),
                queue: QueueBounds {
                    jobs: QUEUE_JOBS_DEFAULT,
                    bytes: QUEUE_BYTES_DEFAULT
                },
            }
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (url, part) in [
            ("", "file:database"),
            ("database", "file:database"),
            ("./x/data.json", "file:database"),
            ("/x:y", "file:database"),
            (
                "valkey://localhost",
                "redis+unix:, redis+cluster: and rediss+cluster: are",
            ),
            (
                "redis://localhost?ca_file=ca.crt",
                "let the URL begin with rediss:",
            ),
            (
                "rediss://localhost?key_file=x",
                "cert_file and key_file go together",
            ),
            ("redis://localhost?wait_replicas=0", "it must be at least 1"),
            ("FILE:x", "file:, memory:"),
            (
                "redis://localhost?durability=none",
                "neither relaxed nor checked",
            ),
            ("redis://localhost?data_bytes=1", "no parameter data_bytes"),
            ("file:", "a folder has to follow"),
            ("file://", "an absolute path has to follow"),
            ("file://host/path", "an absolute path has to follow"),
            ("memory:x", "no path"),
            ("memory:?partitions=0", "from 1 to 65535"),
            ("memory:?partitions=65536", "from 1 to 65535"),
            ("memory:?partitions=", "from 1 to 65535"),
            ("memory:?data_bytes=1", "no parameter data_bytes"),
            ("file:x?partitions=1", "no parameter partitions"),
            ("file:x?password=hunter2", "no parameter password"),
            ("file:x?queue_jobs", "has no value"),
            ("file:x?queue_jobs=1&queue_jobs=1", "twice"),
            ("file:x?queue_jobs=0", "at least 1"),
            ("file:x?queue_jobs=-1", "queue_jobs"),
            ("file:x?queue_bytes=1KB", "64MiB"),
            ("file:x?data_bytes=+1", "64MiB"),
            ("file:x?snapshot_bytes=0", "at least 1"),
            ("file:x?keep_edit=1", "neither true nor false"),
            ("memory:?keep_edit=true", "no parameter keep_edit"),
            ("file:x?data_bytes=99999999999TiB", "64MiB"),
        ] {
            let message = message(url.parse::<Target>());
            assert!(message.contains(part), "{url}: {message}");
            assert!(!message.contains("hunter2"), "{url}: {message}");
        }
    }

    #[test]
    fn address_of_a_server_is_checked_before_it_is_opened() {
        for url in [
            "redis://localhost",
            "redis://:secret@10.0.0.1:6380/2?prefix=x&partitions=8&durability=relaxed",
            "redis+unix:///run/redis.sock?password_file=/run/secret",
            "redis+cluster://one:7000,two:7000,three?prefix=x",
            "redis+cluster://:secret@one:7000,two:7001?partitions=8",
        ] {
            check_store(url).unwrap();
            let target: Target = url.parse().unwrap();
            assert!(!format!("{target:?}").contains("secret"), "{target:?}");
        }
        for url in [
            "redis:localhost",
            "redis://host:x",
            "redis://:hunter2@",
            "redis+cluster://",
            "redis+cluster://:hunter2@one,",
            "redis+cluster://:hunter2@one,two/0",
        ] {
            let message = message(check_store(url));
            assert!(
                message.contains("redis://[:password@]host"),
                "{url}: {message}"
            );
            assert!(!message.contains("hunter2"), "{url}: {message}");
        }
        let missing = "redis://localhost?password_file=/not/there";
        let Ok(Target::Redis(target)) = missing.parse() else {
            panic!("{missing} is a server");
        };
        let message = message(target.options());
        assert!(message.contains("/not/there can't be read"), "{message}");
    }

    #[test]
    fn queue_has_to_go_with_its_store() {
        assert!(check_queue("file:a", "file:a").is_ok());
        assert!(check_queue("memory:", "memory:").is_ok());
        assert!(check_queue("file:a", "redis://b?queue_jobs=7").is_ok());
        for (store, queue, part) in [
            ("file:a", "file:b", "folder"),
            ("file:a", "memory:", "lose"),
            ("memory:", "file:a", "outlive"),
            ("memory:", "memory:?partitions=2", "belongs"),
            ("file:a", "elsewhere", "file:database"),
            ("redis://a", "redis://b", "one server"),
            ("redis://a", "file:b", "one server"),
            ("memory:", "redis://b", "outlive"),
            ("file:a", "redis://host:x", "redis://[:password@]host"),
            ("file:a?data_bytes=1GiB", "redis://b", "data_bytes"),
            ("file:a?queue_jobs=7", "redis://b", "in its URL"),
        ] {
            let message = message(check_queue(store, queue));
            assert!(message.contains(part), "{store} {queue}: {message}");
        }
    }

    #[tokio::test]
    async fn opened_backends_have_the_bounds_of_their_url() {
        let folder = tempfile::tempdir().unwrap();
        let file = format!(
            "file:{}?queue_jobs=1&data_bytes=1KiB",
            folder.path().display()
        );
        let set = |bytes: usize| {
            let value = Value::parse(format!("\"{}\"", "x".repeat(bytes))).unwrap();
            NewJob::new(Command::One(Operation::set(Key::new("k").unwrap(), value)))
        };
        for url in [file.as_str(), "memory:?queue_jobs=1"] {
            let opened = open(url, Some(url)).await.unwrap();
            let answers = opened.queue.enqueue(vec![set(1), set(1)]).await;
            assert!(
                matches!(&answers[..], [Ok(_), Err(Error::Full { limit: 1, .. })]),
                "{url}: {answers:?}"
            );
            opened.close().await.unwrap();
        }
        let opened = open("memory:?partitions=3", None).await.unwrap();
        assert_eq!(opened.queue.partitions().get(), 3);

        let full = format!("file:{}/full?data_bytes=1KiB", folder.path().display());
        let opened = open(&full, None).await.unwrap();
        let answers = opened.queue.enqueue(vec![set(2000)]).await;
        assert!(
            matches!(&answers[..], [Err(Error::StorageFull { .. })]),
            "{answers:?}"
        );
        opened.close().await.unwrap();
    }

    #[test]
    fn file_in_place_of_the_folder_gets_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data.json");
        std::fs::write(&data, "{}").unwrap();
        let message = message(check_store(&format!("file:{}", data.display())));
        assert!(message.contains("name the folder"), "{message}");
        assert!(check_store(&format!("file:{}", folder.path().display())).is_ok());
        assert!(check_store("file:not/there/yet").is_ok());
    }
}
