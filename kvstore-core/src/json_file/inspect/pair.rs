//! Reads the pair as far as possible: a `data.json` that is not the one `data.meta.json` names, or
//! either file without the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Reading, list_keys};
use crate::error::{Error, Result};
use crate::in_memory::state::{State, Table};
use crate::json_file::error::read;
use crate::json_file::snapshot::data::{FileFingerprint, entry_fingerprint, split_entry};
use crate::json_file::snapshot::import::{Known, import};
use crate::json_file::snapshot::meta::{Meta, known_entries};
use crate::json_file::snapshot::pair::Standing;
use crate::json_file::snapshot::{DATA, DATA_NEW, DATA_OLD, META};
use crate::model::entry::{Entry, Version};
use crate::model::id::QueueId;
use crate::model::key::Key;
use crate::model::value::Value;

/// What could be read of the pair.
#[derive(Debug)]
pub(crate) struct InspectedPair {
    pub(crate) state: State,
    /// The contents of `data.meta.json`, except for the entries, or a replacement for them.
    pub(crate) meta: Meta,
    /// The first journal that is not in the pair; `None` without `data.meta.json`: all journals
    /// count.
    pub(crate) first_journal: Option<u64>,
    /// The file that holds what `data.json` should.
    pub(crate) data_from: Option<&'static str>,
    /// The versions of the entries are lost, and given as 0.
    pub(crate) has_unversioned: bool,
}

type EntryMap = BTreeMap<Key, Entry>;

impl Reading<'_> {
    pub(crate) fn pair(&mut self, has_journals: bool) -> Result<InspectedPair> {
        let Some(text) = read(self.disk, META)? else {
            return self.without_meta(false, has_journals);
        };
        match self.meta(&text)? {
            Some(meta) => self.with_meta(meta, &text),
            None => self.without_meta(true, has_journals),
        }
    }

    fn with_meta(&mut self, meta: Meta, text: &[u8]) -> Result<InspectedPair> {
        let mut data_from = None;
        let read = |name: &str| meta.table(self.disk, name);
        let other = match Standing::of(&meta, read)? {
            Standing::Whole(table) => Ok(table),
            Standing::Unfinished(table) => {
                self.found.notes.push(format!(
                    "{}: a snapshot was being finished; opening completes it",
                    self.disk.path().join(DATA_NEW).display()
                ));
                Ok(table)
            }
            Standing::Other {
                new: Some(table), ..
            } => Err(Some((DATA_NEW, table))),
            Standing::Other { .. } => Err(read(DATA_OLD)?.ok().map(|table| (DATA_OLD, table))),
        };
        let table = match other {
            Ok(table) => table,
            Err(Some((name, table))) => {
                data_from = Some(name);
                let what = format!("it is not the file that data.meta.json names, but {name} is");
                let loses = format!("nothing that was written here: {name} holds it");
                self.loss(DATA, None, what, loses);
                table
            }
            Err(None) => {
                let known = known_entries(self.disk, text)?;
                Table::of(self.recognise(&meta, &known)?)
            }
        };
        let state = State::new(table, meta.progress(), meta.version, meta.time);
        Ok(InspectedPair {
            state,
            first_journal: Some(meta.journal),
            meta: meta.without_entries(),
            data_from,
            has_unversioned: false,
        })
    }

    /// Returns the entries of `data.json` that are as they were written.
    fn recognise(&mut self, meta: &Meta, known: &Known) -> Result<EntryMap> {
        let Some(text) = read(self.disk, DATA)? else {
            let count = meta.entry_count();
            let loses = format!("all {count} entries, except for those that journals hold");
            self.loss(DATA, None, "it is missing beside its data.meta.json", loses);
            return Ok(EntryMap::new());
        };
        let mut read = self.members(&text, Some(known), meta.version);
        let entries: EntryMap = std::mem::take(&mut read.entries)
            .into_iter()
            .filter(|(_, entry)| entry.version <= meta.version)
            .collect();
        let changed: Vec<&str> = read.unknown.iter().map(Key::as_str).collect();
        let gone = meta.entry_count().saturating_sub(entries.len());
        let when = if meta.previous == Some(FileFingerprint::of(&text)) {
            "it is the file from before the last snapshot, and data.json.new, which holds the rest, is missing"
        } else {
            "it is not the file that data.meta.json belongs to"
        };
        let what = format!(
            "{when}: {gone} of its {} entries are not in it as they were ({}). If it was edited, opening accepts the edit, or says \
             why it cannot; if this is a copy that was made while a server ran, a snapshot came between: copy again",
            meta.entry_count(),
            read.places(&changed),
        );
        let loses = "those entries, except for those that journals hold";
        self.loss(DATA, None, what, loses);
        Ok(entries)
    }

    fn without_meta(&mut self, is_there: bool, has_journals: bool) -> Result<InspectedPair> {
        let meta = Meta::of_new_folder(QueueId::random());
        let mut entries = EntryMap::new();
        let is_ours = is_there || has_journals;
        if is_ours {
            let what = if is_there {
                "its checksum does not match"
            } else {
                "it is missing, but there are journals beside it"
            };
            let loses = "the versions and deadlines of the entries in data.json, the outcomes of jobs up to its snapshot, and \
                         with them the certainty that data.json is what was written: its entries stay as they are, \
                         without an end";
            self.loss(META, None, what, loses);
        }
        match read(self.disk, DATA)? {
            Some(text) if is_ours => {
                let read = self.members(&text, None, Version(0));
                if let Some(first) = read.lines.first() {
                    let what = format!(
                        "it is not JSON ({} lines are not entries)",
                        read.lines.len()
                    );
                    self.loss(DATA, Some(*first), what, "the contents of those lines");
                }
                entries = read.entries;
            }
            Some(text) => match import(self.disk, &text, &Known::new(), &mut Version(0)) {
                Ok(found) => {
                    self.found.notes.push(format!(
                        "{}: a JSON object of {} entries that was not written here; opening takes it as the data",
                        self.disk.path().join(DATA).display(),
                        found.len()
                    ));
                    entries = found;
                }
                Err(Error::Corrupt { line, detail, .. }) => {
                    self.problem(DATA, line, detail);
                }
                Err(error) => return Err(error),
            },
            None if is_ours => {
                let loses = "all its entries, except for those that journals hold";
                self.loss(DATA, None, "it is missing", loses);
            }
            None => {}
        }
        if is_ours {
            for entry in entries.values_mut() {
                entry.version = Version(0);
            }
        }
        let table = Table::of(entries);
        let progress = meta.progress();
        Ok(InspectedPair {
            state: State::new(table, progress, meta.version, meta.time),
            meta,
            first_journal: None,
            data_from: None,
            has_unversioned: is_ours,
        })
    }

    /// Reads `text` as any JSON object; if it is not one, reads it line by line in the form that is
    /// written here.
    fn members(&self, text: &[u8], known: Option<&Known>, mut version: Version) -> DataMembers {
        let before = version;
        let none = Known::new();
        if let Ok(entries) = import(self.disk, text, known.unwrap_or(&none), &mut version) {
            let unknown = entries
                .iter()
                .filter(|(_, entry)| entry.version > before)
                .map(|(key, _)| key.clone())
                .collect();
            return DataMembers {
                entries,
                unknown,
                lines: Vec::new(),
            };
        }
        let mut members = DataMembers {
            entries: EntryMap::new(),
            unknown: BTreeSet::new(),
            lines: Vec::new(),
        };
        for (line, number) in text.split(|&byte| byte == b'\n').zip(1..) {
            let line = line.strip_suffix(b",").unwrap_or(line);
            if matches!(line, b"" | b"{" | b"}") {
                continue;
            }
            let Some((key, value)) = entry(line) else {
                members.lines.push(number);
                continue;
            };
            // Without known entries, every entry is taken as it is.
            let found = match known {
                None => Some((Version(0), None)),
                Some(known) => known.get(&entry_fingerprint(&key, &value)).copied(),
            };
            let Some((version, expires_at)) = found else {
                members.unknown.insert(key);
                continue;
            };
            let entry = Entry {
                value,
                version,
                expires_at,
            };
            members.entries.entry(key).or_insert(entry);
        }
        members
    }
}

/// The members of a `data.json`.
struct DataMembers {
    entries: EntryMap,
    /// The keys of entries that are not as they were written.
    unknown: BTreeSet<Key>,
    /// The numbers of lines that are not entries.
    lines: Vec<u64>,
}

impl DataMembers {
    /// Describes where the differences are, for a message.
    fn places(&self, changed: &[&str]) -> String {
        let keys = || format!("changed or new: {}", list_keys(changed));
        let keys = (!changed.is_empty()).then(keys);
        let count = self.lines.len();
        let first = self.lines.first();
        let lines = first.map(|first| format!("{count} lines are not entries, first line {first}"));
        let places: Vec<String> = keys.into_iter().chain(lines).collect();
        match places.is_empty() {
            true => "the others are as they were".to_owned(),
            false => places.join("; "),
        }
    }
}

/// Parses an entry from its line.
fn entry(line: &[u8]) -> Option<(Key, Value)> {
    if !line.starts_with(b"\"") {
        return None;
    }
    let (key, text) = split_entry(line)?;
    Some((Key::new(&key).ok()?, Value::parse(text).ok()?))
}
