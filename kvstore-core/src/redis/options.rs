//! How a store on Redis is opened. Also where there is none: see `absent.rs`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use crate::limits::{CLAIM_PERIOD, IDEMPOTENCY_KEYS_MAX, QUEUE_BYTES_DEFAULT, QUEUE_JOBS_DEFAULT};
use crate::model::id::PartitionCount;

/// Partitions of a store that is created without a word on it: enough for some dozens of workers.
pub const PARTITIONS_DEFAULT: u16 = 64;

/// Most partitions: each costs a few keys and a little work when nothing happens.
pub const PARTITIONS_MAX: u16 = 4096;

/// How a store on Redis is opened.
#[derive(Clone)]
pub struct Options {
    /// What all keys start with, so that several stores share a server.
    pub prefix: String,
    /// How many partitions it must have; `None`: as it was created, [`PARTITIONS_DEFAULT`] if it is created now.
    pub partitions: Option<PartitionCount>,
    /// In place of a password in the URL, which process lists and logs may show.
    pub password: Option<String>,
    /// Most jobs that wait in one partition of the queue.
    pub jobs_max: usize,
    /// Most bytes (keys and values) of those.
    pub bytes_max: usize,
    /// Most idempotency keys remembered in one partition.
    pub idempotency_keys_max: usize,
    /// How long a worker keeps its claims unless it renews them.
    pub claim_period: Duration,
    /// Take a server as it is, though it may lose what it has acknowledged.
    pub relaxed_durability: bool,
    /// How many replicas must have a write before it is acknowledged; more than are connected makes every write unknown.
    pub wait_replicas: usize,
    /// Who may vouch for a server that is reached by TLS: certificates in PEM. `None`: those that the system trusts.
    pub ca: Option<Vec<u8>>,
    /// Who this program is, for a server that asks by TLS.
    pub client_certificate: Option<ClientCertificate>,
    /// Milliseconds by which the store's clock is ahead of the server's, for tests.
    #[doc(hidden)]
    pub skew_ms: Arc<AtomicI64>,
}

impl Default for Options {
    /// The prefix `kv`, any number of partitions, and a server that keeps what it acknowledges.
    fn default() -> Self {
        Self {
            prefix: "kv".to_owned(),
            partitions: None,
            password: None,
            jobs_max: QUEUE_JOBS_DEFAULT,
            bytes_max: QUEUE_BYTES_DEFAULT,
            idempotency_keys_max: IDEMPOTENCY_KEYS_MAX,
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
    /// Without what is secret.
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
    /// The certificate, with those between it and the one that the server trusts.
    pub chain: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}
