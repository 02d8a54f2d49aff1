//! The form of a journal line: a JSON object whose last member is a CRC-32C, chained to the
//! previous line.
//!
//! `{…,"c":"9f3a01bc"}`: the last sixteen bytes have a fixed form, so a line is checked without
//! parsing it. The CRC covers everything before them, and starts from the CRC of the previous line;
//! so a lost, repeated or misplaced line breaks the chain as surely as a flipped bit.

use serde::Serialize;

use crate::model::id::hex;

/// The length of `,"c":"xxxxxxxx"}`.
const TRAILER_BYTES: usize = 16;

/// Enough for a line with small values, so that it is not copied while it grows.
pub(crate) const USUAL_BYTES: usize = 384;

/// The state of a chain: the CRC of the latest line, 0 before the first.
pub(crate) type Chain = u32;

/// Appends the JSON of `value`.
pub(crate) fn push_json(text: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(text, value)
        .expect("stored types serialize to JSON, and writing to memory cannot fail");
}

/// Returns a JSON object without its closing brace.
pub(crate) fn open_object(value: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::with_capacity(USUAL_BYTES);
    push_json(&mut text, value);
    text.pop();
    text
}

/// Completes the line that starts at `start` in `text`, an object without its closing brace, and
/// links it to `chain`.
pub(crate) fn seal(text: &mut Vec<u8>, start: usize, chain: &mut Chain) {
    *chain = crc32c::crc32c_append(*chain, &text[start..]);
    text.extend_from_slice(b",\"c\":\"");
    text.extend_from_slice(&hex::<8>(u64::from(*chain)));
    text.extend_from_slice(b"\"}\n");
}

/// Returns the CRC that a line (without its newline) claims to have; `None` if it lacks the form of
/// one.
pub(crate) fn claimed(line: &[u8]) -> Option<Chain> {
    let trailer = line.last_chunk::<TRAILER_BYTES>()?;
    let digits = trailer.strip_prefix(b",\"c\":\"")?.strip_suffix(b"\"}")?;
    // Only the digits that `seal` writes, so that each line has exactly one text.
    if !digits
        .iter()
        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Checks a line (without its newline) that follows `chain`, and returns the chain after it.
pub(crate) fn check(line: &[u8], chain: Chain) -> Option<Chain> {
    let crc = claimed(line)?;
    let covered = &line[..line.len() - TRAILER_BYTES];
    (crc32c::crc32c_append(chain, covered) == crc).then_some(crc)
}

/// Returns the text that [`seal`] was given for a checked line (without its newline).
pub(crate) fn body(line: &[u8]) -> &[u8] {
    &line[..line.len() - TRAILER_BYTES]
}
