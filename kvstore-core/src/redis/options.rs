//! Options of a store on Redis. Compiled without the feature `redis`, too: see `absent.rs`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use crate::limits::{
    CLAIM_PERIOD, DEAD_LETTERS_MAX, IDEMPOTENCY_KEYS_MAX, OUTCOMES_MAX, QUEUE_BYTES_DEFAULT,
    QUEUE_JOBS_DEFAULT,
};
use crate::model::id::PartitionCount;

/// Partitions of a store that is created without a number: enough for some dozens of workers.
pub const PARTITIONS_DEFAULT: u16 = 64;

/// Most partitions. Each costs a few keys, and a little work even when idle.
pub const PARTITIONS_MAX: u16 = 4096;

/// How a store on Redis is opened.
#[derive(Clone)]
pub struct Options {
    /// What all keys start with, so that several stores share a server.
    pub prefix: String,
    /// How many partitions the store must have. `None` accepts any number, and creates a store with
    /// [`PARTITIONS_DEFAULT`].
    pub partitions: Option<PartitionCount>,
    /// The password, in place of one in the URL, which process lists and logs may show.
    pub password: Option<String>,
    /// A file with the password, in place of [`Options::password`]. It is read again for each
    /// connection and every 30 s, so that another program may replace the password.
    pub password_file: Option<PathBuf>,
    /// Most jobs that wait in one partition of the queue.
    pub jobs_max: usize,
    /// Most bytes (keys and values) of those jobs.
    pub bytes_max: usize,
    /// Most idempotency keys remembered in one partition.
    pub idempotency_keys_max: usize,
    /// Most outcomes kept in one partition. Each worker prunes to its own setting.
    pub outcomes_max: usize,
    /// Most dead letters kept in one partition; beyond that the partition waits.
    pub dead_letters_max: usize,
    /// How long a worker keeps its claims unless it renews them.
    pub claim_period: Duration,
    /// Accepts a server whose settings may lose what it has acknowledged.
    pub relaxed_durability: bool,
    /// How many replicas must have a write before it is acknowledged. If fewer are connected, the
    /// result of every write is unknown.
    pub wait_replicas: usize,
    /// Certificates in PEM of the authorities that may vouch for a server reached by TLS. `None`:
    /// those that the system trusts.
    pub ca: Option<Vec<u8>>,
    /// The identity of this program, for a server that asks for one by TLS.
    pub client_certificate: Option<ClientCertificate>,
    /// Milliseconds by which the store's clock is ahead of the server's, for tests.
    #[doc(hidden)]
    pub skew_ms: Arc<AtomicI64>,
}

impl Default for Options {
    /// Returns the prefix `kv`, any number of partitions, and a server that keeps what it
    /// acknowledges.
    fn default() -> Self {
        Self {
            prefix: "kv".to_owned(),
            partitions: None,
            password: None,
            password_file: None,
            jobs_max: QUEUE_JOBS_DEFAULT,
            bytes_max: QUEUE_BYTES_DEFAULT,
            idempotency_keys_max: IDEMPOTENCY_KEYS_MAX,
            outcomes_max: OUTCOMES_MAX,
            dead_letters_max: DEAD_LETTERS_MAX,
            claim_period: CLAIM_PERIOD,
            relaxed_durability: false,
            wait_replicas: 0,
            ca: None,
            client_certificate: None,
            skew_ms: Arc::default(),
        }
    }
}

impl fmt::Debug for Options {
    /// Formats the options without their secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("prefix", &self.prefix)
            .field("partitions", &self.partitions)
            .field("relaxed_durability", &self.relaxed_durability)
            .field("wait_replicas", &self.wait_replicas)
            .finish_non_exhaustive()
    }
}

/// A certificate and its key, both in PEM.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate, followed by its intermediates up to the one that the server trusts.
    pub chain: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}
