//! A backend alongside its model, step by step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kvstore_core::conformance::{QueueBounds, QueueHarness, Worker};
use kvstore_core::limits::CLAIM_PERIOD;
use kvstore_core::model::commit::Commit;
use kvstore_core::model::id::Partition;
use kvstore_core::model::job::{Idempotency, JobState, NewJob};
use kvstore_core::model::write::{Change, Condition, Write};
use kvstore_core::queue::WorkQueue;
use kvstore_core::store::{ChangeId, ChangeKind, ListRequest, Watch, WatchFrom};
use kvstore_core::{Error, JobQueue, Key, Store, Value, Version};

use super::map::{Held, Model};
use super::steps::{Ending, Guess, KEYS, Put, Request, Step, key};

/// A backend alongside its model, and a watcher that mirrors the changes.
struct Run<H> {
    harness: H,
    store: Arc<dyn Store>,
    queue: Arc<dyn WorkQueue>,
    watch: Watch,
    seen: ChangeId,
    mirror: BTreeMap<Key, Version>,
    model: Model,
}

pub(crate) async fn agree<H: QueueHarness>(harness: H, steps: Vec<Step>) {
    let store = harness.store().await;
    let queue = harness.queue(QueueBounds::default()).await;
    let watch = store.watch(&WatchFrom::Now.into()).await.unwrap();
    let mut run = Run {
        model: Model {
            now: harness.now().await,
            ..Model::default()
        },
        seen: watch.start.clone(),
        mirror: BTreeMap::new(),
        harness,
        store,
        queue,
        watch,
    };
    for step in steps {
        run.step(step).await;
        run.compare().await;
    }
    run.work(Ending::Done).await;
    run.compare().await;
    run.compare_mirror().await;
}

impl<H: QueueHarness> Run<H> {
    async fn step(&mut self, step: Step) {
        match step {
            Step::Enqueue(request) => self.enqueue(&request).await,
            Step::Repeat(back) => {
                let Some(index) = self.model.repeatable.len().checked_sub(1 + back) else {
                    return;
                };
                let (id, job) = self.model.repeatable[index].clone();
                let accepted = self.queue.enqueue(vec![job]).await.pop().unwrap().unwrap();
                assert_eq!((accepted.id, accepted.replayed), (id, true));
            }
            Step::Commit { checks, writes } => self.commit(&checks, &writes).await,
            Step::Work(ending) => self.work(ending).await,
            Step::Expire => {
                for partition in self.queue.partitions().iter() {
                    assert!(self.store.expire(partition).await.unwrap() <= KEYS.len());
                    assert_eq!(self.store.expire(partition).await.unwrap(), 0);
                }
            }
            Step::Wait(seconds) => self.wait(Duration::from_secs(seconds)).await,
            Step::Restart => self.restart().await,
            Step::List {
                prefix,
                delimiter,
                limit,
            } => self.list(prefix, delimiter, limit).await,
        }
    }

    async fn wait(&mut self, span: Duration) {
        self.model.now = self.model.now.after(span);
        self.harness.set_clock(self.model.now).await;
    }

    async fn enqueue(&mut self, request: &Request) {
        let command = self.model.command(request);
        let mut keys = BTreeSet::new();
        let partitions = self.queue.partitions();
        let first = partitions.partition_of(command.first_key());
        let twice = !command
            .operations()
            .iter()
            .all(|operation| keys.insert(&operation.key));
        let across = keys.iter().any(|key| partitions.partition_of(key) != first);
        let job = NewJob {
            keep_outcome: true,
            idempotency: request.keyed.then(|| Idempotency {
                key: self.model.values.to_string() + command.first_key().as_str(),
                window: Duration::from_secs(24 * 60 * 60),
                minimum: Duration::from_secs(24 * 60 * 60),
            }),
            ..NewJob::new(command)
        };
        // Deletes have no value of their own, so two of these could be the same request.
        if self
            .model
            .repeatable
            .iter()
            .any(|(_, earlier)| earlier.idempotency == job.idempotency)
        {
            return;
        }
        match self.queue.enqueue(vec![job.clone()]).await.pop().unwrap() {
            Ok(accepted) => {
                assert!(!twice && !across && !accepted.replayed);
                assert_eq!(accepted.id.partition, first);
                if request.keyed {
                    self.model.repeatable.push((accepted.id, job.clone()));
                }
                let waiting = self.model.waiting.entry(first).or_default();
                waiting.push_back((accepted.id, job, self.model.now));
            }
            Err(Error::Invalid { .. }) => assert!(twice),
            Err(Error::CrossPartition { .. }) => assert!(across),
            Err(error) => panic!("{error}"),
        }
    }

    async fn commit(&mut self, checks: &[(usize, Guess)], writes: &[(usize, Put)]) {
        let model = &mut self.model;
        let now = model.now;
        let checks: Vec<(Key, Condition)> = checks
            .iter()
            .map(|&(index, guess)| (key(index), model.condition(&key(index), guess)))
            .collect();
        let writes: Vec<Write> = writes
            .iter()
            .map(|&(index, put)| {
                let expires_at = match put {
                    Put::For(seconds) => Some(now.after(Duration::from_secs(seconds))),
                    Put::Delete | Put::Forever | Put::Keep => None,
                };
                let change = match put {
                    Put::Delete => Change::Delete,
                    _ => Change::Set {
                        value: model.value(),
                        expires_at,
                    },
                };
                Write {
                    key: key(index),
                    change,
                }
            })
            .collect();
        let broken = checks
            .iter()
            .position(|(key, condition)| !condition.holds(model.version(key)));
        let commit = Commit {
            checks: checks.clone(),
            writes: writes.clone(),
            advance: None,
        };
        match self.store.commit(commit).await {
            Ok(committed) => {
                assert_eq!(broken, None);
                assert_eq!(committed.existed.len(), writes.len());
                for ((write, existed), offset) in writes.iter().zip(committed.existed).zip(0..) {
                    let version = Version(committed.first_version.0 + offset);
                    model.write(write, version, existed);
                }
            }
            Err(Error::Conflict {
                key,
                check,
                current,
            }) => {
                assert_eq!(Some(check), broken);
                assert_eq!((&key, current), (&checks[check].0, model.version(&key)));
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn work(&mut self, ending: Ending) {
        let worker = Worker::new(self.store.clone(), self.queue.clone());
        let mut claims = worker.claim().await.unwrap();
        if claims.is_empty() {
            // The worker before died holding its claims.
            self.wait(CLAIM_PERIOD).await;
            claims = worker.claim().await.unwrap();
        }
        assert_eq!(claims.len(), usize::from(self.queue.partitions().get()));
        for claim in &claims {
            let partition = claim.partition;
            match ending {
                Ending::Done => loop {
                    let taken = worker.step(claim).await.unwrap();
                    if taken == 0 {
                        break;
                    }
                    self.applied(partition, taken).await;
                    self.model.untold.remove(&partition);
                },
                Ending::BeforeCommit => {
                    worker.prepare(claim).await.unwrap();
                }
                Ending::AfterCommit => {
                    let Some(evaluation) = worker.prepare(claim).await.unwrap() else {
                        continue;
                    };
                    self.store.commit(evaluation.commit).await.unwrap();
                    self.applied(partition, evaluation.taken).await;
                    *self.model.untold.entry(partition).or_default() += evaluation.taken as u64;
                }
            }
        }
        if let Ending::Done = ending {
            for claim in claims {
                self.queue.release(claim).await.unwrap();
            }
        }
    }

    async fn applied(&mut self, partition: Partition, taken: usize) {
        for _ in 0..taken {
            let (id, ..) = &self.model.waiting[&partition][0];
            let state = self.store.outcome(id, Duration::ZERO).await.unwrap();
            let JobState::Finished(outcome) = state else {
                panic!("{id} was applied: {state:?}");
            };
            self.model.apply(partition, |_| outcome);
        }
    }

    async fn restart(&mut self) {
        self.mirror_all().await;
        self.harness.restart().await;
        self.store = self.harness.store().await;
        self.queue = self.harness.queue(QueueBounds::default()).await;
        kvstore_core::service::join(&self.store, &self.queue)
            .await
            .unwrap();
        self.watch = match self
            .store
            .watch(&WatchFrom::After(self.seen.clone()).into())
            .await
        {
            Ok(watch) => watch,
            // The history ends here, so the mirror starts over from the current entries.
            Err(Error::Compacted) => {
                let watch = self.store.watch(&WatchFrom::Now.into()).await.unwrap();
                self.seen = watch.start.clone();
                self.expire_all().await;
                let page = self.store.list(&ListRequest::default()).await.unwrap();
                self.mirror = page
                    .entries
                    .into_iter()
                    .map(|listed| (listed.key, listed.version))
                    .collect();
                watch
            }
            Err(error) => panic!("{error}"),
        };
    }

    async fn expire_all(&self) {
        for partition in self.queue.partitions().iter() {
            self.store.expire(partition).await.unwrap();
        }
    }

    async fn list(&self, prefix: &str, delimiter: Option<&str>, limit: usize) {
        let (mut entries, mut prefixes) = (Vec::new(), BTreeSet::new());
        let mut count = 0;
        for (key, held) in self.model.present() {
            let Some(rest) = key.as_str().strip_prefix(prefix) else {
                continue;
            };
            count += 1;
            match delimiter.and_then(|delimiter| Some((rest.split_once(delimiter)?.0, delimiter))) {
                Some((part, delimiter)) => {
                    prefixes.insert(format!("{prefix}{part}{delimiter}"));
                }
                None => entries.push((key.clone(), held.clone())),
            }
        }
        let mut request = ListRequest {
            prefix: prefix.into(),
            delimiter: delimiter.map(String::from),
            limit,
            include_values: true,
            count: true,
            ..ListRequest::default()
        };
        let (mut listed, mut folded) = (Vec::new(), Vec::new());
        loop {
            let page = self.store.list(&request).await.unwrap();
            assert!(page.entries.len() + page.prefixes.len() <= limit);
            assert_eq!(page.count, Some(count));
            for entry in page.entries {
                let held = Held {
                    value: entry.value.unwrap(),
                    version: entry.version,
                    expires_at: entry.expires_at,
                };
                assert_eq!(entry.size, held.value.len());
                listed.push((entry.key, held));
            }
            folded.extend(page.prefixes);
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        assert_eq!(listed, entries);
        assert_eq!(folded, Vec::from_iter(prefixes));
    }

    /// Compares everything that can be read with the model.
    async fn compare(&self) {
        let keys: Vec<Key> = (0..KEYS.len()).map(key).collect();
        let many = self.store.get_many(&keys).await.unwrap();
        for (key, found) in keys.iter().zip(many) {
            assert_eq!(self.store.get(key).await.unwrap(), found);
            let found = found.map(|entry| Held {
                value: entry.value,
                version: entry.version,
                expires_at: entry.expires_at,
            });
            assert_eq!(found.as_ref(), self.model.get(key), "{key:?}");
        }
        for (id, outcome) in &self.model.ended {
            let state = self.store.outcome(id, Duration::ZERO).await.unwrap();
            assert_eq!(state, JobState::Finished(outcome.clone()), "{id}");
        }
        for (id, ..) in self.model.waiting.values().flatten() {
            let state = self.store.outcome(id, Duration::ZERO).await.unwrap();
            assert_eq!(state, JobState::Queued, "{id}");
        }
        let waiting: usize = self.model.waiting.values().map(VecDeque::len).sum();
        let untold: u64 = self.model.untold.values().sum();
        // A queue that was not informed may learn it from its store when both are opened.
        let depth = self.queue.depth().await.unwrap().jobs;
        let least = waiting as u64;
        assert!(
            (least..=least + untold).contains(&depth),
            "{depth} of {least} and {untold}"
        );
    }

    /// Follows the changes up to now. These backends show all keys in one order, so one last write
    /// marks the end.
    async fn mirror_all(&mut self) {
        self.expire_all().await;
        let write = Write {
            key: Key::new("mark").unwrap(),
            change: Change::Set {
                value: Value::parse("0").unwrap(),
                expires_at: None,
            },
        };
        let mark = self.store.commit(Commit {
            writes: vec![
                write.clone(),
                Write {
                    change: Change::Delete,
                    ..write
                },
            ],
            ..Commit::default()
        });
        let last = Version(mark.await.unwrap().first_version.0 + 1);
        loop {
            let changed = self.watch.changes.next().await.unwrap().unwrap();
            self.seen = changed.id;
            match changed.kind {
                ChangeKind::Set => drop(self.mirror.insert(changed.key, changed.version)),
                ChangeKind::Delete | ChangeKind::Expire => drop(self.mirror.remove(&changed.key)),
            }
            if changed.version == last {
                return;
            }
        }
    }

    async fn compare_mirror(&mut self) {
        self.mirror_all().await;
        let present: BTreeMap<Key, Version> = self
            .model
            .present()
            .map(|(key, held)| (key.clone(), held.version))
            .collect();
        assert_eq!(self.mirror, present);
    }
}
