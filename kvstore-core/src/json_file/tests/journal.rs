//! Does a journal read back as it was written, and is damage distinguished from a torn tail?

use crate::json_file::disk::Disk;
use crate::json_file::disk::simulated::{Fault, SimulatedDisk};
use crate::json_file::journal::contents::*;
use crate::json_file::journal::*;

fn body(number: u32) -> Vec<u8> {
    format!("{{\"n\":{number}").into_bytes()
}

/// Creates a file with a header, three synced groups of two lines, and two lines that were not
/// synced.
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

#[test]
fn what_is_acknowledged_is_covered_by_a_mark() {
    let marked = |disk: &SimulatedDisk| {
        let contents = read(disk.read("j.jsonl").unwrap().unwrap(), None);
        let covered = |line: &ReadLine<'_>| line.offset < contents.durable.length;
        assert!(contents.lines().all(|line| covered(&line)));
        contents.lines().count()
    };
    let (mut refused, mut accepted) = (0, 0);
    for step in 0..8 {
        let disk = SimulatedDisk::new();
        // Includes a line that is carried over.
        let mut journal = Journal::create(&disk, "j.jsonl", &[body(0), body(1)], 0).unwrap();
        assert_eq!(marked(&disk), 2);
        disk.plan(disk.steps() + step, Fault::FullFor(0));
        let lines = match journal.append(&[body(2), body(3)], 0) {
            Ok(()) => 4,
            Err(AppendError::Full(_)) => 2,
            Err(AppendError::Broken(error)) => panic!("{error}"),
        };
        assert_eq!(marked(&disk), lines, "step {step}");
        *(if lines == 4 {
            &mut accepted
        } else {
            &mut refused
        }) += disk.faults_met();
        disk.plan(u64::MAX, Fault::FullFor(0));
        journal.append(&[body(4)], 0).unwrap();
        assert_eq!(marked(&disk), lines + 1, "step {step}");
    }
    assert!(refused > 1 && accepted > 0, "{refused} {accepted}");
}

#[test]
fn a_whole_file_is_read_whole() {
    let text = written();
    let contents = read(text.clone(), None);
    assert_eq!(contents.damage(), None);
    assert_eq!(contents.lines().count(), 9);
    let unsure: Vec<_> = contents
        .lines()
        .filter(|line| line.offset >= contents.durable.length)
        .collect();
    assert_eq!(unsure.len(), 2);
    // With the end that the next file would state.
    let bounded = read(text.clone(), Some(contents.durable));
    assert_eq!((bounded.lines().count(), bounded.damage()), (7, None));
}

#[test]
fn damage_in_what_a_file_starts_with_is_told_from_a_torn_tail() {
    let disk = SimulatedDisk::new();
    let bodies = [body(0), body(1), body(2)];
    let journal = Journal::create(&disk, "j.jsonl", &bodies, 0).unwrap();
    let text = disk.read("j.jsonl").unwrap().unwrap();
    let contents = read(text.clone(), None);
    assert_eq!((contents.lines().count(), contents.damage()), (3, None));
    assert_eq!(contents.durable, journal.durable());
    for place in 0..journal.durable().length as usize {
        let mut flipped = text.clone();
        flipped[place] ^= 1;
        let contents = read(flipped, None);
        let damage = contents.damage().unwrap();
        assert!(!damage.is_torn, "byte {place}");
    }
}

#[test]
fn a_file_cut_anywhere_is_a_prefix_with_a_torn_tail() {
    let text = written();
    let used = text.iter().rposition(|&byte| byte != b'\n').unwrap() + 2;
    let whole = read(text.clone(), None).lines().count();
    for length in 0..used {
        let contents = read(text[..length].to_vec(), None);
        assert!(contents.lines().count() <= whole);
        if let Some(damage) = contents.damage() {
            assert!(damage.is_torn || damage.line == 1, "cut at {length}");
            assert!(!contents.tail().1, "cut at {length}");
        }
    }
}

#[test]
fn every_flipped_bit_is_found_and_told_from_a_torn_tail() {
    let text = written();
    let used = text.iter().rposition(|&byte| byte != b'\n').unwrap() + 1;
    let durable = read(text.clone(), None).durable;
    for bit in 0..used * 8 {
        let mut flipped = text.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let contents = read(flipped.clone(), None);
        let damage = contents
            .damage()
            .unwrap_or_else(|| panic!("bit {bit} was not found"));
        // The last mark is written after the lines that it covers, and is their only witness.
        if bit / 8 < durable.length as usize {
            assert!(!damage.is_torn, "bit {bit}: {damage:?}");
        }
        let bounded = read(flipped, Some(durable));
        assert_eq!(
            bounded.damage().is_some(),
            bit / 8 < durable.length as usize,
            "bit {bit}"
        );
    }
}

#[test]
fn lost_repeated_and_swapped_lines_are_found() {
    let text = written();
    let lines: Vec<&[u8]> = text
        .split_inclusive(|&byte| byte == b'\n')
        .take_while(|line| line.len() > 1)
        .collect();
    for index in 0..lines.len() - 1 {
        let mut lost = lines.clone();
        lost.remove(index);
        assert!(read(lost.concat(), None).damage().is_some(), "lost {index}");
        let mut repeated = lines.clone();
        repeated.insert(index, lines[index]);
        assert!(
            read(repeated.concat(), None).damage().is_some(),
            "repeated {index}"
        );
        let mut swapped = lines.clone();
        swapped.swap(index, index + 1);
        assert!(
            read(swapped.concat(), None).damage().is_some(),
            "swapped {index}"
        );
    }
}

#[test]
fn a_hole_is_damage() {
    let mut text = written();
    let durable = read(text.clone(), None).durable.length as usize;
    for byte in &mut text[20..60] {
        *byte = b'\n';
    }
    assert!(!read(text.clone(), None).damage().unwrap().is_torn);
    let mut text = written();
    for byte in &mut text[durable + 40..durable + 60] {
        *byte = 0;
    }
    assert!(read(text.clone(), None).damage().unwrap().is_torn);
}
