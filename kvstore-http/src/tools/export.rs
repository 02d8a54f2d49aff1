//! `export`: writes the entries of a folder to standard output, beside a running server, too.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use kvstore_core::json_file::Inspection;
use kvstore_core::process::{self, Failure, Fallback, Program, Setting, Settings};
use kvstore_core::{Entry, Key};
use serde::Serialize;

use super::{FOLDER, on_folder, read_folder};

pub(super) const PROGRAM: Program = Program {
    settings: &[FOLDER, FORMAT],
    ..on_folder(
        "kvstore-http export",
        "Writes the entries of a folder to standard output; changes nothing, and works beside a server",
    )
};

const FORMAT: Setting = Setting {
    flag: "format",
    value: "FORMAT",
    default: Fallback::Value("json"),
    allowed: "json or ndjson",
    help: "One JSON object as in data.json, or an object a line with key, value, version and deadline",
};

/// A line of NDJSON.
#[derive(Serialize)]
struct Line<'a> {
    key: &'a Key,
    value: &'a kvstore_core::Value,
    version: u64,
    /// In milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

pub(super) fn main() -> ExitCode {
    process::command(&PROGRAM, read, |(folder, is_object)| {
        let found = Inspection::of(folder)?;
        if let Some(problem) = found.problems().first() {
            return Err(format!("it is damaged, and verify says how: {problem}").into());
        }
        let mut out = BufWriter::new(std::io::stdout().lock());
        if is_object {
            write_object(&mut out, found.entries())?;
        } else {
            write_lines(&mut out, found.entries())?;
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    })
}

fn read(settings: &mut Settings) -> Option<(PathBuf, bool)> {
    let folder = read_folder(settings);
    let is_object = settings.get(&FORMAT, |text| match text {
        "json" => Ok(true),
        "ndjson" => Ok(false),
        _ => Err("it is neither of the two"),
    });
    Some((folder?, is_object?))
}

fn write_object(
    out: &mut impl Write,
    entries: impl Iterator<Item = (Key, Entry)>,
) -> Result<(), Failure> {
    out.write_all(b"{")?;
    for (number, (key, entry)) in entries.enumerate() {
        out.write_all(if number == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &key)?;
        out.write_all(b":")?;
        out.write_all(entry.value.as_bytes())?;
    }
    out.write_all(b"\n}\n")?;
    Ok(())
}

fn write_lines(
    out: &mut impl Write,
    entries: impl Iterator<Item = (Key, Entry)>,
) -> Result<(), Failure> {
    for (key, entry) in entries {
        let line = Line {
            key: &key,
            value: &entry.value,
            version: entry.version.0,
            expires_at: entry.expires_at.map(|deadline| deadline.0),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
