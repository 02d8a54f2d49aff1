//! The one walk over the lines of a journal, shared by all its readers. Opening stops at the first
//! line that is not sound, a follower stops there and looks again later, and salvage continues
//! after it.

use super::contents::ReadLine;
use super::line::{self, Chain};
use super::{End, mark_at_end, marked};

/// A line and what the scan found out about it.
pub(crate) struct Scanned<'a> {
    pub(crate) line: ReadLine<'a>,
    pub(crate) kind: LineKind,
    /// The CRC at its end, if the line is sound: whole, and chained to the line before.
    pub(crate) crc: Option<Chain>,
}

pub(crate) enum LineKind {
    /// An ordinary line, if it is sound.
    Line,
    /// A mark, which proves itself, and the end that it states.
    Mark(End),
    /// A line that is not sound, ending in a mark because the newline before the mark is damaged.
    DamagedBefore(End),
}

impl Scanned<'_> {
    /// Returns the end that a mark in this line states.
    pub(crate) fn mark(&self) -> Option<End> {
        match self.kind {
            LineKind::Line => None,
            LineKind::Mark(end) | LineKind::DamagedBefore(end) => Some(end),
        }
    }

    /// Returns the offset at which the next line starts.
    pub(crate) fn end(&self) -> usize {
        self.line.offset as usize + self.line.text.len() + 1
    }
}

/// An iterator over the lines of a text, up to the fill.
pub(crate) struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    used: usize,
    number: u64,
    chain: Option<Chain>,
}

impl<'a> Scan<'a> {
    /// Starts with line `number`, which follows `chain`.
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
        // After a line that is not sound, the next is checked against the CRC that the line claims.
        self.chain = crc.or_else(|| line::claimed(text));
        self.at += text.len() + 1;
        self.number += 1;
        Some(Scanned { line, kind, crc })
    }
}
