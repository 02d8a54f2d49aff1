//! The one walk over the lines of a journal, whoever reads it: opening stops at the first line that is not sound, who follows stops
//! there and looks again later, and who saves what can be saved goes on behind it.

use super::contents::ReadLine;
use super::line::{self, Chain};
use super::{End, mark_at_end, marked};

/// A line, looked at.
pub(crate) struct Scanned<'a> {
    pub(crate) line: ReadLine<'a>,
    pub(crate) kind: LineKind,
    /// The CRC behind it, if it is whole and follows from the line before: it is sound.
    pub(crate) crc: Option<Chain>,
}

pub(crate) enum LineKind {
    /// A line that says something, if it is sound.
    Line,
    /// A mark, which proves itself, and what it says is on the disk.
    Mark(End),
    /// Not a sound line, with a mark behind it of which the newline before it is damaged.
    DamagedBefore(End),
}

impl Scanned<'_> {
    /// What a mark in it says is on the disk.
    pub(crate) fn mark(&self) -> Option<End> {
        match self.kind {
            LineKind::Line => None,
            LineKind::Mark(end) | LineKind::DamagedBefore(end) => Some(end),
        }
    }

    /// Where the next line starts.
    pub(crate) fn end(&self) -> usize {
        self.line.offset as usize + self.line.text.len() + 1
    }
}

/// Walks the lines of a text, up to what is filled ahead.
pub(crate) struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    used: usize,
    number: u64,
    chain: Option<Chain>,
}

impl<'a> Scan<'a> {
    /// Starts with the line of this number, which follows `chain`.
    pub(crate) fn new(text: &'a [u8], number: u64, chain: Chain) -> Self {
        let last = text.iter().rposition(|&byte| byte != b'\n');
        Self {
            text,
            at: 0,
            used: last.map_or(0, |last| last + 1),
            number,
            chain: Some(chain),
        }
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Scanned<'a>;

    fn next(&mut self) -> Option<Scanned<'a>> {
        if self.at >= self.used {
            return None;
        }
        let rest = &self.text[self.at..];
        let newline = memchr::memchr(b'\n', rest);
        let text = &rest[..newline.unwrap_or(rest.len())];
        let chain = newline.and(self.chain);
        let crc = chain.and_then(|chain| line::check(text, chain));
        let kind = match marked(text) {
            Some(end) => LineKind::Mark(end),
            None if crc.is_some() => LineKind::Line,
            None => mark_at_end(text).map_or(LineKind::Line, LineKind::DamagedBefore),
        };
        let line = ReadLine {
            number: self.number,
            text,
            offset: self.at as u64,
        };
        // Behind one that is not sound, lines are checked against the CRC that it claims.
        self.chain = crc.or_else(|| line::claimed(text));
        self.at += text.len() + 1;
        self.number += 1;
        Some(Scanned { line, kind, crc })
    }
}
