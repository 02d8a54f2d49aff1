//! The store: one thread that writes, and readers that never wait for it.

use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use kvstore_core::clock::Clock;
use kvstore_core::error::Subject;
use kvstore_core::limits::{PAGE_ENTRIES_MAX, PAGE_VALUE_BYTES_MAX};
use kvstore_core::model::commit::{Commit, Committed};
use kvstore_core::model::entry::{Timestamp, Version};
use kvstore_core::model::id::{JobId, Partition, PartitionCount, Position, QueueId};
use kvstore_core::model::job::{DeadLetter, JobState, Outcome};
use kvstore_core::store::{
    ChangeId, ChangeKind, Changed, DeadPage, DeadRequest, ListRequest, Listed, Page, Watch,
    WatchFrom, WatchRequest,
};
use kvstore_core::{Entry, Error, Key, Result, Store, Value};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use tokio::sync::{oneshot, watch};

use crate::tables::{self, Done, Fault, Kept, NEVER, Progress, Tables, position, refuse};

/// The maximum number of changes that share a transaction, and so a sync.
const GROUP_MAX: usize = 1000;

/// How many changes a watch reads at a time.
const WATCH_PAGE: usize = 256;

/// A store in one redb file.
#[derive(Clone)]
pub(crate) struct RedbStore(Arc<Inner>);

struct Inner {
    /// `None` once it is closed.
    database: RwLock<Option<Arc<Database>>>,
    writer: Mutex<Option<(Sender<Request>, JoinHandle<()>)>>,
    time: Time,
    /// The latest version, sent after each transaction to wake waiters.
    moved: watch::Receiver<u64>,
}

/// A change, which returns how to answer it once the transaction has ended: durable, or failed with
/// an error.
type Request = Box<dyn FnOnce(&mut Tables<'_>) -> Done<Answer> + Send>;
type Answer = Box<dyn FnOnce(Result<()>) + Send>;

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore").finish_non_exhaustive()
    }
}

/// The store's time: the wall clock, or the last time used continued by the monotonic clock,
/// whichever is later. So an expired value stays expired when the clock is set back.
struct Time {
    clock: Arc<dyn Clock>,
    /// The largest time seen, without the part from the monotonic clock.
    base_ms: AtomicI64,
}

impl Time {
    fn now(&self) -> Timestamp {
        self.observe(self.clock.now())
    }

    fn observe(&self, used: Timestamp) -> Timestamp {
        let elapsed = self.clock.elapsed().as_millis() as i64;
        let base = used.0 as i64 - elapsed;
        let base = self.base_ms.fetch_max(base, Ordering::SeqCst).max(base);
        Timestamp((base + elapsed) as u64)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(error) | Fault::Broken(error) => error,
        }
    }
}

impl RedbStore {
    /// Opens the file, which is created if it is missing. `cache_bytes` bounds the memory that data
    /// takes. This call blocks.
    pub(crate) fn open(path: &Path, cache_bytes: usize, clock: Arc<dyn Clock>) -> Result<Self> {
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create(path)
            .map_err(Fault::from)?;
        let time = Time {
            clock,
            base_ms: AtomicI64::new(i64::MIN),
        };
        let begin = || -> Done<u64> {
            let transaction = database.begin_write()?;
            let mut tables = Tables::open(&transaction, Timestamp(0))?;
            time.observe(Timestamp(tables.number("time")?));
            tables.now = time.now();
            tables.begin(time.clock.now().0.saturating_mul(1000))?;
            let version = tables.finish()?;
            transaction.commit()?;
            Ok(version)
        };
        let (moving, moved) = watch::channel(begin()?);
        let (requests, queue) = channel();
        let inner = Arc::new(Inner {
            database: RwLock::new(Some(Arc::new(database))),
            writer: Mutex::new(None),
            time,
            moved,
        });
        let weak = Arc::downgrade(&inner);
        let writer = std::thread::spawn(move || {
            while let Ok(first) = queue.recv() {
                let Some(inner) = weak.upgrade() else { return };
                let Ok(database) = inner.database() else {
                    return;
                };
                let answers = write_group(&database, inner.time.now(), first, &queue, &moving);
                drop((database, inner));
                answers();
            }
        });
        *inner.writer.lock().expect("no one panics with it") = Some((requests, writer));
        Ok(Self(inner))
    }

    /// Makes a change in the next transaction, and waits until it is durable.
    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Tables<'_>) -> Done<T> + Send + 'static,
    ) -> Result<T> {
        let (send, answer) = oneshot::channel();
        let request: Request = Box::new(move |tables| {
            let done = match change(tables) {
                Err(Fault::Broken(error)) => {
                    let _ = send.send(Err(error.clone()));
                    return Err(Fault::Broken(error));
                }
                Err(Fault::Refused(error)) => Err(error),
                Ok(done) => Ok(done),
            };
            Ok(Box::new(move |durable: Result<()>| {
                let _ = send.send(durable.and(done));
            }) as Answer)
        });
        let closed = || Error::Unavailable {
            what: "the store is closed".to_owned(),
            source: None,
        };
        {
            let writer = self.0.writer.lock().expect("no one panics with it");
            let (requests, _) = writer.as_ref().ok_or_else(closed)?;
            requests.send(request).map_err(|_| closed())?;
        }
        answer.await.map_err(|_| closed())?
    }

    /// Reads a snapshot. Blocks while the disk reads the pages that are not in the cache.
    fn read<T>(&self, look: impl FnOnce(&ReadTransaction, Timestamp) -> Done<T>) -> Result<T> {
        self.0.read(look)
    }

    /// Reads a snapshot on a blocking thread, for reads of many pages.
    async fn scan<T: Send + 'static>(
        &self,
        look: impl FnOnce(&ReadTransaction, Timestamp) -> Done<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || inner.read(look)).await;
        read.expect("it does not panic")
    }
}

/// Commits `first` and all waiting changes in one transaction, and returns how to answer them.
fn write_group(
    database: &Database,
    now: Timestamp,
    first: Request,
    queue: &Receiver<Request>,
    moving: &watch::Sender<u64>,
) -> impl FnOnce() + use<> {
    let mut answers = Vec::new();
    let mut is_committing = false;
    let write = || -> Done<u64> {
        let transaction = database.begin_write()?;
        let mut tables = Tables::open(&transaction, now)?;
        for request in std::iter::once(first).chain(queue.try_iter().take(GROUP_MAX)) {
            answers.push(request(&mut tables)?);
        }
        let version = tables.finish()?;
        is_committing = true;
        transaction.commit()?;
        Ok(version)
    };
    let failed = match write() {
        Ok(version) => {
            moving.send_replace(version);
            None
        }
        // A failed sync may have taken effect, and redb takes no more writes until it is opened
        // again.
        Err(fault) if is_committing => Some(Error::Unknown {
            what: "the commit is durable".to_owned(),
            source: Some(Arc::new(Error::from(fault))),
        }),
        Err(fault) => Some(Error::from(fault)),
    };
    move || {
        for answer in answers {
            answer(failed.clone().map_or(Ok(()), Err));
        }
    }
}

impl Inner {
    fn database(&self) -> Result<Arc<Database>> {
        let database = self.database.read().expect("no one panics with it");
        database.clone().ok_or_else(|| Error::Unavailable {
            what: "the store is closed".to_owned(),
            source: None,
        })
    }

    fn read<T>(&self, look: impl FnOnce(&ReadTransaction, Timestamp) -> Done<T>) -> Result<T> {
        let database = self.database()?;
        let transaction = database.begin_read().map_err(Fault::from)?;
        Ok(look(&transaction, self.time.now())?)
    }
}

/// Returns the entry under `key`, if it is live.
fn entry(
    entries: &impl ReadableTable<&'static str, (u64, u64, &'static str)>,
    key: &str,
    now: Timestamp,
) -> Done<Option<Entry>> {
    let Some(row) = entries.get(key)? else {
        return Ok(None);
    };
    let (version, deadline, text) = row.value();
    if deadline <= now.0 {
        return Ok(None);
    }
    Ok(Some(Entry {
        value: Value::parse(text).map_err(Fault::Refused)?,
        version: Version(version),
        expires_at: expires_at(deadline),
    }))
}

fn expires_at(deadline: u64) -> Option<Timestamp> {
    (deadline != NEVER).then_some(Timestamp(deadline))
}

/// Returns the first text that is larger than all that begin with `prefix`.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The code points from D800 to DFFF are not characters.
        let next = (u32::from(last) + 1..=0x10_FFFF).find_map(char::from_u32);
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

fn list(transaction: &ReadTransaction, now: Timestamp, request: &ListRequest) -> Done<Page> {
    if !(1..=PAGE_ENTRIES_MAX).contains(&request.limit) {
        return refuse(Error::Invalid {
            subject: Subject::Limit,
            reason: format!("it is 1 to {PAGE_ENTRIES_MAX}"),
        });
    }
    if request.delimiter.as_deref() == Some("") {
        return refuse(Error::Invalid {
            subject: Subject::Delimiter,
            reason: "it must not be empty".to_owned(),
        });
    }
    let entries = transaction.open_table(tables::ENTRIES)?;
    let prefix = request.prefix.as_str();
    // Up to and including the first delimiter after the prefix.
    let fold = |key: &str| {
        let delimiter = request.delimiter.as_deref()?;
        let at = key.get(prefix.len()..)?.find(delimiter)?;
        Some(key[..prefix.len() + at + delimiter.len()].to_owned())
    };
    let version = transaction.open_table(tables::NUMBERS)?.get("version")?;
    let version = version.map_or(0, |row| row.value());
    let mut page = Page::empty(ChangeId::new(version.to_string()));
    if request.count {
        let rows = entries.range::<&str>((Bound::Included(prefix), Bound::Unbounded))?;
        let mut count = 0;
        for row in rows {
            let (key, row) = row?;
            if !key.value().starts_with(prefix) {
                break;
            }
            count += u64::from(row.value().1 > now.0);
        }
        page.count = Some(count);
    }
    let mut from = match request.after.as_deref().filter(|after| *after >= prefix) {
        None => Bound::Included(prefix.to_owned()),
        Some(after) if fold(after).is_some() => match successor(after) {
            Some(next) => Bound::Included(next),
            None => return Ok(page),
        },
        Some(after) => Bound::Excluded(after.to_owned()),
    };
    let (mut last, mut bytes) = (String::new(), 0);
    'seek: loop {
        let start = from.as_ref().map(String::as_str);
        for row in entries.range::<&str>((start, Bound::Unbounded))? {
            let (key, row) = row?;
            let (key, (version, deadline, text)) = (key.value(), row.value());
            if !key.starts_with(prefix) {
                break;
            }
            if deadline <= now.0 {
                continue;
            }
            if page.entries.len() + page.prefixes.len() == request.limit
                || bytes >= PAGE_VALUE_BYTES_MAX
            {
                page.next = Some(last);
                break;
            }
            if let Some(folded) = fold(key) {
                let next = successor(&folded);
                last.clone_from(&folded);
                page.prefixes.push(folded);
                match next {
                    Some(next) => from = Bound::Included(next),
                    None => break,
                }
                continue 'seek;
            }
            last = key.to_owned();
            let value = match request.include_values {
                true => Some(Value::parse(text).map_err(Fault::Refused)?),
                false => None,
            };
            bytes += value.as_ref().map_or(0, Value::len);
            page.entries.push(Listed {
                key: Key::new(key).map_err(Fault::Refused)?,
                version: Version(version),
                size: text.len(),
                expires_at: expires_at(deadline),
                value,
            });
        }
        return Ok(page);
    }
}

/// Returns the current state of a job.
fn state(transaction: &ReadTransaction, job: &JobId) -> Done<JobState> {
    let queue = job.queue.to_string();
    let key = (
        queue.as_str(),
        job.partition.0,
        job.position.major,
        job.position.minor,
    );
    let active = transaction.open_table(tables::ACTIVE)?;
    let is_other = active
        .get(())?
        .is_some_and(|active| active.value() != queue);
    if is_other || job.partition.0 > 0 || job.position == Position::START {
        return Ok(JobState::Unknown);
    }
    let progress = transaction.open_table(tables::PROGRESS)?;
    let progress = progress.get((queue.as_str(), job.partition.0))?;
    let progress = progress.map_or_else(Progress::default, |row| Progress::of(row.value()));
    if job.position > progress.applied {
        return Ok(JobState::Queued);
    }
    if let Some(row) = transaction.open_table(tables::LETTERS)?.get(key)? {
        return Ok(JobState::Finished(Outcome::Dead(tables::read(
            row.value().1,
        ))));
    }
    if let Some(row) = transaction.open_table(tables::OUTCOMES)?.get(key)? {
        return Ok(tables::read::<Kept>(row.value().1).state());
    }
    let lost = transaction.open_table(tables::LOST)?;
    let before = lost
        .range((queue.as_str(), job.partition.0, 0, 0)..key)?
        .next_back();
    if let Some((_, up_to)) = before.transpose()?
        && job.position <= position(up_to.value().0, up_to.value().1)
    {
        return Ok(JobState::Unknown);
    }
    Ok(match job.position <= progress.pruned {
        true => JobState::Forgotten,
        false => JobState::Finished(Outcome::Succeeded(None)),
    })
}

/// Returns the changes after `after`, as many as fit in a page.
fn changes(transaction: &ReadTransaction, now: Timestamp, after: u64) -> Done<Vec<Changed>> {
    let numbers = transaction.open_table(tables::NUMBERS)?;
    let number = |name| Done::Ok(numbers.get(name)?.map_or(0, |row| row.value()));
    let stretches = transaction.open_table(tables::STRETCHES)?;
    let stretch = stretches.range(..=after)?.next_back().transpose()?;
    let is_known = stretch.is_some_and(|(_, last)| after <= last.value());
    if after < number("trimmed")? || after > number("version")? || !is_known {
        return refuse(Error::Compacted);
    }
    let entries = transaction.open_table(tables::ENTRIES)?;
    let table = transaction.open_table(tables::CHANGES)?;
    let rows = table.range((Bound::Excluded(after), Bound::Unbounded))?;
    let changed = rows.take(WATCH_PAGE).map(|row| {
        let (version, row) = row?;
        let (version, (kind, key)) = (Version(version.value()), row.value());
        let kind = ChangeKind::ALL
            .into_iter()
            .find(|known| *known as u8 == kind);
        let entry = entry(&entries, key, now)?.filter(|entry| entry.version == version);
        Ok(Changed {
            id: ChangeId::new(version.0.to_string()),
            key: Key::new(key).map_err(Fault::Refused)?,
            version,
            kind: kind.expect("the database holds what was written to it"),
            value: entry.map(|entry| entry.value),
        })
    });
    changed.collect()
}

#[async_trait]
impl Store for RedbStore {
    fn partitions(&self) -> Option<PartitionCount> {
        Some(PartitionCount::ONE)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.read(|transaction, now| {
            entry(&transaction.open_table(tables::ENTRIES)?, key.as_str(), now)
        })
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Entry>>> {
        self.read(|transaction, now| {
            let entries = transaction.open_table(tables::ENTRIES)?;
            keys.iter()
                .map(|key| entry(&entries, key.as_str(), now))
                .collect()
        })
    }

    async fn list(&self, request: &ListRequest) -> Result<Page> {
        let request = request.clone();
        self.scan(move |transaction, now| list(transaction, now, &request))
            .await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed> {
        self.write(|tables| tables.commit(commit)).await
    }

    async fn applied(&self, queue: QueueId, partition: Partition) -> Result<Position> {
        self.read(|transaction, _| {
            let progress = transaction.open_table(tables::PROGRESS)?;
            let row = progress.get((queue.to_string().as_str(), partition.0))?;
            Ok(row.map_or(Position::START, |row| Progress::of(row.value()).applied))
        })
    }

    async fn active_queue(&self) -> Result<Option<QueueId>> {
        self.read(|transaction, _| {
            let row = transaction.open_table(tables::ACTIVE)?.get(())?;
            row.map(|row| row.value().parse())
                .transpose()
                .map_err(Fault::Refused)
        })
    }

    async fn adopt_queue(&self, queue: QueueId) -> Result<()> {
        self.write(move |tables| tables.adopt(queue)).await
    }

    async fn outcome(&self, job: &JobId, wait: Duration) -> Result<JobState> {
        let mut moved = self.0.moved.clone();
        let end = tokio::time::Instant::now() + wait;
        loop {
            moved.mark_unchanged();
            let state = self.read(|transaction, _| state(transaction, job))?;
            if state != JobState::Queued {
                return Ok(state);
            }
            match tokio::time::timeout_at(end, moved.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(state),
            }
        }
    }

    async fn expire(&self, _: Partition) -> Result<usize> {
        self.write(|tables| tables.expire()).await
    }

    async fn dead(&self, request: &DeadRequest) -> Result<DeadPage> {
        let DeadRequest { after, limit } = request.clone();
        self.scan(move |transaction, _| {
            let letters = transaction.open_table(tables::LETTERS)?;
            let queue = after
                .map(|after| after.queue.to_string())
                .unwrap_or_default();
            let from = match after.map(|after| (after.partition.0, after.position)) {
                None => Bound::Unbounded,
                Some((partition, at)) => {
                    Bound::Excluded((queue.as_str(), partition, at.major, at.minor))
                }
            };
            let mut page = DeadPage::default();
            for row in letters.range::<tables::JobKey<'_>>((from, Bound::Unbounded))? {
                let (job, row) = row?;
                let (queue, partition, major, minor) = job.value();
                if page.letters.len() == limit {
                    page.more = true;
                    break;
                }
                page.letters.push(DeadLetter {
                    id: JobId {
                        queue: queue.parse().map_err(Fault::Refused)?,
                        partition: Partition(partition),
                        position: position(major, minor),
                    },
                    at: Timestamp(row.value().0),
                    dead: tables::read(row.value().1),
                });
            }
            Ok(page)
        })
        .await
    }

    async fn forget(&self, job: &JobId) -> Result<bool> {
        let job = *job;
        self.write(move |tables| tables.forget(&job)).await
    }

    async fn watch(&self, request: &WatchRequest) -> Result<Watch> {
        let moved = self.0.moved.clone();
        let after = match &request.from {
            WatchFrom::Now => *moved.borrow(),
            WatchFrom::After(id) => {
                let number = id.as_str().parse().ok();
                // Rejects `+1` and `01`.
                let number = number.filter(|number: &u64| number.to_string() == id.as_str());
                number.ok_or_else(|| Error::Invalid {
                    subject: Subject::ChangeId,
                    reason: "it is none that this store hands out".to_owned(),
                })?
            }
        };
        self.read(|transaction, now| changes(transaction, now, after))?;
        let inner = Arc::downgrade(&self.0);
        let (request, place) = (request.clone(), Arc::new(AtomicU64::new(after)));
        let (taken, all_taken) = (place.clone(), place.clone());
        let pages = stream::unfold(Some((after, moved)), move |state| {
            let (inner, request, all_taken) = (inner.clone(), request.clone(), all_taken.clone());
            async move {
                let (mut after, mut moved) = state?;
                loop {
                    moved.mark_unchanged();
                    let read = |inner: Arc<Inner>| {
                        inner.read(|transaction, now| changes(transaction, now, after))
                    };
                    let page = match inner.upgrade().map(read)? {
                        Ok(page) => page,
                        Err(Error::Unavailable { .. }) => return None,
                        Err(error) => return Some((vec![Err(error)], None)),
                    };
                    if let Some(last) = page.last() {
                        after = last.version.0;
                        let shown = page
                            .into_iter()
                            .filter(|changed| request.shows(&changed.key, changed.kind));
                        let shown = shown.map(|changed| {
                            let value = changed.value.filter(|_| request.include_values);
                            Ok(Changed { value, ..changed })
                        });
                        return Some((shown.collect(), Some((after, moved))));
                    }
                    all_taken.store(after, Ordering::SeqCst);
                    // Fails once the store is closed.
                    moved.changed().await.ok()?;
                }
            }
        });
        Ok(Watch {
            start: ChangeId::new(after.to_string()),
            changes: pages
                .flat_map(stream::iter::<Vec<_>>)
                .inspect(move |changed: &Result<Changed>| {
                    if let Ok(changed) = changed {
                        taken.store(changed.version.0, Ordering::SeqCst);
                    }
                })
                .boxed(),
            place: Box::new(move || ChangeId::new(place.load(Ordering::SeqCst).to_string())),
        })
    }

    fn lag(&self) -> Option<Duration> {
        None // this process writes
    }

    async fn ping(&self) -> Result<()> {
        self.read(|_, _| Ok(()))
    }

    async fn close(&self) -> Result<()> {
        let inner = Arc::clone(&self.0);
        let close = move || {
            let writer = inner.writer.lock().expect("no one panics with it").take();
            if let Some((requests, thread)) = writer {
                drop(requests);
                // Accepted changes become durable first.
                let _ = thread.join();
            }
            inner
                .database
                .write()
                .expect("no one panics with it")
                .take();
        };
        tokio::task::spawn_blocking(close)
            .await
            .expect("it does not panic");
        Ok(())
    }
}
