//! A damaged journal, read past its damage: every line that is provably as it was written, and the places between.

use crate::json_file::journal::scan::{Kind, Scan};
use crate::json_file::journal::{End, ReadLine, line};

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
    let mut pieces = Pieces {
        text,
        found: Vec::new(),
    };
    let mut durable = 0;
    let (mut reached, mut number) = (End::default(), 1);
    for scanned in Scan::new(text, 1, 0) {
        let start = scanned.line.offset as usize;
        if let Some(mark) = scanned.mark() {
            durable = durable.max(mark.length);
        }
        match (&scanned.kind, scanned.crc) {
            (Kind::Line, Some(_)) => pieces.found.push(Piece::Line(scanned.line)),
            (Kind::Mark(_), Some(_)) => {}
            // It proves itself; what should stand before it does not.
            (Kind::Mark(_), None) => pieces.damaged(start, number, start),
            (_, None) | (Kind::DamagedBefore(_), _) => {
                pieces.damaged(start, number, start + scanned.line.text.len());
            }
        }
        reached = End {
            length: scanned.end() as u64,
            crc: scanned
                .crc
                .or(line::claimed(scanned.line.text))
                .unwrap_or_default(),
        };
        number += 1;
    }
    if end.is_some_and(|end| end != reached) || number == 1 {
        let at = (reached.length as usize).min(text.len());
        pieces.damaged(at, number, text.len());
    }
    let durable = end.map_or(durable, |_| u64::MAX);
    for piece in &mut pieces.found {
        if let Piece::Damaged(damaged) = piece {
            // A file has its name only once its first line is on the disk.
            damaged.is_torn = damaged.line > 1 && damaged.start as u64 >= durable;
        }
    }
    pieces.found
}

struct Pieces<'a> {
    text: &'a [u8],
    found: Vec<Piece<'a>>,
}

impl Pieces<'_> {
    /// One place of damage after the other is one.
    fn damaged(&mut self, start: usize, line: u64, end: usize) {
        if let Some(Piece::Damaged(before)) = self.found.last_mut() {
            before.text = &self.text[before.start..end];
            return;
        }
        self.found.push(Piece::Damaged(Damaged {
            line,
            text: &self.text[start..end],
            is_torn: false,
            start,
        }));
    }
}
