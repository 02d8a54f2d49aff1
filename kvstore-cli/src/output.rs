//! Results: a table on a terminal, JSON lines in a pipe.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use kvstore_core::model::entry::Timestamp;
use kvstore_core::{Value, Version};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::args::OutputForm;

/// The maximum length of a value in a table: longer ones are cut, but JSON lines have all of it.
const VALUE_CHARS_MAX: usize = 60;

/// How many lines a table holds back to find the widths of its columns.
const WIDTH_LINES: usize = 200;

/// Returns true unless `NO_COLOR` is set to something (<https://no-color.org>).
pub(crate) fn is_colored() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Standard output, in the requested form or the one that suits it.
#[derive(Debug)]
pub(crate) struct Output {
    given: Option<OutputForm>,
    form: OutputForm,
    is_colored: bool,
}

impl Output {
    pub(crate) fn new(form: Option<OutputForm>) -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self {
            given: form,
            form: form.unwrap_or(match is_terminal {
                true => OutputForm::Table,
                false => OutputForm::Json,
            }),
            is_colored: is_terminal && is_colored(),
        }
    }

    /// Returns true if JSON lines were requested, rather than chosen because of a pipe.
    pub(crate) fn is_json_asked_for(&self) -> bool {
        self.given == Some(OutputForm::Json)
    }

    /// Prints one result: `text` for people, `object` for programs.
    pub(crate) fn one(&self, text: &str, object: &impl Serialize) -> io::Result<()> {
        match self.form {
            OutputForm::Table => line(text.as_bytes()),
            OutputForm::Json => json(object),
        }
    }

    /// Begins a table with the names of its columns.
    pub(crate) fn rows(&self, names: &'static [&'static str]) -> Rows<'_> {
        Rows {
            output: self,
            names,
            held: Vec::new(),
            widths: None,
        }
    }
}

/// Prints a line.
pub(crate) fn line(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.write_all(b"\n")
}

fn json(object: &impl Serialize) -> io::Result<()> {
    line(&serde_json::to_vec(object)?)
}

/// A table being printed. Its first lines decide the widths of the columns.
#[derive(Debug)]
pub(crate) struct Rows<'o> {
    output: &'o Output,
    names: &'static [&'static str],
    held: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
}

impl Rows<'_> {
    /// Adds a result.
    pub(crate) fn row(&mut self, cells: Vec<String>, object: &impl Serialize) -> io::Result<()> {
        if self.output.form == OutputForm::Json {
            return json(object);
        }
        match &self.widths {
            Some(widths) => line(row(&cells, widths).as_bytes()),
            None => {
                self.held.push(cells);
                match self.held.len() < WIDTH_LINES {
                    true => Ok(()),
                    false => self.flush(),
                }
            }
        }
    }

    /// Prints the lines that are held back.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let widths: Vec<usize> = (0..self.names.len())
            .map(|column| {
                let cells = self.held.iter().map(|cells| cells[column].chars().count());
                cells.max().unwrap_or(0).max(self.names[column].len())
            })
            .collect();
        let names: Vec<String> = self.names.iter().map(|name| (*name).to_owned()).collect();
        let head = row(&names, &widths);
        line(
            match self.output.is_colored {
                true => format!("\x1b[1m{head}\x1b[0m"),
                false => head,
            }
            .as_bytes(),
        )?;
        for cells in self.held.drain(..) {
            line(row(&cells, &widths).as_bytes())?;
        }
        self.widths = Some(widths);
        Ok(())
    }
}

fn row(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        text.push_str(&printable(cell));
        let width_here = cell.chars().count();
        text.extend(std::iter::repeat_n(
            ' ',
            width.saturating_sub(width_here) + 2,
        ));
    }
    text.truncate(text.trim_end().len());
    text
}

/// Returns text without control characters, which could move the cursor of a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|character| match character.is_control() {
            true => '\u{fffd}',
            false => character,
        })
        .collect()
}

/// Returns the start of a value, for a table.
pub(crate) fn shortened(value: Option<&Value>) -> String {
    let Some(value) = value else {
        return String::new();
    };
    let text = value.as_str();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

pub(crate) fn etag(version: Version) -> String {
    format!("\"{version}\"")
}

/// Formats a deadline to the second, for a table; empty if there is none.
pub(crate) fn deadline(expires_at: Option<Timestamp>) -> String {
    let text = expires_at.map(|moment| moment.to_string());
    text.map_or_else(String::new, |text| {
        text.replace('T', " ").chars().take(19).collect()
    })
}

/// Formats a duration in its two largest units.
pub(crate) fn age(age: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Returns a value as JSON to be printed byte for byte.
pub(crate) fn raw(value: &Value) -> &RawValue {
    serde_json::from_slice(value.as_bytes()).expect("a value is JSON text")
}
