//! Takes any JSON object as the data: an export of another program, a file that somebody edited.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};
use crate::json_file::disk::Disk;
use crate::json_file::snapshot::DATA;
use crate::json_file::snapshot::data::entry_fingerprint;
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::json::{JsonError, Scanner, TextPosition};
use crate::model::key::Key;
use crate::model::value::Value;

/// Most problems that are listed before the import stops.
const PROBLEMS_MAX: usize = 20;

/// What is known of entries that may be in the text unchanged, by fingerprint.
pub(crate) type Known = HashMap<u64, (Version, Option<Timestamp>)>;

/// Reads the members of the JSON object `text` as entries. One that is in `known` keeps version and deadline, every other
/// gets the next version after `version`, in the order of the text.
///
/// # Errors
/// [`Error::Corrupt`], at the first line, with up to 20 problems by line and column: what is not JSON, and keys that break
/// the rules or stand there twice.
pub(crate) fn import(
    disk: &dyn Disk,
    text: &[u8],
    known: &Known,
    version: &mut Version,
) -> Result<BTreeMap<Key, Entry>> {
    let mut members = Members {
        text,
        entries: BTreeMap::new(),
        problems: Vec::new(),
        places: HashMap::new(),
    };
    if let Err(error) = members.read() {
        members.problem(
            error.at,
            format!("it is not JSON: expected {}", error.expected),
        );
    }
    if let Some((first, _)) = members.problems.first() {
        let list: Vec<String> = members
            .problems
            .iter()
            .map(|(place, what)| format!("{place}: {what}"))
            .collect();
        return Err(Error::Corrupt {
            path: disk.path().join(DATA),
            line: Some(first.line),
            detail: format!(
                "it can't be taken as the data, and nothing was changed: {}",
                list.join("; ")
            ),
        });
    }
    let mut entries = members.entries;
    let mut in_order: Vec<(usize, Key)> = members
        .places
        .into_iter()
        .map(|(key, at)| (at, key))
        .collect();
    in_order.sort_unstable_by_key(|(at, _)| *at);
    for (_, key) in in_order {
        let Some(entry) = entries.get_mut(&key) else {
            continue;
        };
        (entry.version, entry.expires_at) = known
            .get(&entry_fingerprint(&key, &entry.value))
            .copied()
            .unwrap_or_else(|| {
                *version = Version(version.0 + 1);
                (*version, None)
            });
    }
    Ok(entries)
}

struct Members<'a> {
    text: &'a [u8],
    entries: BTreeMap<Key, Entry>,
    /// Where each key stands.
    places: HashMap<Key, usize>,
    problems: Vec<(TextPosition, String)>,
}

impl Members<'_> {
    fn problem(&mut self, at: usize, what: String) {
        self.problems.push((TextPosition::of(self.text, at), what));
    }

    fn read(&mut self) -> Result<(), JsonError> {
        let mut scanner = Scanner::new(self.text)?;
        scanner.skip_space();
        scanner.expect(b'{', "an object, { … }")?;
        scanner.skip_space();
        if scanner.peek() == b'}' {
            scanner.expect(b'}', "}")?;
        } else {
            loop {
                let name = scanner.string()?;
                scanner.colon()?;
                scanner.restart_gathering();
                scanner.value()?;
                let value = Value::trusted(scanner.gathered().into());
                let text = self.text;
                self.member(name.start, &text[name], value);
                if self.problems.len() == PROBLEMS_MAX {
                    return Ok(());
                }
                if !scanner.comma_or(b'}', "a comma or }")? {
                    break;
                }
            }
        }
        scanner.skip_space();
        scanner.end()
    }

    fn member(&mut self, at: usize, name: &[u8], value: Value) {
        let name: String = match serde_json::from_slice(name) {
            Ok(name) => name,
            Err(error) => return self.problem(at, format!("the key cannot be read: {error}")),
        };
        let key = match Key::new(&name) {
            Ok(key) => key,
            Err(error) => return self.problem(at, format!("{name:?}: {error}")),
        };
        if self.places.insert(key.clone(), at).is_some() {
            return self.problem(at, format!("the key {name:?} occurs a second time"));
        }
        self.entries.insert(
            key,
            Entry {
                value,
                version: Version(0),
                expires_at: None,
            },
        );
    }
}
