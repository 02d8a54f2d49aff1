//! The journals: what each readable line did, and which versions the others had.

use super::pieces::{Damaged, Piece, pieces};
use super::{Beside, Reading, list_keys};
use crate::error::Result;
use crate::in_memory::state::State;
use crate::json_file::journal::ReadLine;
use crate::json_file::journal::chain::Kind;
use crate::json_file::journal::record;
use crate::json_file::recovery::StoreHeader;
use crate::model::entry::Version;

const MISSING: &str = "it is missing; if this is a copy that was made while a server ran, a snapshot came between: copy again";

/// Problems that end with the next readable line, which says how many versions they cost.
struct Open {
    problems: Vec<usize>,
    keys: Vec<String>,
}

impl Reading<'_> {
    /// Applies what can be read of the journals from `first` on, or of all that are there. Their bytes.
    pub(crate) fn journals(&mut self, first: Option<u64>, state: &mut State) -> Result<u64> {
        let (files, missing) = self.files(Kind::Store, first)?;
        let mut missing = missing.into_iter().peekable();
        let mut open = Open {
            problems: Vec::new(),
            keys: Vec::new(),
        };
        let mut is_first = first.is_none();
        for file in &files {
            while let Some(number) = missing.next_if(|number| *number < file.number) {
                open.problems
                    .push(self.problem(&Kind::Store.name(number), None, MISSING));
            }
            let durable = match self.beside {
                Beside::Writer if file.is_last => {
                    crate::json_file::journal::read(file.text.clone(), None)
                        .durable
                        .length
                }
                _ => u64::MAX,
            };
            for piece in pieces(&file.text, file.end) {
                match piece {
                    Piece::Damaged(damaged) if damaged.is_torn && file.is_last => {
                        self.torn(&file.name, &damaged);
                        break;
                    }
                    Piece::Damaged(damaged) => {
                        open.problems.push(self.damaged(&file.name, &damaged));
                        open.keys.extend(keys(&damaged));
                    }
                    Piece::Line(line) if line.offset >= durable => break,
                    Piece::Line(line) => {
                        self.line(&file.name, line, is_first, state, &mut open);
                        is_first = false;
                    }
                }
            }
        }
        for number in missing {
            open.problems
                .push(self.problem(&Kind::Store.name(number), None, MISSING));
        }
        let after = state.version;
        self.settle(&mut open, &format!("the commits after version {after}"));
        Ok(files.iter().map(|file| file.text.len() as u64).sum())
    }

    /// Takes one line. Before the very `first` one no version is known.
    fn line(
        &mut self,
        name: &str,
        line: ReadLine<'_>,
        is_first: bool,
        state: &mut State,
        open: &mut Open,
    ) {
        let is_header = line.number == 1;
        let record = if is_header {
            let header: serde_json::Result<StoreHeader> = serde_json::from_slice(line.text);
            header.map(|header| (header.version, None))
        } else {
            record::decode_job(line.text).map(|(record, remembered)| {
                self.remembered.extend(remembered);
                (record.before, Some(record))
            })
        };
        let (before, record) = match record {
            Ok(record) => record,
            Err(error) => {
                self.damaged.insert(name.to_owned());
                open.problems
                    .push(self.problem(name, Some(line.number), error.to_string()));
                return;
            }
        };
        if before < state.version && !is_first {
            self.damaged.insert(name.to_owned());
            let what = format!(
                "it follows version {before}, and should follow {}",
                state.version
            );
            let number = self.problem(name, Some(line.number), what);
            self.problems[number].loses = Some("what this line says".into());
            return;
        }
        if before > state.version && !is_first && open.problems.is_empty() {
            let what = format!(
                "it follows version {before}, and should follow {}",
                state.version
            );
            open.problems
                .push(self.problem(name, Some(line.number), what));
        }
        if is_header && before == state.version && !open.problems.is_empty() {
            // The line behind it tells more: commits without a write have no version.
            return;
        }
        let lost = match before.0 - state.version.0.min(before.0) {
            0 => "no write".to_owned(),
            1 => format!("the write of version {before}"),
            count => format!(
                "the {count} writes of versions {} to {before}",
                Version(state.version.0 + 1)
            ),
        };
        self.settle(open, &lost);
        state.version = state.version.max(before);
        let Some(record) = record else { return };
        if let Some(advance) = &record.advance {
            let applied = state.progress.applied(advance.queue, advance.partition);
            if applied < advance.from {
                // What became of those jobs is not known any more.
                state
                    .progress
                    .lose(advance.queue, advance.partition, applied, advance.from);
            }
        }
        state.apply(record);
    }

    /// Says what the problems before this place cost.
    fn settle(&mut self, open: &mut Open, lost: &str) {
        let mut loses = lost.to_owned();
        if !open.keys.is_empty() {
            let keys = list_keys(open.keys.iter().map(String::as_str));
            loses.push_str(&format!(" (keys, as far as they can be read: {keys})"));
        }
        for problem in open.problems.drain(..) {
            self.problems[problem].loses = Some(loses.clone());
        }
        open.keys.clear();
    }
}

/// The keys in damaged lines that are still JSON.
fn keys(damaged: &Damaged<'_>) -> Vec<String> {
    let lines = damaged.text.split(|&byte| byte == b'\n');
    lines
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .flat_map(|line| match line.get("w") {
            Some(serde_json::Value::Array(writes)) => writes.clone(),
            _ => Vec::new(),
        })
        .filter_map(|write| Some(write.get(0)?.as_str()?.to_owned()))
        .collect()
}
