//! Whoever breaks things: one fault after the other, drawn from a deck that holds each kind, and each one looked at for whether it
//! really happened.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kvstore_core::limits::CLAIM_PERIOD;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::fleet::{Config, Fleet};
use super::proxy::Place;

/// How long a fault may take to happen once it is asked for.
const HAPPENING_MAX: Duration = Duration::from_secs(5);

/// Writes that are accepted between two faults, so that each of them meets a fleet at work.
const ACCEPTED_MIN: usize = 15;

/// How long those may take: longer than claims and connections take to be made anew.
const PROGRESS_MAX: Duration = Duration::from_secs(40);

/// How long Redis refuses to write.
const REFUSING: Duration = Duration::from_millis(700);

/// What is done to a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillServer,
    KillWorker,
    KillRedis,
    PauseWorker,
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

    /// In words, for a table.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::KillServer => "kill -9 of a server with requests under way",
            Self::KillWorker => "kill -9 of a worker",
            Self::KillRedis => "kill -9 of Redis with requests under way",
            Self::PauseWorker => "worker stopped for longer than its claims last",
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
    counts: Counts,
    /// Processes that ended without being killed.
    pub(crate) ended: usize,
    /// The worker that is stopped, and since when.
    paused: Option<(usize, Instant)>,
}

impl Nemesis {
    pub(crate) fn new(fleet: Fleet, seed: u64) -> Self {
        Self {
            fleet,
            random: StdRng::seed_from_u64(seed),
            counts: Counts::new(),
            ended: 0,
            paused: None,
        }
    }

    /// Every fault as often as `config` wants it, then a whole fleet again.
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
        deck.extend(vec![Fault::PauseWorker; config.kills / 20]);
        deck.shuffle(&mut self.random);
        // A stop takes its time beside the others, so one comes first.
        deck.push(Fault::PauseWorker);
        let wanted = deck.iter().fold(Counts::new(), |mut wanted, fault| {
            *wanted.entry(*fault).or_default() += 1;
            wanted
        });
        let mut misses = 0;
        while let Some(fault) = deck.pop() {
            self.wait_for_progress();
            if self.happens(fault) {
                *self.counts.entry(fault).or_default() += 1;
            } else {
                // Again, at another time.
                misses += 1;
                assert!(misses < 200 + 2 * config.kills, "{fault:?} does not happen");
                let place = self.random.random_range(0..=deck.len());
                deck.insert(place, fault);
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
            self.resume_worker();
            self.ended += self.fleet.start_missing();
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(self.random.random_range(0..300)));
    }

    fn resume_worker(&mut self) {
        let Some((worker, since)) = self.paused else {
            return;
        };
        if since.elapsed() > CLAIM_PERIOD + Duration::from_secs(1) {
            let worker = &mut self.fleet.workers[worker];
            assert!(worker.is_really_stopped(), "it went on by itself");
            worker.stop(false);
            self.paused = None;
        }
    }

    /// Whole again: everything runs, and Redis takes writes.
    fn heal(&mut self) {
        let begun = Instant::now();
        while self.paused.is_some() || !self.fleet.all_run() {
            assert!(begun.elapsed() < PROGRESS_MAX, "it does not become whole");
            self.resume_worker();
            self.ended += self.fleet.start_missing();
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Does it; whether it happened.
    fn happens(&mut self, fault: Fault) -> bool {
        let server = self.random.random_range(0..self.fleet.servers.len());
        let worker = self.random.random_range(0..self.fleet.workers.len());
        match fault {
            Fault::KillServer => self.kill_server(server),
            Fault::KillWorker => !self.fleet.workers[worker].is_stopped && self.kill_worker(worker),
            Fault::KillRedis => self.kill_redis(),
            Fault::PauseWorker => self.pause_worker(worker),
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
                // Nobody listens there, so nothing is taken from anybody.
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
        // Its claims last on; sometimes it comes back before they end, sometimes after.
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
        if self.paused.is_some() || !self.fleet.workers[worker].runs() {
            return false;
        }
        self.fleet.workers[worker].stop(true);
        self.paused = Some((worker, Instant::now()));
        true
    }

    /// At one of the processes, whichever is busy.
    fn cut(&mut self, place: Place) -> bool {
        let servers = self.fleet.servers.len();
        let at = self
            .random
            .random_range(0..servers + self.fleet.workers.len());
        let member = match at.checked_sub(servers) {
            Some(worker) => &self.fleet.workers[worker],
            None => &self.fleet.servers[at],
        };
        let before = member.proxy.cuts(place);
        member.proxy.want_cut(place);
        let is_cut = until(|| member.proxy.cuts(place) > before);
        member.proxy.want_no_cut(place);
        is_cut
    }

    fn close_the_way(&mut self) -> bool {
        let servers = self.fleet.servers.len();
        let at = self
            .random
            .random_range(0..servers + self.fleet.workers.len());
        let open_again = Duration::from_millis(self.random.random_range(200..2500));
        let member = match at.checked_sub(servers) {
            Some(worker) => &self.fleet.workers[worker],
            None => &self.fleet.servers[at],
        };
        let before = member.proxy.turned_away();
        member.proxy.close(true);
        std::thread::sleep(open_again);
        member.proxy.close(false);
        member.proxy.turned_away() > before
    }

    /// Has Redis refuse to write for a while; whether it had to refuse somebody.
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

/// Waits for it; whether it came.
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
