//! Injects one fault after the other, drawn from a deck that holds each kind, and checks that each
//! one really happened.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kvstore_core::limits::CLAIM_PERIOD;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::processes::{Config, Fleet, Member};
use super::proxy::Place;

/// Time limit for a requested fault to happen.
const HAPPENING_MAX: Duration = Duration::from_secs(5);

/// Number of writes accepted between two faults, so that each fault meets a fleet at work.
const ACCEPTED_MIN: usize = 15;

/// Time limit for those: longer than claims and connections take to recover.
const PROGRESS_MAX: Duration = Duration::from_secs(40);

/// How long Redis refuses to write.
const REFUSING: Duration = Duration::from_millis(700);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillServer,
    KillWorker,
    KillRedis,
    PauseWorker,
    HoldRequests,
    CutBeforeRequest,
    CutBeforeAnswer,
    CloseTheWay,
    FlushScripts,
    FillMemory,
    WantReplicas,
    BecomeReplica,
    KillConnections,
    PauseConnections,
    RewriteLog,
}

impl Fault {
    const KILLS: [Self; 3] = [Self::KillServer, Self::KillWorker, Self::KillRedis];

    /// Faults that last longer than claims and overlap with others, one of each kind at a time.
    const LONG: [Self; 2] = [Self::PauseWorker, Self::HoldRequests];

    const OTHERS: [Self; 10] = [
        Self::CutBeforeRequest,
        Self::CutBeforeAnswer,
        Self::CloseTheWay,
        Self::FlushScripts,
        Self::FillMemory,
        Self::WantReplicas,
        Self::BecomeReplica,
        Self::KillConnections,
        Self::PauseConnections,
        Self::RewriteLog,
    ];

    /// Returns the description for the table.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::KillServer => "kill -9 of a server with requests under way",
            Self::KillWorker => "kill -9 of a worker",
            Self::KillRedis => "kill -9 of Redis with requests under way",
            Self::PauseWorker => "worker stopped for longer than its claims last",
            Self::HoldRequests => {
                "requests of a worker that reached Redis after its claims had ended"
            }
            Self::CutBeforeRequest => "connection to Redis cut before a request passed",
            Self::CutBeforeAnswer => "connection to Redis cut after a request, before its answer",
            Self::CloseTheWay => "process without a way to Redis for a while",
            Self::FlushScripts => "script cache flushed",
            Self::FillMemory => "Redis at its memory limit",
            Self::WantReplicas => "Redis without the replicas that it wants",
            Self::BecomeReplica => "Redis made a replica, which only reads",
            Self::KillConnections => "connections killed by Redis",
            Self::PauseConnections => "connections paused by Redis",
            Self::RewriteLog => "log of Redis rewritten under load",
        }
    }
}

/// How often each fault really happened.
pub(crate) type Counts = BTreeMap<Fault, usize>;

pub(crate) struct Nemesis {
    fleet: Fleet,
    random: StdRng,
    /// The faults still to come; the next one is last.
    deck: Vec<Fault>,
    counts: Counts,
    /// Number of processes that ended without being killed.
    pub(crate) ended: usize,
    /// The stopped worker, and when it was stopped.
    paused: Option<(usize, Instant)>,
    /// The worker whose requests are held back, since when, and how often that had happened before.
    held: Option<(usize, Instant, usize)>,
}

impl Nemesis {
    pub(crate) fn new(fleet: Fleet, seed: u64) -> Self {
        Self {
            fleet,
            random: StdRng::seed_from_u64(seed),
            deck: Vec::new(),
            counts: Counts::new(),
            ended: 0,
            paused: None,
            held: None,
        }
    }

    /// Injects every fault as often as `config` requires, and then restores the whole fleet.
    pub(crate) fn run(mut self, config: &Config) -> (Fleet, Counts, usize) {
        let mut deck: Vec<_> = Fault::KILLS
            .into_iter()
            .cycle()
            .take(config.kills)
            .collect();
        let others = (config.kills / 8).max(2);
        for fault in Fault::OTHERS {
            let cut = matches!(fault, Fault::CutBeforeRequest | Fault::CutBeforeAnswer);
            deck.extend(vec![fault; if cut { 2 * others } else { others }]);
        }
        for fault in Fault::LONG {
            deck.extend(vec![fault; config.kills / 20]);
        }
        deck.shuffle(&mut self.random);
        // Long faults overlap with others, so one of each comes first.
        deck.extend(Fault::LONG);
        let wanted = deck.iter().fold(Counts::new(), |mut wanted, fault| {
            *wanted.entry(*fault).or_default() += 1;
            wanted
        });
        self.deck = deck;
        let mut misses = 0;
        while !self.deck.is_empty() || self.lasts() {
            self.wait_for_progress();
            let Some(fault) = self.deck.pop() else {
                continue;
            };
            if self.happens(fault) {
                *self.counts.entry(fault).or_default() += 1;
            } else {
                // Tries again at another time.
                misses += 1;
                assert!(misses < 300 + 5 * config.kills, "{fault:?} does not happen");
                let place = self.random.random_range(0..=self.deck.len());
                self.deck.insert(place, fault);
            }
        }
        self.heal();
        assert_eq!(
            self.counts, wanted,
            "faults that happened, and those wanted"
        );
        (self.fleet, self.counts, self.ended)
    }

    /// Waits until the fleet has done some work since the last fault.
    fn wait_for_progress(&mut self) {
        let begun = Instant::now();
        let before = self.fleet.world.accepted();
        while self.fleet.world.accepted() < before + ACCEPTED_MIN {
            assert!(
                begun.elapsed() < PROGRESS_MAX,
                "nothing is accepted any more"
            );
            self.end_what_lasts();
            self.ended += self.fleet.start_missing();
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(self.random.random_range(0..300)));
    }

    fn end_what_lasts(&mut self) {
        let is_due = |since: Instant| since.elapsed() > CLAIM_PERIOD + Duration::from_secs(1);
        if let Some((worker, since)) = self.paused
            && is_due(since)
        {
            let worker = &mut self.fleet.workers[worker];
            assert!(worker.is_really_stopped(), "the worker resumed by itself");
            worker.stop(false);
            self.paused = None;
        }
        if let Some((worker, since, before)) = self.held
            && is_due(since)
        {
            let proxy = &self.fleet.workers[worker].proxy;
            proxy.hold(false);
            if !until(|| proxy.late() > before) {
                // Its connections broke, or it had nothing to send: try again.
                *self.counts.entry(Fault::HoldRequests).or_default() -= 1;
                self.deck.push(Fault::HoldRequests);
            }
            self.held = None;
        }
    }

    /// Returns true while a long fault lasts.
    fn lasts(&self) -> bool {
        self.paused.is_some() || self.held.is_some()
    }

    /// Restores the fleet: every process runs, and Redis accepts writes.
    fn heal(&mut self) {
        let begun = Instant::now();
        while !self.fleet.all_run() {
            assert!(begun.elapsed() < PROGRESS_MAX, "it does not become whole");
            self.ended += self.fleet.start_missing();
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Injects a fault; returns true if it happened.
    fn happens(&mut self, fault: Fault) -> bool {
        let server = self.random.random_range(0..self.fleet.servers.len());
        let worker = self.random.random_range(0..self.fleet.workers.len());
        match fault {
            // Requests held back would be lost with their connection.
            Fault::KillRedis | Fault::KillConnections if self.held.is_some() => false,
            Fault::KillServer => self.kill_server(server),
            Fault::KillWorker => !self.is_away(worker) && self.kill_worker(worker),
            Fault::KillRedis => self.kill_redis(),
            Fault::PauseWorker => self.pause_worker(worker),
            Fault::HoldRequests => self.hold_requests(worker),
            Fault::CutBeforeRequest => self.cut(Place::BeforeTheRequest),
            Fault::CutBeforeAnswer => self.cut(Place::BeforeTheAnswer),
            Fault::CloseTheWay => self.close_the_way(),
            Fault::FlushScripts => {
                let had = self.fleet.redis.info("memory", "number_of_cached_scripts");
                self.fleet.redis.ask(&["SCRIPT", "FLUSH"]) == "OK" && had > 0
            }
            Fault::FillMemory => self.refuses(
                "errorstat_OOM",
                &["CONFIG", "SET", "maxmemory", "1"],
                &["CONFIG", "SET", "maxmemory", "0"],
            ),
            Fault::WantReplicas => self.refuses(
                "errorstat_NOREPLICAS",
                &["CONFIG", "SET", "min-replicas-to-write", "1"],
                &["CONFIG", "SET", "min-replicas-to-write", "0"],
            ),
            Fault::BecomeReplica => self.refuses(
                "errorstat_READONLY",
                // No server listens there, so the replica receives no data.
                &["REPLICAOF", "127.0.0.1", "1"],
                &["REPLICAOF", "NO", "ONE"],
            ),
            Fault::KillConnections => {
                let killed = self.fleet.redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
                killed.parse::<usize>().is_ok_and(|killed| killed > 0)
            }
            Fault::PauseConnections => self.pause_connections(),
            Fault::RewriteLog => self.rewrite_log(),
        }
    }

    fn pause(&mut self, ms_max: u64) {
        std::thread::sleep(Duration::from_millis(self.random.random_range(0..ms_max)));
    }

    fn kill_server(&mut self, server: usize) -> bool {
        let under_way = || self.fleet.world.under_way[server].load(Ordering::SeqCst) > 0;
        until(under_way) && self.fleet.servers[server].kill()
    }

    fn kill_worker(&mut self, worker: usize) -> bool {
        let was_killed = self.fleet.workers[worker].kill();
        // Its claims persist; sometimes it returns before they end, sometimes after.
        self.pause(1500);
        was_killed
    }

    fn kill_redis(&mut self) -> bool {
        let world = &self.fleet.world;
        let under_way = || {
            world
                .under_way
                .iter()
                .any(|count| count.load(Ordering::SeqCst) > 0)
        };
        if !until(under_way) {
            return false;
        }
        self.fleet.redis.kill();
        self.pause(800);
        self.fleet.redis.restart();
        true
    }

    fn pause_worker(&mut self, worker: usize) -> bool {
        let is_free = self.paused.is_none() && !self.is_away(worker);
        if !is_free || !self.fleet.workers[worker].runs() {
            return false;
        }
        self.fleet.workers[worker].stop(true);
        self.paused = Some((worker, Instant::now()));
        true
    }

    /// Delays the requests in progress until they are too late: a commit while the worker has jobs,
    /// otherwise a read or a renewal.
    fn hold_requests(&mut self, worker: usize) -> bool {
        let is_free = self.held.is_none() && !self.is_away(worker);
        if !is_free || !self.fleet.workers[worker].runs() {
            return false;
        }
        let proxy = &self.fleet.workers[worker].proxy;
        self.held = Some((worker, Instant::now(), proxy.late()));
        proxy.hold(true);
        true
    }

    /// Returns true if the worker is stopped or its requests are held back.
    fn is_away(&self, worker: usize) -> bool {
        self.paused.is_some_and(|(paused, _)| paused == worker)
            || self.held.is_some_and(|(held, ..)| held == worker)
    }

    /// Cuts the connection of a busy process.
    fn cut(&mut self, place: Place) -> bool {
        let Some(member) = self.choose_member() else {
            return false;
        };
        let before = member.proxy.cuts(place);
        member.proxy.want_cut(place);
        let is_cut = until(|| member.proxy.cuts(place) > before);
        member.proxy.want_no_cut(place);
        is_cut
    }

    /// Chooses a process that is not held back.
    fn choose_member(&mut self) -> Option<&Member> {
        let servers = self.fleet.servers.len();
        let at = self
            .random
            .random_range(0..servers + self.fleet.workers.len());
        match at.checked_sub(servers) {
            Some(worker) if self.is_away(worker) => None,
            Some(worker) => Some(&self.fleet.workers[worker]),
            None => Some(&self.fleet.servers[at]),
        }
    }

    fn close_the_way(&mut self) -> bool {
        let open_again = Duration::from_millis(self.random.random_range(200..2500));
        let Some(member) = self.choose_member() else {
            return false;
        };
        let before = member.proxy.turned_away();
        member.proxy.close(true);
        std::thread::sleep(open_again);
        member.proxy.close(false);
        member.proxy.turned_away() > before
    }

    /// Makes Redis refuse writes for a while; returns true if it refused any.
    fn refuses(&mut self, error: &str, begin: &[&str], end: &[&str]) -> bool {
        let redis = &self.fleet.redis;
        let before = redis.info("errorstats", error);
        assert_eq!(redis.ask(begin), "OK");
        std::thread::sleep(REFUSING);
        assert_eq!(redis.ask(end), "OK");
        redis.info("errorstats", error) > before
    }

    fn pause_connections(&mut self) -> bool {
        let redis = &self.fleet.redis;
        assert_eq!(redis.ask(&["CLIENT", "PAUSE", "600", "WRITE"]), "OK");
        let is_felt = until(|| redis.info("clients", "blocked_clients") > 0);
        assert_eq!(redis.ask(&["CLIENT", "UNPAUSE"]), "OK");
        is_felt
    }

    fn rewrite_log(&mut self) -> bool {
        let redis = &self.fleet.redis;
        let before = redis.info("persistence", "aof_rewrites");
        redis.ask(&["BGREWRITEAOF"]);
        until(|| redis.info("persistence", "aof_rewrites") > before)
    }
}

/// Waits for a condition; returns false after a time limit.
fn until(is_there: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !is_there() {
        if begun.elapsed() > HAPPENING_MAX {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
