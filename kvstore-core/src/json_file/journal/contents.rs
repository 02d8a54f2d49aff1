//! A journal, read whole: its sound lines, and the places of damage between them.

use std::ops::Range;

use crate::json_file::journal::scan::{LineKind, Scan};
use crate::json_file::journal::{End, line};

/// A line that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadLine<'a> {
    /// Its line number, from 1.
    pub(crate) number: u64,
    /// The whole object.
    pub(crate) text: &'a [u8],
    /// Where it starts.
    pub(crate) offset: u64,
}

impl ReadLine<'_> {
    /// Returns the object without its closing brace and its CRC, as
    /// [`Journal::append`](super::Journal::append) takes it.
    pub(crate) fn body(&self) -> Vec<u8> {
        line::body(self.text).to_vec()
    }
}

/// Lines that are damaged or missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged<'a> {
    /// The line number of the first of them.
    pub(crate) line: u64,
    /// What the file holds there; empty if the lines are missing.
    pub(crate) text: &'a [u8],
    /// Nothing shows that the text ever was on the disk: it is the torn end of a write. Otherwise
    /// it is corruption.
    pub(crate) is_torn: bool,
}

/// A part of a journal. Marks are not included.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece<'a> {
    /// A line whose checksum holds.
    Line(ReadLine<'a>),
    Damaged(Damaged<'a>),
}

/// The contents of one journal.
#[derive(Debug)]
pub(crate) struct Contents {
    text: Vec<u8>,
    segments: Vec<Segment>,
    /// What the last mark before any damage shows to be on the disk; the end of the header if there
    /// is no mark.
    pub(crate) durable: End,
    /// A mark, or the next file, shows that the bytes up to here were on the disk.
    witnessed: u64,
}

#[derive(Debug)]
struct Segment {
    line: u64,
    range: Range<usize>,
    is_sound: bool,
}

/// Reads a whole file. If the next file states `end`, only the bytes before that count, and all of
/// them were durable.
pub(crate) fn read(mut text: Vec<u8>, end: Option<End>) -> Contents {
    if let Some(end) = end {
        text.truncate(usize::try_from(end.length).unwrap_or(usize::MAX));
    }
    let mut segments: Vec<Segment> = Vec::new();
    let damaged = |segments: &mut Vec<Segment>, line, range: Range<usize>| {
        match segments.last_mut() {
            // Adjacent damage is one segment.
            Some(last) if !last.is_sound => last.range.end = range.end,
            _ => segments.push(Segment {
                line,
                range,
                is_sound: false,
            }),
        }
    };
    let (mut reached, mut durable, mut witnessed) = (End::default(), End::default(), 0);
    let (mut number, mut is_sound) = (1, true);
    for scanned in Scan::new(&text, 1, 0) {
        let start = scanned.line.offset as usize;
        let range = start..start + scanned.line.text.len();
        is_sound &= scanned.crc.is_some();
        let before = reached;
        reached = End {
            length: scanned.end() as u64,
            crc: scanned
                .crc
                .or(line::claimed(scanned.line.text))
                .unwrap_or_default(),
        };
        let mark = scanned.mark();
        witnessed = witnessed.max(mark.map_or(0, |mark| mark.length));
        match (scanned.kind, scanned.crc) {
            (LineKind::Mark(_), Some(_)) if is_sound => durable = before,
            (LineKind::Mark(_), Some(_)) => {}
            // The mark proves itself; the line before it is missing or damaged.
            (LineKind::Mark(_), None) => damaged(&mut segments, number, start..start),
            (_, None) => damaged(&mut segments, number, range),
            (_, Some(_)) => segments.push(Segment {
                line: number,
                range,
                is_sound: true,
            }),
        }
        if number == 1 && is_sound {
            durable = reached;
        }
        number += 1;
    }
    if end.is_some_and(|end| end != reached) || number == 1 {
        let start = (reached.length as usize).min(text.len());
        damaged(&mut segments, number, start..text.len());
    }
    Contents {
        text,
        segments,
        durable: end.unwrap_or(durable),
        witnessed: end.map_or(witnessed, |_| u64::MAX),
    }
}

impl Contents {
    /// Returns all pieces, in order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.segments.iter().map(|segment| {
            let (line, text) = (segment.line, &self.text[segment.range.clone()]);
            let offset = segment.range.start as u64;
            match segment.is_sound {
                true => Piece::Line(ReadLine {
                    number: line,
                    text,
                    offset,
                }),
                false => Piece::Damaged(Damaged {
                    line,
                    text,
                    // A file gets its name only after its first line is on the disk.
                    is_torn: line > 1 && offset >= self.witnessed,
                }),
            }
        })
    }

    /// Returns the lines before any damage, header first.
    pub(crate) fn lines(&self) -> impl Iterator<Item = ReadLine<'_>> {
        self.pieces().map_while(|piece| match piece {
            Piece::Line(line) => Some(line),
            Piece::Damaged(_) => None,
        })
    }

    /// Returns the first damage, if there is any.
    pub(crate) fn damage(&self) -> Option<Damaged<'_>> {
        self.pieces().find_map(|piece| match piece {
            Piece::Damaged(damaged) => Some(damaged),
            Piece::Line(_) => None,
        })
    }

    /// Returns the bytes from the first damage on, and true if there are whole lines among them:
    /// those may have been acknowledged.
    pub(crate) fn tail(&self) -> (&[u8], bool) {
        let mut behind = self.segments.iter().skip_while(|segment| segment.is_sound);
        let start = behind.next().map_or(self.text.len(), |it| it.range.start);
        let used = self.text.iter().rposition(|&byte| byte != b'\n');
        let end = used.map_or(0, |last| last + 1).max(start);
        (&self.text[start..end], behind.any(|it| it.is_sound))
    }

    /// Returns the length of the file.
    pub(crate) fn len(&self) -> u64 {
        self.text.len() as u64
    }
}
