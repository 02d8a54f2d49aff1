//! A disk for tests that forgets unsynced data: file contents and folder names alike.
//!
//! It counts its steps, can fail or stop at any of them, and then shows what a machine might find
//! after the power returns: any part of each unsynced write may be there or not, later writes
//! without earlier ones included; of the names, any prefix of the changes since the last sync of
//! the folder.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::json_file::disk::{Disk, DiskFile, DiskReader, Identity};

/// What happens at the planned step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power fails: this step and all after it fail, and nothing more is flushed.
    PowerCut,
    /// This step alone fails, as on a broken disk.
    ErrorOnce,
    /// This step and the given number of steps after it run out of space, if they are writes.
    FullFor(u64),
    /// From this step on, no file can be created or grow.
    NoRoom,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct SimulatedDisk(Arc<Mutex<DiskContents>>);

#[derive(Debug, Default)]
struct DiskContents {
    files: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync of the folder.
    name_changes: Vec<(String, Option<usize>)>,
    steps: u64,
    fault: Option<(u64, Fault)>,
    faults_met: u64,
}

#[derive(Debug, Default, Clone)]
struct Inode {
    durable: Vec<u8>,
    now: Vec<u8>,
    unsynced: Vec<DiskChange>,
}

#[derive(Debug, Clone)]
enum DiskChange {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl DiskChange {
    fn make(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let end = offset + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*offset..end].copy_from_slice(bytes);
            }
            Self::SetLen(length) => file.resize(*length, 0),
        }
    }
}

impl SimulatedDisk {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn contents(&self) -> MutexGuard<'_, DiskContents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of steps taken so far.
    pub(crate) fn steps(&self) -> u64 {
        self.contents().steps
    }

    /// Plans a fault at step `step`.
    pub(crate) fn plan(&self, step: u64, fault: Fault) {
        self.contents().fault = Some((step, fault));
    }

    /// Returns the number of steps that a fault has hit.
    pub(crate) fn faults_met(&self) -> u64 {
        self.contents().faults_met
    }

    /// Adds a durable file, as an editor would while nothing runs.
    pub(crate) fn put(&self, name: &str, text: &[u8]) {
        let mut contents = self.contents();
        let inode = contents.files.len();
        contents.files.push(Inode {
            durable: text.to_vec(),
            now: text.to_vec(),
            unsynced: Vec::new(),
        });
        contents.names.insert(name.to_owned(), inode);
        contents.durable_names.insert(name.to_owned(), inode);
    }

    /// Returns another disk with what the machine would find after a loss of power now; `seed`
    /// decides which unsynced data is there.
    pub(crate) fn after_power_cut(&self, seed: u64) -> Self {
        let contents = self.contents();
        let mut random = StdRng::seed_from_u64(seed);
        let mut names = contents.durable_names.clone();
        let kept = random.random_range(0..=contents.name_changes.len());
        for (name, inode) in &contents.name_changes[..kept] {
            match inode {
                Some(inode) => names.insert(name.clone(), *inode),
                None => names.remove(name),
            };
        }
        let after = Self::new();
        for (name, inode) in names {
            after.put(&name, &contents.files[inode].after_power_cut(&mut random));
        }
        after
    }

    /// Returns another disk with everything, synced or not: what a new process finds after the old
    /// one was killed.
    pub(crate) fn after_kill(&self) -> Self {
        let contents = self.contents();
        let after = Self::new();
        for (name, inode) in &contents.names {
            after.put(name, &contents.files[*inode].now);
        }
        after
    }
}

impl Inode {
    fn after_power_cut(&self, random: &mut StdRng) -> Vec<u8> {
        let mut file = self.durable.clone();
        for change in &self.unsynced {
            match (random.random_range(0..4), change) {
                (0, _) => {}
                // Sectors reach the disk in any order, so any part of a write may be the only part
                // there.
                (1, DiskChange::Write(offset, bytes)) if !bytes.is_empty() => {
                    let start = random.random_range(0..bytes.len());
                    let end = random.random_range(start..=bytes.len());
                    DiskChange::Write(offset + start, bytes[start..end].to_vec()).make(&mut file);
                }
                _ => change.make(&mut file),
            }
        }
        file
    }
}

impl DiskContents {
    /// Counts a step that needs no further space, and fails if a fault is planned for it.
    fn step(&mut self, writes: bool) -> io::Result<()> {
        self.step_of(writes, false)
    }

    fn step_of(&mut self, writes: bool, grows: bool) -> io::Result<()> {
        self.steps += 1;
        let Some((step, fault)) = self.fault else {
            return Ok(());
        };
        let error = match fault {
            Fault::PowerCut if self.steps >= step => io::Error::other("the power is off"),
            Fault::ErrorOnce if self.steps == step => io::Error::other("input/output error"),
            Fault::FullFor(more) if writes && self.steps >= step && self.steps <= step + more => {
                io::ErrorKind::StorageFull.into()
            }
            Fault::NoRoom if grows && self.steps >= step => io::ErrorKind::StorageFull.into(),
            _ => return Ok(()),
        };
        self.faults_met += 1;
        Err(error)
    }

    fn rename(&mut self, name: &str, inode: Option<usize>) {
        match inode {
            Some(inode) => self.names.insert(name.to_owned(), inode),
            None => self.names.remove(name),
        };
        self.name_changes.push((name.to_owned(), inode));
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimulatedDisk {
    fn path(&self) -> &Path {
        Path::new("simulated")
    }

    fn check(&self) -> io::Result<()> {
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut contents = self.contents();
        contents.step(false)?;
        Ok(contents.names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut contents = self.contents();
        contents.step(false)?;
        Ok(contents
            .names
            .get(name)
            .map(|inode| contents.files[*inode].now.clone()))
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskReader>>> {
        let mut contents = self.contents();
        contents.step(false)?;
        let inode = contents.names.get(name).copied();
        Ok(inode.map(|inode| {
            let disk = self.clone();
            Box::new(SimulatedFile { disk, inode }) as Box<dyn DiskReader>
        }))
    }

    fn identity(&self, name: &str) -> io::Result<Option<Identity>> {
        let mut contents = self.contents();
        contents.step(false)?;
        Ok(contents.names.get(name).copied().map(identity))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut contents = self.contents();
        contents.step_of(true, true)?;
        let inode = match contents.names.get(name) {
            Some(inode) => *inode,
            None => {
                contents.files.push(Inode::default());
                let inode = contents.files.len() - 1;
                contents.rename(name, Some(inode));
                inode
            }
        };
        contents.files[inode].now.clear();
        contents.files[inode].unsynced.push(DiskChange::SetLen(0));
        Ok(Box::new(SimulatedFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn link(&self, name: &str, second: &str) -> io::Result<()> {
        let mut contents = self.contents();
        contents.step(true)?;
        let inode = contents.inode(name)?;
        contents.rename(second, Some(inode));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut contents = self.contents();
        contents.step(true)?;
        let inode = contents.inode(from)?;
        // One step on a journaling file system: both names change together.
        contents.rename(to, Some(inode));
        contents.rename(from, None);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut contents = self.contents();
        contents.step(false)?;
        if contents.names.contains_key(name) {
            contents.rename(name, None);
        }
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut contents = self.contents();
        contents.step(false)?;
        contents.durable_names = contents.names.clone();
        contents.name_changes.clear();
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
}

impl SimulatedFile {
    fn change(&mut self, change: DiskChange) -> io::Result<()> {
        let mut contents = self.disk.contents();
        let length = contents.files[self.inode].now.len();
        let end = match &change {
            DiskChange::Write(offset, bytes) => Some(offset + bytes.len()),
            DiskChange::SetLen(_) => None,
        };
        let grows = end.is_some_and(|end| end > length);
        let result = contents.step_of(end.is_some(), grows);
        let file = &mut contents.files[self.inode];
        let change = match (&result, change) {
            (Ok(()), change) => change,
            // A write that runs out of space, or fails, may have written a part.
            (Err(_), DiskChange::Write(offset, bytes)) => {
                DiskChange::Write(offset, bytes[..bytes.len() / 2].to_vec())
            }
            (Err(_), DiskChange::SetLen(_)) => return result,
        };
        change.make(&mut file.now);
        file.unsynced.push(change);
        result
    }
}

fn identity(inode: usize) -> Identity {
    Identity {
        device: 0,
        number: inode as u64,
    }
}

impl DiskReader for SimulatedFile {
    fn identity(&self) -> io::Result<Identity> {
        Ok(identity(self.inode))
    }

    fn length(&self) -> io::Result<u64> {
        let mut contents = self.disk.contents();
        contents.step(false)?;
        Ok(contents.files[self.inode].now.len() as u64)
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut contents = self.disk.contents();
        contents.step(false)?;
        let text = &contents.files[self.inode].now;
        let start = (offset as usize).min(text.len());
        Ok(text[start..(start + length).min(text.len())].to_vec())
    }
}

impl DiskFile for SimulatedFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(DiskChange::Write(offset as usize, bytes.to_vec()))
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.change(DiskChange::SetLen(length as usize))
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut contents = self.disk.contents();
        contents.step(false)?;
        let file = &mut contents.files[self.inode];
        file.durable = file.now.clone();
        file.unsynced.clear();
        Ok(())
    }
}
