//! The form of a line in a journal: a JSON object whose last member is a CRC-32C, chained to the line before.
//!
//! `{…,"c":"9f3a01bc"}`: the last sixteen bytes have a fixed form, so a line is checked without parsing it. The CRC covers
//! everything before them, and starts from the CRC of the line before; so a line that is lost, repeated or out of place
//! breaks the chain as surely as a flipped bit.

use serde::Serialize;

use crate::model::id::hex;

/// The length of `,"c":"xxxxxxxx"}`.
const TRAILER_BYTES: usize = 16;

/// The state of a chain: the CRC of the latest line, 0 before the first.
pub(crate) type Chain = u32;

/// Appends the JSON of `value`.
pub(crate) fn push_json(text: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(text, value).expect("what is kept has JSON, and memory takes it");
}

/// Returns a JSON object without its closing brace.
pub(crate) fn open_object(value: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::new();
    push_json(&mut text, value);
    text.pop();
    text
}

/// Ends the line that starts at `start` in `text`, an object without its closing brace, and links it to `chain`.
pub(crate) fn seal(text: &mut Vec<u8>, start: usize, chain: &mut Chain) {
    *chain = crc32c::crc32c_append(*chain, &text[start..]);
    text.extend_from_slice(b",\"c\":\"");
    text.extend_from_slice(&hex::<8>(u64::from(*chain)));
    text.extend_from_slice(b"\"}\n");
}

/// The CRC that a line (without its newline) claims to have; `None` if it has not the form of one.
pub(crate) fn claimed(line: &[u8]) -> Option<Chain> {
    let trailer = line.last_chunk::<TRAILER_BYTES>()?;
    let digits = trailer.strip_prefix(b",\"c\":\"")?.strip_suffix(b"\"}")?;
    // Only the digits that `seal` writes: one text for one line.
    if !digits
        .iter()
        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Checks a line (without its newline) that follows `chain`; the chain behind it.
pub(crate) fn check(line: &[u8], chain: Chain) -> Option<Chain> {
    let crc = claimed(line)?;
    let covered = &line[..line.len() - TRAILER_BYTES];
    (crc32c::crc32c_append(chain, covered) == crc).then_some(crc)
}

/// What [`seal`] was given for a line (without its newline) that has been checked.
pub(crate) fn body(line: &[u8]) -> &[u8] {
    &line[..line.len() - TRAILER_BYTES]
}
