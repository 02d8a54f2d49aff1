//! A sealed line: a JSON object on one line that states its format and has a CRC. It is either a
//! small file, or the first line of a journal.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Result;
use crate::json_file::disk::Disk;
use crate::json_file::error::corrupt;
use crate::json_file::journal::line::{self, open_object};

/// The version of all file formats of this backend.
const FORMAT: u32 = 2;

/// The member `format` of a sealed line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Format;

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        FORMAT.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            FORMAT => Ok(Self),
            format => Err(D::Error::custom(other_format(format))),
        }
    }
}

fn other_format(format: u32) -> String {
    format!("it has format {format}, but this version reads only format {FORMAT}")
}

/// Encodes `value` as a sealed line.
pub(crate) fn seal(value: &impl Serialize) -> Vec<u8> {
    let mut text = open_object(value);
    line::seal(&mut text, 0, &mut 0);
    text
}

/// Parses a sealed line, with which the file `name` begins.
pub(crate) fn parse<T: DeserializeOwned>(disk: &dyn Disk, name: &str, text: &[u8]) -> Result<T> {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    let parsed = match line::check(line, 0) {
        Some(_) => serde_json::from_slice(line).map_err(|error| match format_of(line) {
            Some(format) if format != FORMAT => other_format(format),
            _ => error.to_string(),
        }),
        None => Err("its checksum does not match; restore a backup of the folder".into()),
    };
    parsed.map_err(|detail| corrupt(disk, name, Some(1), detail))
}

/// Returns true if `text` is a sealed line of another version's format.
pub(crate) fn is_of_other_format(text: &[u8]) -> bool {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    line::check(line, 0).is_some() && format_of(line).is_some_and(|format| format != FORMAT)
}

fn format_of(line: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct SealedText {
        format: u32,
    }
    let text: SealedText = serde_json::from_slice(line).ok()?;
    Some(text.format)
}
