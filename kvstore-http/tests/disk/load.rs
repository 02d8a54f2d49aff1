//! A client that writes to keys of its own, in every possible way, until the server is gone or the
//! test stops it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::counter::{Answer, Counter};
use crate::expected::{Expected, tag_number};
use kvstore_testing::client::{Connection, Reply, request};

const KEYS: usize = 2;

/// Default for the maximum padding of a value, in bytes.
const PADDING_MAX: usize = 1200;

/// A refused client tries again after this.
const RETRY_AFTER: Duration = Duration::from_millis(5);

/// The answers to the clients of a load so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    acknowledged: AtomicUsize,
    /// 503: nothing is accepted any more.
    refused: AtomicUsize,
    /// 507: there is no room.
    full: AtomicUsize,
    /// 504: the outcome is unknown.
    unknown: AtomicUsize,
    stopped: AtomicBool,
}

impl Tally {
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    pub(crate) fn full(&self) -> usize {
        self.full.load(Ordering::SeqCst)
    }

    /// Returns the number of answers that a disk without faults never causes.
    pub(crate) fn failed(&self) -> usize {
        let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        count(&self.refused) + count(&self.full) + count(&self.unknown)
    }

    pub(crate) fn answered(&self) -> usize {
        self.acknowledged() + self.failed()
    }

    /// Ends each client after its next answer.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    fn count(&self, said: Said) {
        let counter = match said {
            Said::Acknowledged => &self.acknowledged,
            Said::Refused => &self.refused,
            Said::Full => &self.full,
            Said::Unknown => &self.unknown,
            Said::Nothing => return,
        };
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

/// The answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Acknowledged,
    Refused,
    Full,
    Unknown,
    /// The connection broke.
    Nothing,
}

pub(crate) struct Client {
    random: StdRng,
    keys: Vec<Expected>,
    counter: Counter,
    /// Maximum padding of a value, in bytes.
    padding_max: usize,
}

/// A way to write.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `POST /set`, which does not wait.
    Set,
    Put,
    /// `PUT` that expects the current version of the key.
    PutIf(u64),
    /// `PUT` that expects a previous version of the key.
    PutStale(u64),
    Delete,
    /// `DELETE /delete/…`, which does not wait.
    DeleteLater,
}

impl Client {
    pub(crate) fn new(number: usize, seed: u64) -> Self {
        let mut client = Self {
            random: StdRng::seed_from_u64(seed),
            keys: Vec::new(),
            counter: Counter::new(format!("counter:{number}")),
            padding_max: 0,
        };
        client.set_size(number, KEYS, PADDING_MAX);
        client
    }

    /// Extends the client to `keys` keys, with values of up to `bytes_max` bytes.
    pub(crate) fn set_size(&mut self, number: usize, keys: usize, bytes_max: usize) {
        let more =
            (self.keys.len()..keys).map(|key| Expected::new(format!("client:{number}:{key}")));
        self.keys.extend(more);
        self.padding_max = bytes_max;
    }

    /// Writes until the connection breaks, an answer leaves an outcome open, or `tally` tells it to
    /// stop.
    pub(crate) async fn write(mut self, address: SocketAddr, tally: Arc<Tally>) -> Self {
        let Some(mut connection) = Connection::try_open(address).await else {
            return self;
        };
        let mut was_refused = false;
        while !tally.stopped.load(Ordering::SeqCst) {
            let said = self.write_once(&mut connection).await;
            tally.count(said);
            match said {
                Said::Acknowledged => assert!(
                    !was_refused,
                    "a server that had given up acknowledges a write without having been started again"
                ),
                Said::Refused | Said::Full => {
                    was_refused |= said == Said::Refused;
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                Said::Unknown | Said::Nothing => break,
            }
        }
        self
    }

    async fn write_once(&mut self, connection: &mut Connection) -> Said {
        // Unanswered increments are sent again first.
        if self.counter.is_open() || self.random.random_ratio(1, 8) {
            return self.count_once(connection).await;
        }
        let key = self.random.random_range(0..self.keys.len());
        let expected = &mut self.keys[key];
        let way = choose(&mut self.random, expected);
        let value = match way {
            Way::Delete | Way::DeleteLater => None,
            _ => Some(expected.make_value(self.random.random_range(0..self.padding_max))),
        };
        let key = &expected.key;
        let put =
            || request("PUT", &format!("/v1/kv/{key}")).body(value.clone().unwrap_or_default());
        let request = match way {
            Way::Set => request("POST", "/set").body(format!(
                r#"{{"key":"{key}","value":{}}}"#,
                value.as_deref().unwrap_or_default()
            )),
            Way::Put => put(),
            Way::PutIf(version) | Way::PutStale(version) => {
                put().header("if-match", &format!("\"{version}\""))
            }
            Way::Delete => request("DELETE", &format!("/v1/kv/{key}")),
            Way::DeleteLater => request("DELETE", &format!("/delete/{key}")),
        };
        let was_present = expected.is_present();
        expected.sending(value);
        let Some(reply) = connection.try_ask(&request).await else {
            return Said::Nothing;
        };
        take(expected, way, was_present, &reply)
    }

    async fn count_once(&mut self, connection: &mut Connection) -> Said {
        let Some(reply) = connection.try_ask(&self.counter.request()).await else {
            return Said::Nothing;
        };
        match (self.counter.take(&reply), reply.status) {
            (Answer::Acknowledged, _) => Said::Acknowledged,
            (Answer::Refused, 507) => Said::Full,
            (Answer::Refused, _) => Said::Refused,
            (Answer::Unknown, _) => Said::Unknown,
        }
    }

    /// Reads each key and checks its content.
    pub(crate) async fn check(&mut self, connection: &mut Connection) {
        let counter = request("GET", &format!("/v1/kv/{}", self.counter.key));
        self.counter.check(&connection.ask(&counter).await);
        for expected in &mut self.keys {
            let reply = connection
                .ask(&request("GET", &format!("/v1/kv/{}", expected.key)))
                .await;
            expected.check(&reply);
            if let Some(job) = expected.job.take() {
                let reply = connection
                    .ask(&request("GET", &format!("/v1/jobs/{job}")))
                    .await;
                assert_eq!(
                    reply.json()["status"],
                    "succeeded",
                    "{}: {reply:?}",
                    expected.key
                );
            }
        }
    }

    /// Returns the number of its writes that took effect.
    pub(crate) fn applied(&self) -> u64 {
        let writes: u64 = self.keys.iter().map(Expected::applied).sum();
        writes + self.counter.sum()
    }

    /// Returns true if it waits for an answer that will not come.
    pub(crate) fn was_cut_off(&self) -> bool {
        self.counter.is_unanswered() || self.keys.iter().any(Expected::is_unanswered)
    }

    /// Returns the keys and values that must exist.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (String, String)> {
        let sum = self.counter.sum();
        let counter = (sum > 0).then(|| (self.counter.key.clone(), sum.to_string()));
        let keys = self.keys.iter();
        keys.filter_map(|expected| Some((expected.key.clone(), expected.value()?.to_owned())))
            .chain(counter)
    }
}

fn choose(random: &mut StdRng, expected: &Expected) -> Way {
    match random.random_range(0..10) {
        0..4 => Way::Set,
        4 if expected.is_present() => Way::Delete,
        5 if expected.is_present() => Way::DeleteLater,
        6 | 7 => expected.version().map_or(Way::Put, Way::PutIf),
        8 => expected.past_version().map_or(Way::Put, Way::PutStale),
        _ => Way::Put,
    }
}

/// Processes an answer as a client does, which relies on its promise from now on.
fn take(expected: &mut Expected, way: Way, was_present: bool, reply: &Reply) -> Said {
    match reply.status {
        503 | 507 => {
            expected.refused();
            return if reply.status == 503 {
                Said::Refused
            } else {
                Said::Full
            };
        }
        // The content of the key stays open until it is read after a restart.
        504 => return Said::Unknown,
        _ => {}
    }
    let body = reply.json();
    match (way, reply.status) {
        // On a busy or failing machine, the outcome may come after the wait has run out.
        (Way::PutStale(_), 202 | 412) => expected.refused(),
        (Way::PutStale(_), _) => panic!("{way:?}: {reply:?}"),
        // The same here.
        (_, 202) => {
            expected.job = body["job_id"].as_str().map(str::to_owned);
            expected.acknowledged(None);
        }
        (Way::Put | Way::PutIf(_), 200 | 201) => {
            assert_eq!(body["created"], !was_present, "{way:?}: {reply:?}");
            let tag = reply.header("etag").expect("a tag");
            expected.acknowledged(Some(tag_number(tag)));
        }
        (Way::Delete, 200) => {
            assert_eq!(body["deleted"], true, "{way:?}: {reply:?}");
            expected.acknowledged(None);
        }
        _ => panic!("{way:?}: {reply:?}"),
    }
    Said::Acknowledged
}
