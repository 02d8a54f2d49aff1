//! Imports any JSON object as the data: an export of another program, or an edited file.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Result};
use crate::json_file::disk::Disk;
use crate::json_file::snapshot::DATA;
use crate::json_file::snapshot::data::entry_fingerprint;
use crate::model::entry::{Entry, Timestamp, Version};
use crate::model::json::{JsonError, Scanner, TextPosition};
use crate::model::key::Key;
use crate::model::value::Value;

/// The maximum number of problems listed before the import stops.
const PROBLEMS_MAX: usize = 20;

/// Version and deadline of entries that may be unchanged in the text, by fingerprint.
pub(crate) type Known = HashMap<u64, (Version, Option<Timestamp>)>;

/// Reads the members of the JSON object `text` as entries. An entry in `known` keeps its version
/// and deadline; every other gets the next version after `version`, in the order of the text.
///
/// # Errors
/// [`Error::Corrupt`], at the first line, with up to 20 problems by line and column: what is not
/// JSON, and keys that break the rules or occur twice.
pub(crate) fn import(
    disk: &dyn Disk,
    text: &[u8],
    known: &Known,
    version: &mut Version,
) -> Result<BTreeMap<Key, Entry>> {
    let mut members = ImportMembers {
        text,
        members: Vec::new(),
        keys: HashSet::new(),
        problems: Vec::new(),
    };
    if let Err(error) = members.read() {
        members.problem(
            error.at,
            format!("it is not JSON: expected {}", error.expected),
        );
    }
    if let Some((first, _)) = members.problems.first() {
        let list = members.problems.iter();
        let list: Vec<String> = list
            .map(|(place, what)| format!("{place}: {what}"))
            .collect();
        return Err(Error::Corrupt {
            path: disk.path().join(DATA),
            line: Some(first.line),
            detail: format!(
                "it cannot be taken as the data, and nothing was changed: {}",
                list.join("; ")
            ),
        });
    }
    drop(members.keys);
    let entries = members.members.into_iter().map(|(key, value)| {
        let known = known.get(&entry_fingerprint(&key, &value)).copied();
        let (version, expires_at) = known.unwrap_or_else(|| {
            *version = Version(version.0 + 1);
            (*version, None)
        });
        let entry = Entry {
            value,
            version,
            expires_at,
        };
        (key, entry)
    });
    Ok(entries.collect())
}

struct ImportMembers<'a> {
    text: &'a [u8],
    members: Vec<(Key, Value)>,
    keys: HashSet<Key>,
    problems: Vec<(TextPosition, String)>,
}

impl ImportMembers<'_> {
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
        if !self.keys.insert(key.clone()) {
            return self.problem(at, format!("the key {name:?} occurs a second time"));
        }
        self.members.push((key, value));
    }
}
