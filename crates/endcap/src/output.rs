//! What people and programs read: tables, JSON, progress and errors on a terminal.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use endcap_bundle::Progress;
use endcap_service::status::{self, RemoteError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A table with a header; columns named in `right` are aligned right.
pub(crate) fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !std::io::stdout().is_terminal() {
        // Piped output must not be wrapped to a guessed width.
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(header.iter().map(Cell::new));
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Prints a line to stdout; a closed pipe is no error.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _closed_pipe = writeln!(std::io::stdout().lock(), "{text}");
}

/// A number in as few digits as tell it from its neighbours: as the wider number that JSON has, 0.1 would be
/// 0.10000000149011612.
pub(crate) fn number(number: f32) -> serde_json::Value {
    number.to_string().parse::<f64>().map_or(serde_json::Value::Null, Into::into)
}

/// Prints a value as indented JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A progress bar on stderr, or nothing when that is no terminal.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg:32} {wide_bar} {percent:>3}%").ok();
        if let Some(style) = style {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn step(&self, what: &str, done: u64, total: u64) {
        if self.0.message() != what {
            self.0.set_message(what.to_owned());
        }
        self.0.set_length(total.max(1));
        self.0.set_position(done);
    }
}

/// An RPC's failure as a person should read it: the message, then each field at fault.
pub(crate) fn remote(what: &str, url: &str, status: &tonic::Status) -> anyhow::Error {
    let error: RemoteError = status::from_status(status);
    let mut text = format!("{what}: {}", error.message);
    for violation in &error.violations {
        text.push_str(&format!("\n  {}: {}", violation.field, violation.description));
    }
    if let Some(after) = error.retry_after {
        text.push_str(&format!("\n  try again in {} ms", after.as_millis()));
    }
    if status.code() == tonic::Code::Unavailable && error.violations.is_empty() {
        text.push_str(&format!("\n  asked {url}; is the fleet up? `endcap demo` starts one here"));
    }
    anyhow::anyhow!(text)
}

/// Bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

/// A time for people, to the second.
pub(crate) fn age(age: std::time::Duration) -> String {
    humantime::format_duration(std::time::Duration::from_secs(age.as_secs())).to_string()
}
