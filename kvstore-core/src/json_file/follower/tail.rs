//! Follows a folder that another process writes: loads the pair, and reads the journals as they
//! grow.
//!
//! Nothing here changes the folder, creates a file in it, or takes its lock. Only lines covered by
//! a mark count. The writer writes the mark before it acknowledges, so acknowledged lines are
//! always covered, and lines that a loss of power could take back never are.
//!
//! # How nothing is missed
//! A look finds everything that was acknowledged before it began, by three questions in this order.
//! Does the followed file continue? Is there a file with the next number? Has the followed file
//! lost its name? Journals are created and removed in the order of their numbers; so three times no
//! means that there was nothing new when the look began.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::in_memory::log::PartitionLog;
use crate::in_memory::state::State;
use crate::json_file::disk::{Disk, DiskReader, read_all};
use crate::json_file::error::{corrupt, disk_error, unavailable};
use crate::json_file::journal::End;
use crate::json_file::journal::chain::{self, Header};
use crate::json_file::journal::record::{self, Line};
use crate::json_file::journal::scan::Scan;
use crate::json_file::snapshot::meta::{Meta, parse_meta};
use crate::json_file::snapshot::pair::Standing;
use crate::json_file::snapshot::{DATA, META};
use crate::model::entry::Version;
use crate::model::id::QueueId;
use crate::queue::QueueOptions;

/// The size of each read from a journal.
const CHUNK_BYTES: usize = 16 << 10;

/// Lines are returned once about this much has been read.
const STEP_BYTES: usize = 4 << 20;

/// How often loading is retried when files are exchanged meanwhile, and the pause before each
/// retry.
const TRIES_MAX: u32 = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// The result of one step of following.
pub(crate) enum Step {
    /// Durable commits and jobs, in order.
    Lines(Vec<Line>),
    /// Everything acknowledged before the step is known.
    Current,
    /// The chain is broken: files are gone, or another chain has begun that does not follow from
    /// this one. The pair must be reloaded.
    Lost,
}

/// A place in the files of a folder from which reading can continue.
#[derive(Debug)]
pub(crate) struct Follower {
    disk: Arc<dyn Disk>,
    pub(crate) meta: Meta,
    /// Kept open, so that a replacement is noticed by the name that this file has lost.
    meta_file: Box<dyn DiskReader>,
    /// The followed journal; `None` while there is none.
    journal: Option<Tail>,
    /// How many journals were followed to their end.
    pub(crate) rotations: u64,
}

impl Follower {
    /// Loads the pair. The contents of journals come with the first steps.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no store yet, or it cannot be read at present;
    /// [`Error::Corrupt`].
    pub(crate) fn load(disk: Arc<dyn Disk>) -> Result<(Self, State, PartitionLog)> {
        for _ in 0..TRIES_MAX {
            if let Some(loaded) = Self::try_load(&disk)? {
                return Ok(loaded);
            }
            // Files are being exchanged, as at the end of each snapshot.
            thread::sleep(BETWEEN_TRIES);
        }
        let detail = "it is not the file that data.meta.json belongs to: it was edited, or parts of the folder are missing; \
                      the process that writes there says more when it starts, and until its next snapshot no other can \
                      load the data";
        Err(corrupt(&*disk, DATA, None, detail))
    }

    /// Loads the pair, if its files belong together at this moment.
    fn try_load(disk: &Arc<dyn Disk>) -> Result<Option<(Self, State, PartitionLog)>> {
        let failed = |error| disk_error(&**disk, "cannot read", META, error);
        let opened = disk.open(META).map_err(failed)?;
        let meta_file = opened.ok_or_else(|| nothing_there(disk.path()))?;
        let meta = parse_meta(&**disk, &read_all(&*meta_file).map_err(failed)?)?;
        let table = match Standing::of(&meta, |name| meta.table(&**disk, name))? {
            // The writer is about to replace `data.json`, or was stopped before it could.
            Standing::Whole(table) | Standing::Unfinished(table) => table,
            Standing::Other { .. } => return Ok(None),
        };
        let follower = Self {
            journal: Tail::open(&**disk, meta.journal, meta.version, meta.queue)?,
            meta: meta.without_entries(),
            disk: Arc::clone(disk),
            meta_file,
            rotations: 0,
        };
        // A newer pair may have replaced this one, whose journal is then gone.
        if follower.journal.is_none() && follower.is_gone().map_err(failed)? {
            return Ok(None);
        }
        let state = State::new(table, meta.progress(), meta.version, meta.time);
        let log = meta.log(&**disk, &QueueOptions::default())?;
        Ok(Some((follower, state, log)))
    }

    /// Returns true if [`Follower::step`] would find nothing. Takes three system calls.
    pub(crate) fn is_current(&self) -> io::Result<bool> {
        let goes_on = match &self.journal {
            Some(journal) => journal.goes_on()?,
            None => false,
        };
        Ok(!goes_on && !self.has_next()? && !self.is_gone()?)
    }

    /// Returns true if the followed file has lost its name: the journal, or `data.meta.json` while
    /// there is no journal. Another file may have the name by now. Files are compared by identity
    /// rather than by their number of names: a backup may have given the file a second one.
    fn is_gone(&self) -> io::Result<bool> {
        let (name, file) = match &self.journal {
            Some(journal) => (chain::name(journal.number), &journal.file),
            None => (META.to_owned(), &self.meta_file),
        };
        Ok(self.disk.identity(&name)? != Some(file.identity()?))
    }

    /// Determines why the followed file does not continue.
    fn at_end(&self) -> Result<Step> {
        // The order matters: see the module documentation. For a journal, the caller has already
        // looked for the next file.
        let is_lost = || Ok((self.journal.is_none() && self.has_next()?) || self.is_gone()?);
        let failed = |error| disk_error(&*self.disk, "cannot read", "", error);
        let is_lost = is_lost().map_err(failed)?;
        Ok(if is_lost { Step::Lost } else { Step::Current })
    }

    /// Reads what has been added since the last step.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with file and line if data that the writer had made durable is no longer
    /// there.
    pub(crate) fn step(&mut self) -> Result<Step> {
        let Some(journal) = &mut self.journal else {
            return self.at_end();
        };
        let lines = journal.read(&*self.disk)?;
        if !lines.is_empty() || journal.has_more {
            return Ok(Step::Lines(lines));
        }
        let (number, version) = (journal.number + 1, journal.covered);
        let Some(mut next) = Tail::open(&*self.disk, number, version, journal.queue)? else {
            return self.at_end();
        };
        // The writer adds nothing more to this journal. What it added since the last read is read
        // now.
        let lines = journal.read(&*self.disk)?;
        if !lines.is_empty() || journal.has_more {
            return Ok(Step::Lines(lines));
        }
        // The lines that no mark covers are repeated in the next journal, or were cut off.
        next.version = journal.covered;
        let header = next.header(&*self.disk)?;
        match header.previous {
            Some(end) if end == journal.durable => {
                self.journal = Some(next);
                self.rotations += 1;
                // The next step reads its lines.
                Ok(Step::Lines(Vec::new()))
            }
            Some(end) if end.length > journal.durable.length => Err(corrupt(
                &*self.disk,
                &chain::name(journal.number),
                Some(journal.line),
                format!(
                    "it can be read up to byte {}, but the next journal says that {} bytes had been on the disk; run verify",
                    journal.durable.length, end.length
                ),
            )),
            // An older copy of the folder, or a new chain that begins because data.json was edited.
            _ => Ok(Step::Lost),
        }
    }

    /// Returns the error for lines of the last step that parse but make no sense.
    pub(crate) fn nonsense(&self, detail: &str) -> Error {
        match &self.journal {
            Some(journal) => journal.damaged(&*self.disk, detail),
            None => corrupt(&*self.disk, META, None, detail),
        }
    }

    fn has_next(&self) -> io::Result<bool> {
        let number = self
            .journal
            .as_ref()
            .map_or(self.meta.journal, |journal| journal.number + 1);
        Ok(self.disk.identity(&chain::name(number))?.is_some())
    }
}

pub(super) fn nothing_there(folder: &Path) -> Error {
    let name = folder.display();
    let what = match folder.is_dir() {
        true => format!("{name} holds no store yet"),
        false => format!("there is no folder {name} yet"),
    };
    unavailable(format!("{what}: start the process that writes there"))
}

/// A journal that is read as it grows.
#[derive(Debug)]
struct Tail {
    file: Box<dyn DiskReader>,
    number: u64,
    /// The queue of the folder.
    queue: QueueId,
    /// Everything before this was read and found sound.
    read: End,
    /// The number of the next line, from 1.
    line: u64,
    /// A mark covers everything before this.
    durable: End,
    /// The end of the last mark, or of the header, and the number of the next line.
    marked: (End, u64),
    /// The last read ended early, so the next one continues it.
    has_more: bool,
    /// The latest version in the lines that were read.
    version: Version,
    /// The latest version in the lines that a mark covers.
    covered: Version,
    /// The lines that no mark covers yet.
    uncovered: Vec<Line>,
}

impl Tail {
    /// Opens journal `number`, which follows `version`; `None` if it does not exist.
    fn open(
        disk: &dyn Disk,
        number: u64,
        version: Version,
        queue: QueueId,
    ) -> Result<Option<Self>> {
        let name = chain::name(number);
        let opened = disk.open(&name);
        let opened = opened.map_err(|error| disk_error(disk, "cannot read", &name, error))?;
        Ok(opened.map(|file| Self {
            file,
            number,
            queue,
            read: End::default(),
            line: 1,
            durable: End::default(),
            marked: (End::default(), 1),
            has_more: false,
            version,
            covered: version,
            uncovered: Vec::new(),
        }))
    }

    fn goes_on(&self) -> io::Result<bool> {
        if self.read != self.marked.0 {
            return Ok(true);
        }
        let first = self.file.read_at(self.read.length, 1)?;
        Ok(first.first().is_some_and(|&byte| byte != b'\n'))
    }

    /// Reads the header of a journal that was not read yet. It was written before the journal got
    /// its name.
    fn header(&self, disk: &dyn Disk) -> Result<Header> {
        Header::read(disk, self.number, &self.fetch(disk)?)
    }

    /// Reads the file from the last line that was read, up to the fill or about [`STEP_BYTES`], but
    /// at least one whole line.
    fn fetch(&self, disk: &dyn Disk) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            let offset = self.read.length + text.len() as u64;
            let length = CHUNK_BYTES.max(text.len());
            let more = self.file.read_at(offset, length).map_err(|error| {
                disk_error(disk, "cannot read", &chain::name(self.number), error)
            })?;
            let is_last = more.len() < length || more.ends_with(b"\n\n");
            let has_line = more.contains(&b'\n');
            text.extend(more);
            if is_last || (has_line && text.len() >= STEP_BYTES) {
                return Ok(text);
            }
        }
    }

    /// Returns the lines that marks have come to cover since the last call.
    fn read(&mut self, disk: &dyn Disk) -> Result<Vec<Line>> {
        let mut covered = Vec::new();
        // A writer whose disk is full cuts off the lines that no mark covers, and writes other
        // lines there, perhaps of the same length.
        if !std::mem::take(&mut self.has_more) {
            self.back_to_mark();
        }
        let mut doubted = None;
        loop {
            let text = self.fetch(disk)?;
            let taken = self.take(disk, &text, &mut covered)?;
            let rest = text.get(taken..).unwrap_or_default();
            let mut marks = Scan::new(rest, self.line, self.read.crc).filter_map(|it| it.mark());
            let had_been_whole = marks.any(|durable| durable.length > self.read.length);
            if !had_been_whole {
                self.has_more = taken > 0 && text.len() >= STEP_BYTES;
                return Ok(covered);
            }
            // The mark was written after the lines that it covers, and perhaps between two of our
            // reads.
            if doubted == Some(self.marked) {
                return Err(self.damaged(
                    disk,
                    "its checksum does not match, although the line was whole on the disk; nothing more is read from this folder \
                     until the process that writes there is restarted, which says what to do",
                ));
            }
            doubted = Some(self.marked);
            self.back_to_mark();
        }
    }

    /// Returns to the last mark, and discards what was read after it.
    fn back_to_mark(&mut self) {
        (self.read, self.line) = self.marked;
        self.version = self.covered;
        self.uncovered.clear();
    }

    /// Takes in the sound lines at the start of `text`, and returns their total length.
    fn take(&mut self, disk: &dyn Disk, text: &[u8], covered: &mut Vec<Line>) -> Result<usize> {
        let mut taken = 0;
        let start = self.read.length;
        for scanned in Scan::new(text, self.line, self.read.crc) {
            let Some(crc) = scanned.crc else {
                break;
            };
            let line = scanned.line.text;
            let is_header = self.line == 1;
            let mark = scanned.mark();
            if is_header {
                self.take_header(disk, line)?;
            } else if let Some(durable) = mark {
                if durable != self.read {
                    return Err(self.damaged(disk, "this mark does not cover the lines before it"));
                }
                self.durable = durable;
                self.covered = self.version;
                covered.append(&mut self.uncovered);
            } else {
                self.take_line(disk, line)?;
            }
            taken = scanned.end();
            self.read = End {
                length: start + taken as u64,
                crc,
            };
            self.line += 1;
            if is_header {
                self.durable = self.read;
            }
            if is_header || mark.is_some() {
                self.marked = (self.read, self.line);
            }
        }
        Ok(taken)
    }

    fn take_header(&self, disk: &dyn Disk, line: &[u8]) -> Result<()> {
        let header = Header::read(disk, self.number, line)?;
        if header.queue != self.queue {
            return Err(self.damaged(disk, &chain::elsewhere(self.queue, header.queue)));
        }
        self.check_version(disk, header.version)
    }

    fn take_line(&mut self, disk: &dyn Disk, line: &[u8]) -> Result<()> {
        let line = record::decode(line, self.queue)
            .map_err(|error| self.damaged(disk, &error.to_string()))?;
        if let Some(record) = line.record() {
            self.check_version(disk, record.before)?;
            self.version = record.after();
        }
        self.uncovered.push(line);
        Ok(())
    }

    fn check_version(&self, disk: &dyn Disk, before: Version) -> Result<()> {
        if before == self.version {
            return Ok(());
        }
        Err(self.damaged(disk, &record::out_of_order(before, self.version)))
    }

    fn damaged(&self, disk: &dyn Disk, detail: &str) -> Error {
        corrupt(disk, &chain::name(self.number), Some(self.line), detail)
    }
}
