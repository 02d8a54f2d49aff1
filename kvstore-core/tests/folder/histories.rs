//! Does a store keep its promises when the clock is wrong, and when a history is lost? (In files
//! and in memory, with a clock that the test moves.)

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kvstore_core::clock::{Clock, ManualClock};
use kvstore_core::conformance::Worker;
use kvstore_core::json_file::{JsonFile, Options};
use kvstore_core::memory::{MemoryQueue, MemoryStore};
use kvstore_core::model::command::{Command, Expiry, Operation};
use kvstore_core::model::commit::Commit;
use kvstore_core::model::entry::Timestamp;
use kvstore_core::model::id::JobId;
use kvstore_core::model::job::{JobState, NewJob, Outcome};
use kvstore_core::model::write::{Change, Condition, Write};
use kvstore_core::queue::{QueueOptions, WorkQueue};
use kvstore_core::service::{Service, ServiceOptions};
use kvstore_core::store::{ChangeId, ListRequest, WatchFrom};
use kvstore_core::{Entry, Error, JobQueue, Key, Store, Value, Version};

const NOON: Timestamp = Timestamp(1_800_000_000_000);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// A store and its queue, with their clock.
struct Opened {
    clock: ManualClock,
    store: Arc<dyn Store>,
    queue: Arc<dyn WorkQueue>,
    file: Option<JsonFile>,
}

impl Opened {
    async fn folder(folder: &Path, clock: &ManualClock) -> Self {
        let options = Options {
            clock: Arc::new(clock.clone()),
            ..Options::default()
        };
        let file = JsonFile::open(folder, options).await.unwrap();
        Self {
            clock: clock.clone(),
            store: file.store(),
            queue: file.queue(),
            file: Some(file),
        }
    }

    fn memory(clock: &ManualClock) -> Self {
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        Self {
            clock: clock.clone(),
            store: Arc::new(MemoryStore::new(Arc::clone(&shared))),
            queue: Arc::new(MemoryQueue::new(QueueOptions::default(), shared)),
            file: None,
        }
    }

    async fn close(self) {
        if let Some(file) = self.file {
            file.close().await.unwrap();
        }
    }

    async fn enqueue(&self, text: &str, expiry: Expiry) -> JobId {
        let set = Operation {
            expiry,
            ..Operation::set(key(text), Value::parse("1").unwrap())
        };
        let job = NewJob {
            keep_outcome: true,
            ..NewJob::new(Command::One(set))
        };
        self.queue.enqueue(vec![job]).await.remove(0).unwrap().id
    }

    async fn work(&self) {
        let worker = Worker::new(Arc::clone(&self.store), Arc::clone(&self.queue));
        worker.drain().await.unwrap();
    }

    /// Sets it through the queue, with a time to live.
    async fn set(&self, text: &str, ttl: Duration) {
        self.enqueue(text, Expiry::After(ttl)).await;
        self.work().await;
    }

    /// Commits it directly, with a deadline `ttl` from now by the clock.
    async fn commit(&self, text: &str, ttl: Duration) {
        let write = Write {
            key: key(text),
            change: Change::Set {
                value: Value::parse("1").unwrap(),
                expires_at: Some(self.clock.now().after(ttl)),
            },
        };
        let commit = Commit {
            writes: vec![write],
            ..Commit::default()
        };
        self.store.commit(commit).await.unwrap();
    }

    async fn get(&self, text: &str) -> Option<Entry> {
        self.store.get(&key(text)).await.unwrap()
    }

    /// Returns the rest of its time to live by the wall clock, on which get, get_many, a listing
    /// and a scan must agree.
    async fn left(&self, text: &str) -> Option<Duration> {
        let entry = self.get(text).await;
        let many = self.store.get_many(&[key(text)]).await.unwrap().remove(0);
        assert_eq!(entry, many);
        let request = ListRequest {
            prefix: text.to_owned(),
            ..ListRequest::default()
        };
        let page = self.store.list(&request).await.unwrap();
        let listed = page.entries.iter().find(|it| it.key.as_str() == text);
        let deadline = entry.as_ref().map(|entry| entry.expires_at.unwrap());
        assert_eq!(listed.map(|listed| listed.expires_at.unwrap()), deadline);
        deadline.map(|deadline| deadline.since(self.clock.now()))
    }

    async fn latest(&self) -> Version {
        let nothing = Commit::default();
        self.store.commit(nothing).await.unwrap().first_version
    }
}

/// Runs the case on a folder and in memory.
async fn on_both<F: Future<Output = ()>>(case: impl Fn(Opened) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(NOON);
    case(Opened::folder(folder.path(), &clock).await).await;
    case(Opened::memory(&ManualClock::new(NOON))).await;
}

#[tokio::test]
async fn times_to_live_last_as_long_as_they_say_when_the_clock_is_set_back_while_running() {
    on_both(async |opened| {
        opened.set("before", 2 * SECOND).await;
        opened.commit("before, direct", 2 * SECOND).await;
        opened.clock.set(NOON.before(HOUR));
        opened.set("after", 2 * SECOND).await;
        opened.commit("after, direct", 2 * SECOND).await;
        let all = ["before", "before, direct", "after", "after, direct"];
        for text in all {
            assert_eq!(opened.left(text).await, Some(2 * SECOND), "{text}");
        }
        opened.clock.advance(SECOND);
        for text in all {
            assert_eq!(opened.left(text).await, Some(SECOND), "{text}");
        }
        opened.clock.advance(SECOND);
        for text in all {
            assert_eq!(opened.left(text).await, None, "{text}");
        }
        // The clock is right again: nothing comes back to life, and new entries live as long as
        // they should.
        opened.set("later", 2 * HOUR).await;
        opened.clock.set(NOON.after(2 * SECOND));
        assert_eq!(opened.left("before").await, None);
        assert_eq!(opened.left("later").await, Some(2 * HOUR));
        opened.close().await;
    })
    .await;
}

#[tokio::test]
async fn times_to_live_last_as_long_as_they_say_when_the_clock_was_ten_years_ahead_once() {
    on_both(async |opened| {
        opened.clock.set(NOON.after(YEARS));
        opened.set("ahead", 2 * SECOND).await;
        opened.clock.set(NOON);
        opened.set("right", 2 * SECOND).await;
        opened.commit("direct", 2 * SECOND).await;
        for text in ["ahead", "right", "direct"] {
            assert_eq!(opened.left(text).await, Some(2 * SECOND), "{text}");
        }
        opened.clock.advance(2 * SECOND);
        for text in ["ahead", "right", "direct"] {
            assert_eq!(opened.left(text).await, None, "{text}");
        }
        opened.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_job_accepted_before_the_clock_was_set_back_keeps_its_promise() {
    on_both(async |opened| {
        opened.enqueue("queued", Expiry::After(10 * SECOND)).await;
        opened.clock.set(NOON.before(HOUR));
        opened.clock.advance(4 * SECOND);
        opened.work().await;
        assert_eq!(opened.left("queued").await, Some(6 * SECOND));
        // `ttl=keep` keeps the remaining time, whatever the clock shows.
        opened.clock.set(NOON.before(2 * HOUR));
        opened.enqueue("queued", Expiry::Keep).await;
        opened.work().await;
        assert_eq!(opened.left("queued").await, Some(6 * SECOND));
        opened.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_folder_that_was_ahead_once_is_opened_with_the_right_clock() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(NOON.after(YEARS));
    let opened = Opened::folder(folder.path(), &clock).await;
    opened.set("ahead", HOUR).await;
    let ahead = (
        opened.get("ahead").await.unwrap(),
        opened.enqueue("waits", Expiry::Never).await,
    );
    opened.close().await;

    // Twice, since the first opening with the right clock leaves numbers of its own.
    let (mut latest, mut job) = (ahead.0.version, ahead.1);
    for _ in 0..2 {
        let clock = ManualClock::new(NOON);
        let opened = Opened::folder(folder.path(), &clock).await;
        assert_eq!(opened.left("ahead").await, Some(HOUR));
        opened.set("right", 2 * SECOND).await;
        let next = opened.get("right").await.unwrap().version;
        assert!(next.0 >= latest.0 + (1 << 32), "{next} after {latest}");
        assert!(next.0 < 1 << 53, "{next}");
        latest = next;
        let next = opened.enqueue("more", Expiry::Never).await;
        assert!(next.position > job.position, "{next} after {job}");
        job = next;
        clock.advance(2 * SECOND);
        assert_eq!(opened.left("right").await, None);
        // The remaining time counts down from here at the next opening; no time passes while the
        // store is closed.
        clock.set(NOON);
        assert_eq!(opened.left("ahead").await, Some(HOUR - 2 * SECOND));
        opened.set("ahead", HOUR).await;
        opened.close().await;
    }
}

#[tokio::test]
async fn nothing_of_a_lost_history_is_mistaken_for_something_else() {
    for clock_of_copy in [NOON.after(HOUR), NOON.before(HOUR)] {
        let folder = tempfile::tempdir().unwrap();
        let copy = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(NOON);
        let opened = Opened::folder(folder.path(), &clock).await;
        opened.commit("a", YEARS).await;
        opened.set("b", YEARS).await;
        let known = opened.enqueue("known", Expiry::Never).await;
        opened.work().await;
        let before = opened.get("a").await.unwrap();
        opened.close().await;
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }

        // The history that will be lost: acknowledged, and seen by a watcher.
        clock.set(NOON.after(Duration::from_secs(60)));
        let opened = Opened::folder(folder.path(), &clock).await;
        opened.commit("a", YEARS).await;
        let mut jobs = Vec::new();
        for number in 0..5 {
            jobs.push(
                opened
                    .enqueue(&format!("lost {number}"), Expiry::Never)
                    .await,
            );
        }
        let mut watch = opened.store.watch(&WatchFrom::Now.into()).await.unwrap();
        opened.work().await;
        let seen = watch.changes.next().await.unwrap().unwrap();
        let mut ids = vec![watch.start.clone(), seen.id];
        let lost_version = opened.get("a").await.unwrap().version;
        opened.close().await;

        // The one that replaces it, with as many changes.
        let clock = ManualClock::new(clock_of_copy);
        let opened = Opened::folder(copy.path(), &clock).await;
        let service = service(&opened).await;
        ids.push(ChangeId::new(lost_version.to_string()));
        for round in 0..2 {
            for job in &jobs {
                let context = format!("round {round}, {clock_of_copy}: {job}");
                assert_eq!(
                    service.job(job, Duration::ZERO).await.unwrap(),
                    None,
                    "{context}"
                );
                let token = service.wait_visible(job).await;
                assert!(
                    matches!(token, Err(Error::Invalid { .. })),
                    "{context}: {token:?}"
                );
            }
            for id in &ids {
                let resumed = opened
                    .store
                    .watch(&WatchFrom::After(id.clone()).into())
                    .await;
                assert!(
                    matches!(resumed, Err(Error::Compacted)),
                    "round {round}: {resumed:?}"
                );
            }
            assert_eq!(opened.get("a").await.unwrap().version, before.version);
            let on_lost = Commit {
                checks: vec![(key("a"), Condition::Version(lost_version))],
                ..Commit::default()
            };
            let conflict = opened.store.commit(on_lost).await;
            assert!(
                matches!(conflict, Err(Error::Conflict { .. })),
                "{conflict:?}"
            );
            // What the copy contained is known.
            let known = opened.store.outcome(&known, Duration::ZERO).await.unwrap();
            assert!(matches!(
                known,
                JobState::Finished(Outcome::Succeeded(Some(_)))
            ));

            for number in 0..20 {
                let job = opened
                    .enqueue(&format!("new {number}"), Expiry::Never)
                    .await;
                assert!(!jobs.contains(&job));
                opened.work().await;
                assert_ne!(opened.latest().await, lost_version);
                service.wait_visible(&job).await.unwrap();
            }
        }
        opened.close().await;
    }
}

async fn service(opened: &Opened) -> Service {
    let (store, queue) = (Arc::clone(&opened.store), Arc::clone(&opened.queue));
    Service::open(store, queue, ServiceOptions::default())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_watcher_of_a_memory_store_that_restarted_learns_that_it_missed_something() {
    let clock = ManualClock::new(NOON);
    let opened = Opened::memory(&clock);
    let mut watch = opened.store.watch(&WatchFrom::Now.into()).await.unwrap();
    opened.commit("a", HOUR).await;
    let seen = watch.changes.next().await.unwrap().unwrap();
    // The clock of the next process may be ahead or behind.
    for now in [NOON.after(SECOND), NOON.before(HOUR)] {
        let restarted = Opened::memory(&ManualClock::new(now));
        for _ in 0..3 {
            for id in [&watch.start, &seen.id] {
                let resumed = restarted
                    .store
                    .watch(&WatchFrom::After(id.clone()).into())
                    .await;
                assert!(matches!(resumed, Err(Error::Compacted)), "{resumed:?}");
            }
            restarted.commit("a", HOUR).await;
        }
    }
}

#[tokio::test]
async fn a_watcher_resumes_after_an_opening_if_nothing_was_missed() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(NOON);
    let opened = Opened::folder(folder.path(), &clock).await;
    let mut watch = opened.store.watch(&WatchFrom::Now.into()).await.unwrap();
    opened.commit("a", HOUR).await;
    let seen = watch.changes.next().await.unwrap().unwrap();
    opened.close().await;
    clock.advance(SECOND);

    let opened = Opened::folder(folder.path(), &clock).await;
    let resumed = opened.store.watch(&WatchFrom::After(seen.id).into()).await;
    opened.commit("b", HOUR).await;
    let next = resumed.unwrap().changes.next().await.unwrap().unwrap();
    assert_eq!(next.key, key("b"));
    let earlier = opened
        .store
        .watch(&WatchFrom::After(watch.start).into())
        .await;
    assert!(matches!(earlier, Err(Error::Compacted)), "{earlier:?}");
    opened.close().await;
}
