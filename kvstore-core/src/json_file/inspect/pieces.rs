//! A damaged journal, read past its damage: every line that is provably as it was written, and the places between.

use crate::json_file::journal::line::{self, Chain};
use crate::json_file::journal::{self, End, ReadLine};

/// What stands in a journal, in order; marks are left out.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// A line whose checksum holds.
    Line(ReadLine<'a>),
    Damaged(Damaged<'a>),
}

/// Lines that are not what was written, or are gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damaged<'a> {
    /// The first of them, from 1.
    pub(crate) line: u64,
    /// What stands there; empty if something is missing.
    pub(crate) text: &'a [u8],
    /// Nothing says that it was ever on the disk: the torn end of a write.
    pub(crate) is_torn: bool,
    start: usize,
}

/// Takes a file apart. Where the file after it states `end`, only what is before that counts, and all of it was durable.
pub(crate) fn pieces(text: &[u8], end: Option<End>) -> Vec<Piece<'_>> {
    let limit = end.and_then(|end| usize::try_from(end.length).ok());
    let text = &text[..limit.unwrap_or(text.len()).min(text.len())];
    let used = text
        .iter()
        .rposition(|&byte| byte != b'\n')
        .map_or(0, |last| last + 1);
    let mut walk = Walk {
        text,
        pieces: Vec::new(),
        durable: 0,
    };
    let (mut at, mut number) = (0, 1);
    let mut chain: Option<Chain> = Some(0);
    while at < used {
        let length = text[at..].iter().position(|&byte| byte == b'\n');
        let line_end = length.map_or(text.len(), |length| at + length);
        let line = &text[at..line_end];
        chain = walk.step(at, number, line, length.and(chain));
        at = line_end + 1;
        number += 1;
    }
    let reached = End {
        length: at as u64,
        crc: chain.unwrap_or_default(),
    };
    if end.is_some_and(|end| end != reached) || number == 1 {
        walk.damaged(at.min(text.len()), number, text.len());
    }
    let durable = if end.is_some() {
        usize::MAX
    } else {
        walk.durable
    };
    for piece in &mut walk.pieces {
        if let Piece::Damaged(damaged) = piece {
            // A file has its name only once its first line is on the disk.
            damaged.is_torn = damaged.line > 1 && damaged.start >= durable;
        }
    }
    walk.pieces
}

struct Walk<'a> {
    text: &'a [u8],
    pieces: Vec<Piece<'a>>,
    /// How far marks say that the file is on the disk.
    durable: usize,
}

impl<'a> Walk<'a> {
    /// Looks at a line that should follow `chain`, if that is known; the chain behind it.
    fn step(
        &mut self,
        at: usize,
        number: u64,
        line: &'a [u8],
        chain: Option<Chain>,
    ) -> Option<Chain> {
        let after = chain.and_then(|chain| line::check(line, chain));
        if let Some(mark) = journal::marked(line) {
            if after.is_none() {
                // It proves itself; what should stand before it does not.
                self.damaged(at, number, at);
            }
            self.note_durable(mark);
            return line::claimed(line);
        }
        if after.is_some() {
            self.pieces.push(Piece::Line(ReadLine {
                number,
                text: line,
                offset: at as u64,
            }));
        } else {
            self.damaged(at, number, at + line.len());
            if let Some(mark) = journal::mark_at_end(line) {
                self.note_durable(mark);
            }
        }
        after.or_else(|| line::claimed(line))
    }

    fn note_durable(&mut self, mark: End) {
        let length = usize::try_from(mark.length).unwrap_or(usize::MAX);
        self.durable = self.durable.max(length);
    }

    /// One place of damage after the other is one.
    fn damaged(&mut self, start: usize, line: u64, end: usize) {
        if let Some(Piece::Damaged(before)) = self.pieces.last_mut() {
            before.text = &self.text[before.start..end];
            return;
        }
        self.pieces.push(Piece::Damaged(Damaged {
            line,
            text: &self.text[start..end],
            is_torn: false,
            start,
        }));
    }
}
