//! Tables for people, JSON and YAML for programs.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::args::Format;

/// Rows under a heading, each column as wide as its widest cell.
pub(crate) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| shown(&cell)).collect());
    }

    /// With another column in front.
    pub(crate) fn led_by(mut self, heading: &'static str, cells: Vec<&str>) -> Self {
        self.heading.insert(0, heading);
        for (row, cell) in self.rows.iter_mut().zip(cells) {
            row.insert(0, shown(cell));
        }
        self
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> Result<()> {
        let widths: Vec<usize> = self
            .heading
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let cells = self.rows.iter().filter_map(|row| row.get(i));
                cells.map(|cell| cell.chars().count()).chain([name.len()]).max().unwrap_or(0)
            })
            .collect();
        let heading: Vec<String> = self.heading.iter().map(ToString::to_string).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(out, "{}", cells.collect::<Vec<_>>().join("   ").trim_end())?;
        }
        Ok(())
    }
}

/// Names come from outside: none may move the terminal's cursor. An empty cell would be taken for the next.
fn shown(cell: &str) -> String {
    if cell.is_empty() { "-".to_owned() } else { cell.escape_debug().to_string() }
}

/// Writes `value` for programs, or calls `table` for people.
pub(crate) fn write<W: Write>(
    value: &impl Serialize,
    format: Format,
    out: &mut W,
    table: impl FnOnce(&mut W) -> Result<()>,
) -> Result<()> {
    match format {
        Format::Table | Format::Wide => table(out),
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, value)?;
            Ok(writeln!(out)?)
        }
        Format::Yaml => Ok(writeln!(out, "{}", serde_saphyr::to_string(value)?.trim_end())?),
    }
}
