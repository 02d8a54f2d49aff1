//! A damaged journal, read past its damage: every line that is provably as it was written, and the places between.

use super::super::journal::{self, End, ReadLine};
use super::super::line::{self, Chain};

/// What stands in a journal, in order; marks are left out.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// A line whose checksum holds.
    Line(ReadLine<'a>),
    Damaged(Damaged<'a>),
}

/// Lines that are not what was written, or are gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damaged<'a> {
    /// The first of them, from 1.
    pub(super) line: u64,
    /// What stands there; empty if something is missing.
    pub(super) text: &'a [u8],
    /// Nothing says that it was ever on the disk: the torn end of a write.
    pub(super) is_torn: bool,
    start: usize,
}

/// Takes a file apart. Where the file after it states `end`, only what is before that counts, and all of it was durable.
pub(super) fn pieces(text: &[u8], end: Option<End>) -> Vec<Piece<'_>> {
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

#[cfg(test)]
mod tests {
    use super::super::super::disk::Disk;
    use super::super::super::journal::Journal;
    use super::super::super::simulated::SimulatedDisk;
    use super::*;

    fn body(number: u32) -> Vec<u8> {
        format!("{{\"n\":{number}").into_bytes()
    }

    /// A header, three synced groups of two lines, and two lines that were not synced.
    fn written() -> Vec<u8> {
        let disk = SimulatedDisk::new();
        let mut journal = Journal::create(&disk, "j.jsonl", &[body(0)]).unwrap();
        for group in 0..3 {
            journal
                .append(&[body(group * 2 + 1), body(group * 2 + 2)])
                .unwrap();
        }
        journal.write(&[body(7), body(8)]).unwrap();
        disk.read("j.jsonl").unwrap().unwrap()
    }

    fn lines<'a>(pieces: &[Piece<'a>]) -> Vec<&'a [u8]> {
        let line = |piece: &Piece<'a>| match piece {
            Piece::Line(line) => Some(line.text),
            Piece::Damaged(_) => None,
        };
        pieces.iter().filter_map(line).collect()
    }

    #[test]
    fn whole_file_has_no_damage() {
        let text = written();
        assert_eq!(lines(&pieces(&text, None)).len(), 9);
        assert_eq!(pieces(&text, None).len(), 9);
        let durable = journal::read(text.clone(), None).durable;
        assert_eq!(pieces(&text, Some(durable)).len(), 7);
    }

    #[test]
    fn every_flipped_bit_costs_few_lines_and_yields_no_other() {
        let text = written();
        let whole = pieces(&text, None);
        let whole = lines(&whole);
        let used = text.iter().rposition(|&byte| byte != b'\n').unwrap() + 1;
        let durable = journal::read(text.clone(), None).durable.length as usize;
        for bit in 0..used * 8 {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = pieces(&flipped, None);
            let damaged: Vec<_> = found
                .iter()
                .filter_map(|piece| match piece {
                    Piece::Damaged(damaged) => Some(damaged),
                    Piece::Line(_) => None,
                })
                .collect();
            assert!(!damaged.is_empty(), "bit {bit}");
            if bit / 8 < durable {
                assert!(damaged.iter().any(|damaged| !damaged.is_torn), "bit {bit}");
            }
            let lines = lines(&found);
            assert!(lines.len() + 3 >= whole.len(), "bit {bit}: {found:?}");
            assert!(
                lines.iter().all(|line| whole.contains(line)),
                "bit {bit}: a line that nobody wrote"
            );
        }
    }

    #[test]
    fn missing_lines_and_a_file_cut_short_are_noticed() {
        let text = written();
        let parts: Vec<&[u8]> = text
            .split_inclusive(|&byte| byte == b'\n')
            .take_while(|line| line.len() > 1)
            .collect();
        for index in 0..parts.len() - 1 {
            let mut lost = parts.clone();
            lost.remove(index);
            let lost = lost.concat();
            assert!(
                pieces(&lost, None)
                    .iter()
                    .any(|piece| matches!(piece, Piece::Damaged(_))),
                "lost {index}"
            );
        }
        let durable = journal::read(text.clone(), None).durable;
        for length in 0..durable.length as usize {
            let found = pieces(&text[..length], Some(durable));
            assert!(
                matches!(found.last(), Some(Piece::Damaged(damaged)) if !damaged.is_torn),
                "cut at {length}"
            );
        }
    }
}
