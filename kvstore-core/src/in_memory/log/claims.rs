//! Which worker works on which partition.
//!
//! All workers of the process share this one table, so a fair share needs no hashing: a worker with
//! too many partitions gives up the excess at its next call, and a worker with too few takes free
//! ones. So as few partitions as possible move when a worker comes or goes, and no two live workers
//! ever hold the same partition. Workers on a queue that several processes share have no such table
//! and decide differently.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::entry::Timestamp;
use crate::model::id::PartitionCount;
use crate::queue::{Claim, WorkerId};

/// The claims of a queue.
#[derive(Debug)]
pub(crate) struct Claims {
    period: Duration,
    workers: HashMap<WorkerId, Registration>,
    /// The holder of each partition; always among `workers` after [`Claims::forget_expired`] has
    /// run.
    holders: Vec<Option<WorkerId>>,
    partitions: PartitionCount,
}

#[derive(Debug)]
struct Registration {
    /// When its claims expire, unless it calls again before.
    until: Timestamp,
    /// The worker counts when shares are computed. A worker that releases claims is leaving, until
    /// it claims again.
    staying: bool,
}

impl Claims {
    /// Creates a table without holders.
    pub(crate) fn new(partitions: PartitionCount, period: Duration) -> Self {
        Self {
            period,
            workers: HashMap::new(),
            holders: vec![None; usize::from(partitions.get())],
            partitions,
        }
    }

    /// Renews the claims of `worker`, takes or gives up partitions according to its fair share, and
    /// returns what it holds now.
    ///
    /// If no worker comes or goes, every partition is held and the shares differ by at most one
    /// after each worker has called twice: once to give up, once to take.
    pub(crate) fn claim(&mut self, worker: &WorkerId, now: Timestamp) -> Vec<Claim> {
        self.forget_expired(now);
        let until = now.after(self.period);
        let staying = true;
        let called = Registration { until, staying };
        self.workers.insert(worker.clone(), called);

        let share = self.share(worker);
        let mut held = 0;
        let own = self.holders.iter_mut();
        for holder in own.filter(|holder| holder.as_ref() == Some(worker)) {
            match held < share {
                true => held += 1,
                false => *holder = None,
            }
        }
        let free = self.holders.iter_mut().filter(|holder| holder.is_none());
        for holder in free.take(share - held) {
            *holder = Some(worker.clone());
        }
        self.held_by(worker)
    }

    /// Releases `claim`, if it is held. From then on the worker counts as leaving, so that the
    /// shares of the others cover what it gives up.
    pub(crate) fn release(&mut self, claim: &Claim) {
        let index = usize::from(claim.partition.0);
        if let Some(holder) = self.holders.get_mut(index)
            && holder.as_ref() == Some(&claim.worker)
        {
            *holder = None;
            if let Some(worker) = self.workers.get_mut(&claim.worker) {
                worker.staying = false;
            }
        }
    }

    /// Returns true if a live worker holds every partition.
    pub(crate) fn are_all_held(&self, now: Timestamp) -> bool {
        let is_live = |holder: &WorkerId| {
            let worker = self.workers.get(holder);
            worker.is_some_and(|worker| worker.until > now)
        };
        let mut holders = self.holders.iter();
        holders.all(|holder| holder.as_ref().is_some_and(is_live))
    }

    fn held_by(&self, worker: &WorkerId) -> Vec<Claim> {
        let partitions = self.partitions.iter().zip(&self.holders);
        let held = partitions.filter(|(_, holder)| holder.as_ref() == Some(worker));
        let claim = |partition| Claim {
            worker: worker.clone(),
            partition,
        };
        held.map(|(partition, _)| claim(partition)).collect()
    }

    fn forget_expired(&mut self, now: Timestamp) {
        self.workers.retain(|_, worker| worker.until > now);
        for holder in &mut self.holders {
            holder.take_if(|worker| !self.workers.contains_key(worker));
        }
    }

    /// Returns how many partitions `worker` may hold: an even share. The remainder goes, one each,
    /// to workers that already hold one more, so that nothing moves because of it, and then to the
    /// first that ask.
    fn share(&self, worker: &WorkerId) -> usize {
        let staying = self.workers.iter().filter(|(_, worker)| worker.staying);
        let mut held: HashMap<&WorkerId, usize> = staying.map(|(id, _)| (id, 0)).collect();
        for holder in self.holders.iter().flatten() {
            if let Some(count) = held.get_mut(holder) {
                *count += 1;
            }
        }
        let least = self.holders.len() / held.len();
        let left_over = self.holders.len() % held.len();
        let others = held.iter().filter(|(id, _)| **id != worker);
        let with_one_more = others.filter(|(_, count)| **count > least).count();
        least + usize::from(with_one_more < left_over)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::model::id::Partition;

    const PERIOD: Duration = Duration::from_secs(10);

    /// Several workers around one table, each with its latest answer: what it works on until it
    /// calls again.
    struct ClaimFleet {
        claims: Claims,
        partitions: u16,
        now: Timestamp,
        told: BTreeMap<WorkerId, BTreeSet<u16>>,
    }

    impl ClaimFleet {
        fn new(partitions: u16) -> Self {
            let count = PartitionCount::new(partitions).unwrap();
            Self {
                claims: Claims::new(count, PERIOD),
                partitions,
                now: Timestamp(1_000_000),
                told: BTreeMap::new(),
            }
        }

        /// Creates a fleet of `workers` that have settled.
        fn settled(partitions: u16, workers: usize) -> Self {
            let mut fleet = Self::new(partitions);
            for _ in 0..workers {
                fleet.join();
            }
            fleet.round();
            fleet.round();
            fleet
        }

        fn join(&mut self) -> WorkerId {
            let worker = WorkerId::new("worker");
            self.call(&worker);
            worker
        }

        fn call(&mut self, worker: &WorkerId) {
            let claims = self.claims.claim(worker, self.now);
            assert!(claims.iter().all(|claim| claim.worker == *worker));
            let partitions = claims.iter().map(|claim| claim.partition.0).collect();
            self.told.insert(worker.clone(), partitions);
            self.assert_held_once();
        }

        /// Lets each worker call once.
        fn round(&mut self) {
            for worker in self.workers() {
                self.call(&worker);
            }
        }

        fn workers(&self) -> Vec<WorkerId> {
            self.told.keys().cloned().collect()
        }

        fn holders(&self) -> BTreeMap<u16, WorkerId> {
            let pairs = |(worker, held): (&WorkerId, &BTreeSet<u16>)| {
                let worker = worker.clone();
                held.clone().into_iter().map(move |it| (it, worker.clone()))
            };
            self.told.iter().flat_map(pairs).collect()
        }

        fn assert_held_once(&self) {
            let held: usize = self.told.values().map(BTreeSet::len).sum();
            assert_eq!(held, self.holders().len(), "a partition is held twice");
        }

        fn assert_settled(&self) {
            let all: Vec<u16> = (0..self.partitions).collect();
            assert_eq!(self.holders().into_keys().collect::<Vec<_>>(), all);
            let least = all.len() / self.told.len();
            let most = all.len().div_ceil(self.told.len());
            for held in self.told.values() {
                assert!((least..=most).contains(&held.len()), "{:?}", self.told);
            }
        }

        /// Kills a worker: it does not call again, and no other learns of it.
        fn kill(&mut self, worker: &WorkerId) {
            self.told.remove(worker);
        }

        fn release_all(&mut self, worker: &WorkerId) {
            for partition in self.told.remove(worker).unwrap() {
                self.claims.release(&Claim {
                    worker: worker.clone(),
                    partition: Partition(partition),
                });
            }
        }

        fn moved_since(&self, before: &BTreeMap<u16, WorkerId>) -> usize {
            let now = self.holders();
            before
                .iter()
                .filter(|(partition, worker)| now.get(partition) != Some(worker))
                .count()
        }
    }

    #[derive(Clone, Debug)]
    enum ClaimEvent {
        Join,
        Call(prop::sample::Index),
        Leave(prop::sample::Index),
        Kill(prop::sample::Index),
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = ClaimEvent> {
        prop_oneof![
            2 => Just(ClaimEvent::Join),
            8 => any::<prop::sample::Index>().prop_map(ClaimEvent::Call),
            1 => any::<prop::sample::Index>().prop_map(ClaimEvent::Leave),
            1 => any::<prop::sample::Index>().prop_map(ClaimEvent::Kill),
            2 => (0..15_000_u64).prop_map(ClaimEvent::Wait),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happened_no_two_live_workers_hold_one_partition_and_two_rounds_settle_it(
            partitions in 1..20_u16,
            events in prop::collection::vec(event(), 0..60),
        ) {
            let mut fleet = ClaimFleet::new(partitions);
            let mut called_at = BTreeMap::new();
            for event in events {
                let workers = fleet.workers();
                let pick = |index: prop::sample::Index| (!workers.is_empty()).then(|| index.get(&workers).clone());
                match event {
                    ClaimEvent::Join => {
                        let worker = fleet.join();
                        called_at.insert(worker, fleet.now);
                    }
                    ClaimEvent::Call(index) => if let Some(worker) = pick(index) {
                        fleet.call(&worker);
                        called_at.insert(worker, fleet.now);
                    },
                    ClaimEvent::Leave(index) => if let Some(worker) = pick(index) {
                        fleet.release_all(&worker);
                    },
                    ClaimEvent::Kill(index) => if let Some(worker) = pick(index) {
                        fleet.kill(&worker);
                    },
                    // A worker that was silent for the period has stopped working, as the contract
                    // requires.
                    ClaimEvent::Wait(span) => {
                        fleet.now = fleet.now.after(Duration::from_millis(span));
                        let now = fleet.now;
                        fleet.told.retain(|worker, _| now.since(called_at[worker]) < PERIOD);
                    }
                }
            }
            // The killed workers expire; the others call in time.
            fleet.round();
            for _ in 0..3 {
                fleet.now = fleet.now.after(PERIOD / 3 + Duration::from_millis(1));
                fleet.round();
            }
            if fleet.told.is_empty() {
                fleet.join();
            }
            fleet.round();
            fleet.round();
            fleet.assert_settled();
        }

        #[test]
        fn a_worker_that_comes_gets_its_share_and_nothing_else_moves(partitions in 1..100_u16, workers in 1..12_usize) {
            let mut fleet = ClaimFleet::settled(partitions, workers);
            fleet.assert_settled();
            let before = fleet.holders();
            let new = fleet.join();
            fleet.round();
            fleet.round();
            fleet.assert_settled();
            prop_assert_eq!(fleet.moved_since(&before), fleet.told[&new].len());
        }

        #[test]
        fn a_worker_that_goes_leaves_its_share_and_nothing_else_moves(
            partitions in 1..100_u16,
            workers in 2..12_usize,
            killed in any::<bool>(),
        ) {
            let mut fleet = ClaimFleet::settled(partitions, workers);
            let before = fleet.holders();
            let gone = fleet.workers()[0].clone();
            let share = fleet.told[&gone].len();
            if killed {
                fleet.kill(&gone);
                for _ in 0..3 {
                    fleet.now = fleet.now.after(PERIOD / 3 + Duration::from_millis(1));
                    fleet.round();
                }
            } else {
                fleet.release_all(&gone);
            }
            fleet.round();
            // A worker without a share, when there are more workers than partitions, is missed only
            // when it expires: until then it counts, and holds up nothing.
            fleet.assert_settled();
            prop_assert_eq!(fleet.moved_since(&before), share);
        }
    }

    #[test]
    fn one_worker_holds_the_one_partition_from_its_first_call() {
        let mut fleet = ClaimFleet::new(1);
        fleet.join();
        fleet.assert_settled();
    }

    #[test]
    fn a_restart_under_a_new_id_takes_over_at_expiry_and_not_before() {
        let mut fleet = ClaimFleet::new(3);
        let old = fleet.join();
        fleet.kill(&old);
        let new = fleet.join();
        assert!(fleet.told[&new].is_empty());
        fleet.now = fleet.now.after(PERIOD - Duration::from_millis(1));
        fleet.call(&new);
        assert!(fleet.told[&new].is_empty());
        fleet.now = fleet.now.after(Duration::from_millis(1));
        fleet.call(&new);
        fleet.assert_settled();
    }

    #[test]
    fn a_release_frees_at_once_even_for_a_worker_that_has_its_share() {
        let mut fleet = ClaimFleet::settled(4, 2);
        let [stays, leaves] = fleet.workers().try_into().unwrap();
        fleet.release_all(&leaves);
        fleet.call(&stays);
        fleet.assert_settled();
    }

    #[test]
    fn releasing_a_partition_that_is_not_held_changes_nothing() {
        let mut fleet = ClaimFleet::settled(4, 2);
        let before = fleet.holders();
        let (partition, holder) = before.first_key_value().unwrap();
        let other = fleet.workers().into_iter().find(|it| it != holder).unwrap();
        for (worker, partition) in [(other, *partition), (holder.clone(), 99)] {
            let partition = Partition(partition);
            fleet.claims.release(&Claim { worker, partition });
        }
        fleet.round();
        assert_eq!(fleet.holders(), before);
    }
}
