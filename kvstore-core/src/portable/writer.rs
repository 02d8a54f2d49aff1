//! Entries to text.

use std::io::{self, Write};

use serde::Serialize;

use super::{Form, PortableEntry};
use crate::model::entry::{Timestamp, Version};

/// Writes entries in one of the forms. What it has written is whole only after [`Writer::finish`].
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    form: Form,
    has_begun: bool,
}

/// A line of NDJSON.
#[derive(Serialize)]
struct Line<'a> {
    key: &'a crate::model::key::Key,
    value: &'a crate::model::value::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

impl<W: Write> Writer<W> {
    /// To `out`, in many small pieces: give it something that gathers them.
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
                let line = Line {
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

    /// Writes what has to follow the last entry, and hands out the output.
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
