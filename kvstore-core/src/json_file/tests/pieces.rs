//! Are the readable pieces of a damaged file found, and nothing else?

use crate::json_file::disk::Disk;
use crate::json_file::disk::simulated::SimulatedDisk;
use crate::json_file::journal::Journal;
use crate::json_file::journal::contents::*;

fn body(number: u32) -> Vec<u8> {
    format!("{{\"n\":{number}").into_bytes()
}

/// Creates a header, three synced groups of two lines, and two lines that were not synced.
fn written() -> Vec<u8> {
    let disk = SimulatedDisk::new();
    let mut journal = Journal::create(&disk, "j.jsonl", &[body(0)], 0).unwrap();
    for group in 0..3 {
        journal
            .append(&[body(group * 2 + 1), body(group * 2 + 2)], 0)
            .unwrap();
    }
    journal.write(&[body(7), body(8)], 0).unwrap();
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
    let contents = read(text.clone(), None);
    assert_eq!(contents.lines().count(), 9);
    assert_eq!(contents.pieces().count(), 9);
    let bounded = read(text, Some(contents.durable));
    assert_eq!(bounded.pieces().count(), 7);
}

#[test]
fn every_flipped_bit_costs_few_lines_and_yields_no_other() {
    let text = written();
    let contents = read(text.clone(), None);
    let whole: Vec<_> = contents.lines().map(|line| line.text).collect();
    let used = text.iter().rposition(|&byte| byte != b'\n').unwrap() + 1;
    let durable = contents.durable.length as usize;
    for bit in 0..used * 8 {
        let mut flipped = text.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let contents = read(flipped, None);
        let found: Vec<_> = contents.pieces().collect();
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
            "bit {bit}: a line that was never written"
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
        assert!(read(lost, None).damage().is_some(), "lost {index}");
    }
    let durable = read(text.clone(), None).durable;
    for length in 0..durable.length as usize {
        let contents = read(text[..length].to_vec(), Some(durable));
        assert!(
            matches!(contents.pieces().last(), Some(Piece::Damaged(damaged)) if !damaged.is_torn),
            "cut at {length}"
        );
    }
}
