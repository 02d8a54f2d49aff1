//! Does the checksum of a line find every change?

use crate::json_file::journal::line::*;

#[test]
fn every_flipped_bit_and_every_change_of_place_is_found() {
    let mut text = Vec::new();
    let mut chain = 7;
    text.extend_from_slice(br#"{"v":1,"w":[["a",null]]"#);
    seal(&mut text, 0, &mut chain);
    let line = &text[..text.len() - 1];
    assert_eq!(check(line, 7), Some(chain));
    assert_eq!(claimed(line), Some(chain));
    assert_eq!(check(line, chain), None);
    for bit in 0..line.len() * 8 {
        let mut flipped = line.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(check(&flipped, 7), None, "bit {bit}");
    }
    for length in 0..line.len() {
        assert_eq!(check(&line[..length], 7), None);
    }
}
