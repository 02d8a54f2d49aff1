//! A client that reads and writes in every possible way, at any server, and records the answers.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvstore_core::model::id::JobId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::counting::{Counted, Counters};
use kvstore_testing::client::{Connection, Reply, Request, request};
use kvstore_testing::history::{
    Condition, Moment, NEVER, Operation, Read, ValueId, Verdict, What, Write,
};

/// Longer than any answer here takes, unless a resource that it needs is gone.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// How often a write under an idempotency key is sent before its outcome stays unknown.
const ATTEMPTS_MAX: usize = 40;

/// Maximum number of jobs with an unknown outcome before the client asks about one.
const OPEN_MAX: usize = 4;

/// Time limit for the accepted jobs once the faults are over.
const DRAIN_MAX: Duration = Duration::from_secs(90);

/// Maximum padding of a value, in bytes.
const PADDING_MAX: u64 = 700;

/// State that the clients share with the code that starts and kills the servers.
#[derive(Debug)]
pub(crate) struct World {
    begun: Instant,
    /// The current address of each server.
    pub(crate) servers: Mutex<Vec<SocketAddr>>,
    pub(crate) keys: usize,
    pub(crate) counters: Counters,
    is_over: AtomicBool,
    /// Number of accepted writes.
    accepted: AtomicUsize,
    /// Number of unanswered requests at each server.
    pub(crate) under_way: Vec<AtomicUsize>,
}

impl World {
    pub(crate) fn new(servers: Vec<SocketAddr>, keys: usize) -> Self {
        Self {
            begun: Instant::now(),
            under_way: servers.iter().map(|_| AtomicUsize::new(0)).collect(),
            servers: Mutex::new(servers),
            keys,
            counters: Counters::default(),
            is_over: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
        }
    }

    pub(crate) fn now(&self) -> Moment {
        Moment::try_from(self.begun.elapsed().as_nanos()).expect("a run of less than centuries")
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Keeps the clients from starting anything new.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    fn address(&self, server: usize) -> SocketAddr {
        self.servers.lock().unwrap()[server]
    }
}

/// The result of a request.
enum Said {
    /// The request was never sent.
    NotSent,
    /// The connection broke, or there was no answer.
    Nothing,
    Answer(Reply),
}

pub(crate) struct Client {
    number: usize,
    world: Arc<World>,
    random: StdRng,
    connections: Vec<Option<(SocketAddr, Connection)>>,
    made: ValueId,
    /// The last version seen of each key.
    versions: HashMap<usize, u64>,
    /// The last known job of each key.
    tokens: HashMap<usize, JobId>,
    /// Operations that are queued as far as the client knows, by index in `history`.
    open: VecDeque<usize>,
    pub(crate) history: Vec<Operation>,
    /// Answers that a request of this kind must not get.
    pub(crate) wrong: Vec<String>,
    /// Requests under an idempotency key that were answered as repetitions.
    pub(crate) replays: usize,
    /// Requests without an answer, or refused without a fault of their own, and their times.
    pub(crate) failures: Vec<(Moment, String)>,
}

/// A write as its client intends it, whatever its outcome.
struct Wish {
    key: usize,
    value: Option<ValueId>,
    condition: Condition,
    /// True if the write has an idempotency key and so can be sent again.
    is_repeatable: bool,
    request: Request,
}

impl Client {
    pub(crate) fn new(number: usize, seed: u64, world: Arc<World>) -> Self {
        let connections = world.under_way.iter().map(|_| None).collect();
        Self {
            number,
            world,
            random: StdRng::seed_from_u64(seed),
            connections,
            made: 0,
            versions: HashMap::new(),
            tokens: HashMap::new(),
            open: VecDeque::new(),
            history: Vec::new(),
            wrong: Vec::new(),
            replays: 0,
            failures: Vec::new(),
        }
    }

    /// Runs until the end of the run, and then until the outcomes of all its jobs are known.
    pub(crate) async fn run(mut self) -> Self {
        while !self.world.is_over.load(Ordering::SeqCst) {
            match self.random.random_range(0..10) {
                0..3 => self.read().await,
                3 => self.count().await,
                _ => self.write().await,
            }
            if self.open.len() > OPEN_MAX || self.random.random_ratio(1, 8) {
                self.ask_for_a_job(0).await;
            }
            let pause = self.random.random_range(0..15);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let begun = Instant::now();
        while !self.open.is_empty() && begun.elapsed() < DRAIN_MAX {
            self.ask_for_a_job(1).await;
        }
        self
    }

    /// Reads `key` at `server` until there is an answer.
    pub(crate) async fn read_for_certain(&mut self, key: usize, server: usize) {
        let before = self.history.len();
        let begun = Instant::now();
        while self.history.len() == before {
            assert!(begun.elapsed() < DRAIN_MAX, "server {server} reads nothing");
            self.read_at(key, server, None).await;
        }
    }

    fn choose_server(&mut self) -> usize {
        let count = self.world.under_way.len();
        self.random.random_range(0..count)
    }

    /// Sends a request to `server`, and records a failure.
    async fn ask(&mut self, server: usize, request: &Request) -> Said {
        let said = self.try_ask(server, request).await;
        let failure = match &said {
            Said::Answer(reply) if reply.status >= 500 => {
                format!("{} {}", reply.status, reply.text())
            }
            Said::Answer(_) => return said,
            Said::NotSent => "no connection".to_owned(),
            Said::Nothing => "no answer".to_owned(),
        };
        let failure = format!("{}: {failure}", request.line());
        self.failures.push((self.world.now(), failure));
        said
    }

    async fn try_ask(&mut self, server: usize, request: &Request) -> Said {
        let address = self.world.address(server);
        let mut connection = match self.connections[server].take() {
            Some((known, connection)) if known == address => connection,
            _ => match Connection::try_open(address).await {
                Some(connection) => connection,
                None => return Said::NotSent,
            },
        };
        self.world.under_way[server].fetch_add(1, Ordering::SeqCst);
        let reply = tokio::time::timeout(ANSWER_MAX, connection.try_ask(request)).await;
        self.world.under_way[server].fetch_sub(1, Ordering::SeqCst);
        match reply {
            Ok(Some(reply)) => {
                if reply.header("connection") != Some("close") {
                    self.connections[server] = Some((address, connection));
                }
                Said::Answer(reply)
            }
            Ok(None) | Err(_) => Said::Nothing,
        }
    }

    async fn read(&mut self) {
        let key = self.random.random_range(0..self.world.keys);
        let token = self.tokens.get(&key).copied();
        let token = token.filter(|_| self.random.random_ratio(1, 2));
        let server = self.choose_server();
        self.read_at(key, server, token).await;
    }

    async fn read_at(&mut self, key: usize, server: usize, after: Option<JobId>) {
        let mut get = request("GET", &target(key));
        if let Some(token) = after {
            get = get.header("sync-token", &token.to_string());
        }
        let invoked = self.world.now();
        let Said::Answer(reply) = self.ask(server, &get).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            return;
        };
        let done = self.world.now();
        let seen = match reply.status {
            200 => match entry(&reply) {
                Some((value, version)) => {
                    self.versions.insert(key, version);
                    Some((value, version))
                }
                None => return self.note_wrong("an entry as no client has written it", &reply),
            },
            404 => {
                self.versions.remove(&key);
                None
            }
            503 | 504 => return,
            _ => return self.note_wrong("a read", &reply),
        };
        self.history.push(Operation {
            key,
            invoked,
            accepted: done,
            done,
            what: What::Read(Read { after, seen }),
        });
    }

    fn wish(&mut self) -> Wish {
        let key = self.random.random_range(0..self.world.keys);
        let is_delete = self.random.random_ratio(1, 5);
        let version = self.versions.get(&key).copied();
        let condition = match (self.random.random_range(0..10), version) {
            (0..3, Some(version)) => Condition::Version(version),
            (3, _) if !is_delete => Condition::Absent,
            (4, _) => Condition::Present,
            _ => Condition::Any,
        };
        self.made += 1;
        let number = self.made * 1000 + self.number as ValueId;
        let mut request = if is_delete {
            request("DELETE", &target(key))
        } else if self.random.random_ratio(1, 6) {
            let text = text(number);
            request("POST", "/set").body(format!(r#"{{"key":"{}","value":{text}}}"#, name(key)))
        } else {
            request("PUT", &target(key)).body(text(number))
        };
        request = match condition {
            Condition::Any => request,
            Condition::Absent => request.header("if-none-match", "*"),
            Condition::Present => request.header("if-match", "*"),
            Condition::Version(version) => request.header("if-match", &format!("\"{version}\"")),
        };
        request = match self.random.random_range(0..4) {
            0 | 1 => request.header("prefer", "respond-async"),
            2 => request.header("prefer", "wait=1"),
            _ => request.header("prefer", "wait=3"),
        };
        let is_repeatable = self.random.random_ratio(1, 2);
        if is_repeatable {
            request = request.header("idempotency-key", &format!("\"{number}\""));
        }
        Wish {
            key,
            value: (!is_delete).then_some(number),
            condition,
            is_repeatable,
            request,
        }
    }

    async fn write(&mut self) {
        let wish = self.wish();
        let invoked = self.world.now();
        let mut jobs = Vec::new();
        let mut verdict = Verdict::Refused;
        let (mut accepted, mut done) = (NEVER, NEVER);
        // Some requests are repeated after an answer, which must change nothing.
        let mut is_again = wish.is_repeatable && self.random.random_ratio(1, 10);
        for _ in 0..ATTEMPTS_MAX {
            let server = self.choose_server();
            let said = self.ask(server, &wish.request).await;
            let now = self.world.now();
            let reply = match said {
                Said::Answer(reply) if !matches!(reply.status, 503 | 504 | 507) => reply,
                Said::NotSent => {
                    // No server has received it, so it may go to another one.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Said::Answer(reply) if reply.status != 504 => {
                    if verdict == Verdict::Refused && !self.random.random_ratio(1, 2) {
                        break;
                    }
                    if !wish.is_repeatable && verdict == Verdict::Unknown {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Said::Answer(_) | Said::Nothing => {
                    verdict = match verdict {
                        Verdict::Refused => Verdict::Unknown,
                        known => known,
                    };
                    if !wish.is_repeatable {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(told) = verdict_of(&wish, &reply) else {
                return self.note_wrong(&format!("{:?}", wish.request), &reply);
            };
            if reply.header("idempotency-replayed").is_some() {
                self.replays += 1;
            }
            let job = job_of(&reply);
            jobs.extend(job.filter(|job| !jobs.contains(job)));
            accepted = accepted.min(now);
            if matches!(
                verdict,
                Verdict::Refused | Verdict::Unknown | Verdict::Accepted
            ) {
                (verdict, done) = (told, now);
            } else if told != Verdict::Accepted && told != verdict {
                self.wrong.push(format!(
                    "{:?}: first {verdict:?}, then {told:?}",
                    wish.request
                ));
            }
            if !is_again {
                break;
            }
            is_again = false;
        }
        if let Verdict::Accepted | Verdict::Applied { .. } | Verdict::Failed { .. } = verdict {
            self.world.accepted.fetch_add(1, Ordering::SeqCst);
            if let Some(job) = jobs.first() {
                self.tokens.insert(wish.key, *job);
            }
        }
        if let Verdict::Applied {
            version: Some(version),
            ..
        } = verdict
        {
            self.versions.insert(wish.key, version);
        }
        if verdict == Verdict::Accepted {
            self.open.push_back(self.history.len());
            done = NEVER;
        }
        self.history.push(Operation {
            key: wish.key,
            invoked,
            accepted,
            done,
            what: What::Write(Write {
                value: wish.value,
                condition: wish.condition,
                jobs,
                verdict,
            }),
        });
    }

    /// Adds to a counter until the increment is known to count. Some increments are repeated
    /// unnecessarily.
    async fn count(&mut self) {
        let increment = self.world.counters.begin();
        let (key, by) = (counter_name(increment.counter), increment.by);
        let add = request("POST", &format!("/v1/kv/{key}?add={by}"))
            .header("prefer", "wait=3")
            .header("idempotency-key", &format!("\"{key}:{by}\""));
        let mut counted = Counted::Never;
        let mut is_again = self.random.random_ratio(1, 4);
        for _ in 0..ATTEMPTS_MAX {
            let server = self.choose_server();
            match self.ask(server, &add).await {
                Said::Answer(reply) if matches!(reply.status, 200 | 201) => {
                    counted = Counted::Certainly;
                    self.replays += usize::from(reply.header("idempotency-replayed").is_some());
                    let sum = reply.json()["value"].as_i64();
                    if !sum.is_some_and(|sum| increment.explains(sum)) {
                        self.note_wrong(&format!("{increment:?}"), &reply);
                    }
                    if !std::mem::take(&mut is_again) {
                        break;
                    }
                    continue;
                }
                // It will count; a repetition of the request tells when it does.
                Said::Answer(reply) if reply.status == 202 => counted = Counted::Certainly,
                Said::Answer(reply) if matches!(reply.status, 503 | 507) => {}
                Said::NotSent => {}
                Said::Answer(reply) if reply.status != 504 => {
                    self.note_wrong(&format!("{increment:?}"), &reply);
                    break;
                }
                Said::Answer(_) | Said::Nothing => counted = counted.max(Counted::Perhaps),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if counted == Counted::Certainly {
            self.world.accepted.fetch_add(1, Ordering::SeqCst);
        }
        self.world.counters.end(increment, counted);
    }

    /// Reads every counter until it shows all acknowledged increments, and checks the sum.
    pub(crate) async fn check_counters(&mut self) {
        let all = self.world.counters.sums();
        assert!(!all.is_empty(), "nothing was counted");
        for (counter, sums) in all.into_iter().enumerate() {
            let get = request("GET", &format!("/v1/kv/{}", counter_name(counter)));
            let begun = Instant::now();
            let sum = loop {
                let server = self.choose_server();
                let sum = match self.ask(server, &get).await {
                    Said::Answer(reply) if reply.status == 200 => reply.text().parse().ok(),
                    Said::Answer(reply) if reply.status == 404 => Some(0),
                    _ => None,
                };
                match sum {
                    Some(sum) if sums.is_reached(sum) || begun.elapsed() > DRAIN_MAX => break sum,
                    _ if begun.elapsed() > 2 * DRAIN_MAX => panic!("no server answers {get:?}"),
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            if !sums.explains(sum) {
                self.wrong.push(format!(
                    "counter {counter} is {sum:b}, and of it is known {sums:?}"
                ));
            }
        }
    }

    /// Asks about an accepted write, and waits up to `wait` seconds for its outcome.
    async fn ask_for_a_job(&mut self, wait: u64) {
        let Some(at) = self.open.pop_front() else {
            return;
        };
        let Some(job) = self.history[at].write().and_then(Write::job) else {
            self.wrong
                .push(format!("accepted as no job: {:?}", self.history[at]));
            return;
        };
        let server = self.choose_server();
        let reply = self
            .ask(
                server,
                &request("GET", &format!("/v1/jobs/{job}?wait={wait}")),
            )
            .await;
        let verdict = match &reply {
            Said::Answer(reply) if reply.status == 200 => verdict_of_job(&reply.json()),
            Said::Answer(reply) if matches!(reply.status, 503 | 504) => None,
            Said::Answer(reply) => {
                Some(Verdict::Lost(format!("{} {}", reply.status, reply.text())))
            }
            Said::NotSent | Said::Nothing => None,
        };
        let now = self.world.now();
        let operation = &mut self.history[at];
        match (verdict, &mut operation.what) {
            (Some(verdict), What::Write(write)) => {
                write.verdict = verdict;
                operation.done = now;
            }
            _ => {
                self.open.push_back(at);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    fn note_wrong(&mut self, what: &str, reply: &Reply) {
        self.wrong
            .push(format!("{what}: {} {}", reply.status, reply.text()));
    }
}

fn name(key: usize) -> String {
    format!("fleet:{key}")
}

fn counter_name(counter: usize) -> String {
    format!("counter:{counter}")
}

fn target(key: usize) -> String {
    format!("/v1/kv/{}", name(key))
}

/// Returns the text of a value: its number, and padding of a length that follows from it.
fn text(value: ValueId) -> String {
    let length = usize::try_from(value / 7 % PADDING_MAX).expect("a short text");
    format!(r#"{{"id":{value},"padding":"{}"}}"#, "x".repeat(length))
}

/// Parses the entry in the answer to a read; returns `None` if its bytes differ from those written.
fn entry(reply: &Reply) -> Option<(ValueId, u64)> {
    let value = serde_json::from_slice::<Value>(&reply.body).ok()?["id"].as_u64()?;
    let version = tag(reply.header("etag")?)?;
    (text(value) == reply.text()).then_some((value, version))
}

fn tag(text: &str) -> Option<u64> {
    text.trim_matches('"').parse().ok()
}

fn job_of(reply: &Reply) -> Option<JobId> {
    reply.header("sync-token")?.parse().ok()
}

/// Parses the outcome of a write; returns `None` if the answer is not permitted.
fn verdict_of(wish: &Wish, reply: &Reply) -> Option<Verdict> {
    let member = |name: &str| reply.json()[name].clone();
    match reply.status {
        200 | 201 => Some(Verdict::Applied {
            version: reply.header("etag").and_then(tag),
            existed: match wish.value {
                Some(_) => member("created").as_bool().map(|created| !created),
                None => member("deleted").as_bool(),
            },
        }),
        202 => Some(Verdict::Accepted),
        412 if wish.condition != Condition::Any => Some(Verdict::Failed {
            current: current(&member("current_etag"))?,
        }),
        _ => None,
    }
}

/// Parses the outcome in a job; returns `None` while it waits.
fn verdict_of_job(job: &Value) -> Option<Verdict> {
    match job["status"].as_str() {
        Some("queued") => None,
        Some("succeeded") => {
            let result = &job["result"];
            let created = result["created"].as_bool().map(|created| !created);
            Some(Verdict::Applied {
                version: result["etag"].as_str().and_then(tag),
                existed: created.or(result["deleted"].as_bool()),
            })
        }
        Some("failed") => Some(match current(&job["error"]["current_etag"]) {
            Some(current) => Verdict::Failed { current },
            None => Verdict::Lost(job.to_string()),
        }),
        _ => Some(Verdict::Lost(job.to_string())),
    }
}

/// Parses the version that a failed condition met; returns `None` if it is malformed.
fn current(member: &Value) -> Option<Option<u64>> {
    match member {
        Value::Null => Some(None),
        Value::String(text) => Some(Some(tag(text)?)),
        _ => None,
    }
}
