//! Writes entries as text.

use std::io::{self, Write};

use serde::Serialize;

use super::{Form, PortableEntry};
use crate::model::entry::{Timestamp, Version};

/// Writes entries in one of the formats. The output is complete only after [`EntryWriter::finish`].
#[derive(Debug)]
pub struct EntryWriter<W> {
    out: W,
    form: Form,
    has_begun: bool,
}

/// A line of NDJSON.
#[derive(Serialize)]
struct EntryLine<'a> {
    key: &'a crate::model::key::Key,
    value: &'a crate::model::value::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

impl<W: Write> EntryWriter<W> {
    /// Creates a writer to `out`. Writes are small: pass a buffered writer.
    pub fn new(form: Form, out: W) -> Self {
        Self {
            out,
            form,
            has_begun: false,
        }
    }

    /// Writes one entry.
    ///
    /// # Errors
    /// Those of the output.
    pub fn write(&mut self, entry: &PortableEntry) -> io::Result<()> {
        match self.form {
            Form::Object => {
                self.out
                    .write_all(if self.has_begun { b",\n" } else { b"{\n" })?;
                self.has_begun = true;
                serde_json::to_writer(&mut self.out, &entry.key)?;
                self.out.write_all(b":")?;
                self.out.write_all(entry.value.as_bytes())
            }
            Form::Lines => {
                let line = EntryLine {
                    key: &entry.key,
                    value: &entry.value,
                    version: entry.version,
                    expires_at: entry.expires_at,
                };
                serde_json::to_writer(&mut self.out, &line)?;
                self.out.write_all(b"\n")
            }
        }
    }

    /// Writes what follows the last entry, and returns the output.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<W> {
        match (self.form, self.has_begun) {
            (Form::Object, true) => self.out.write_all(b"\n}\n")?,
            (Form::Object, false) => self.out.write_all(b"{\n}\n")?,
            (Form::Lines, _) => {}
        }
        self.out.flush()?;
        Ok(self.out)
    }
}
