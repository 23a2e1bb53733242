//! Log lines: which are written, how they look, and that nothing from a peer can break one.

use std::{
    fmt,
    io::{self, Write},
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use tracing::{
    Dispatch, Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
};

use super::lines::{Lines, LinesHandle};
use crate::config::{Log, LogFormat};

/// Why the log level was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("log level `{value}` is not a level such as info, or scope:level")]
    BadLevel { value: String },
    #[error("the log filter is gone")]
    Gone { source: reload::Error },
}

/// The log of the process, whose level can be changed while it runs.
pub struct Logging {
    filter: reload::Handle<Targets, Registry>,
    initial: Targets,
    current: Mutex<Targets>,
    lines: LinesHandle,
}

impl fmt::Debug for Logging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logging").field("level", &self.level()).finish_non_exhaustive()
    }
}

const LEVEL_BYTES_MAX: usize = 1024;

impl Logging {
    /// Writes to `out` from a thread of its own. The caller installs the [`Dispatch`], once, in main.
    ///
    /// Errors: no thread could be started.
    pub fn new(config: &Log, out: impl Write + Send + 'static) -> io::Result<(Self, Dispatch)> {
        let initial = config.level.targets().clone();
        let (lines, handle) = Lines::new(out)?;
        let (filter, reload) = reload::Layer::new(initial.clone());
        let layer = tracing_subscriber::fmt::layer()
            .event_format(LineFormat(config.format))
            .with_ansi(false)
            .with_writer(lines)
            .with_filter(filter);
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
        let current = Mutex::new(initial.clone());
        Ok((Self { filter: reload, initial, current, lines: handle }, dispatch))
    }

    /// The filter in use.
    pub fn level(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).to_string()
    }

    /// Takes `level` or `scope:level`, or several by comma, over what is in use.
    pub fn set(&self, directives: &str) -> Result<(), LoggingError> {
        let bad = || LoggingError::BadLevel {
            value: directives.chars().take(64).collect::<String>().escape_debug().to_string(),
        };
        if directives.is_empty() || directives.len() > LEVEL_BYTES_MAX {
            return Err(bad());
        }
        let mut targets = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for directive in directives.split(',') {
            // `::` belongs to a scope's own name, so the last colon parts.
            let (scope, level) = match directive.rsplit_once([':', '=']) {
                Some((scope, level)) => (Some(scope), level),
                None => (None, directive),
            };
            let level = level.trim();
            // The parser takes "" and numbers too, and means something by them.
            if !level.starts_with(|c: char| c.is_ascii_alphabetic()) {
                return Err(bad());
            }
            let level = LevelFilter::from_str(level).map_err(|_| bad())?;
            targets = match scope {
                Some(scope) if scope_is_valid(scope) => targets.with_target(scope, level),
                Some(_) => return Err(bad()),
                None => targets.with_default(level),
            };
        }
        self.apply(targets)
    }

    /// Back to the configured filter.
    pub fn reset(&self) -> Result<(), LoggingError> {
        self.apply(self.initial.clone())
    }

    fn apply(&self, targets: Targets) -> Result<(), LoggingError> {
        self.filter.reload(targets.clone()).map_err(|source| LoggingError::Gone { source })?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = targets;
        Ok(())
    }

    /// Lines that were dropped because they were not read fast enough.
    pub fn dropped(&self) -> u64 {
        self.lines.dropped()
    }

    /// Waits until everything logged so far is written, a second at most. Blocks: for the end of main.
    pub fn flush(&self) {
        self.lines.flush();
    }
}

fn scope_is_valid(scope: &str) -> bool {
    !scope.is_empty()
        && scope.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':'))
}

struct LineFormat(LogFormat);

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let meta = event.metadata();
        let time = jiff::Timestamp::now();
        let level = meta.level().as_str().to_ascii_lowercase();
        match self.0 {
            LogFormat::Text => {
                write!(out, "{time:.6}\t{level}\t{}\t", meta.target())?;
                write!(out, "{}", Unbroken(&fields.message))?;
                let mut parted = '\t';
                for (name, value) in &fields.rest {
                    write!(out, "{parted}{name}=")?;
                    value.text(&mut out)?;
                    parted = ' ';
                }
                writeln!(out)
            }
            LogFormat::Json => {
                let mut line = serde_json::Map::new();
                line.insert("level".to_owned(), level.into());
                line.insert("time".to_owned(), format!("{time:.6}").into());
                line.insert("scope".to_owned(), meta.target().into());
                line.insert("message".to_owned(), fields.message.into());
                for (name, value) in fields.rest {
                    line.insert(name.to_owned(), value.json());
                }
                writeln!(out, "{}", JsonUnbroken(&serde_json::Value::Object(line).to_string()))
            }
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, Recorded)>,
}

enum Recorded {
    Text(String),
    /// What displays itself: an address, a number, an error.
    Shown(String),
    Number(serde_json::Number),
    Bool(bool),
}

impl Recorded {
    fn text(&self, out: &mut Writer<'_>) -> fmt::Result {
        match self {
            Self::Shown(text) if is_plain(text) => out.write_str(text),
            Self::Text(text) | Self::Shown(text) => write!(out, "{text:?}"),
            Self::Number(number) => write!(out, "{number}"),
            Self::Bool(value) => write!(out, "{value}"),
        }
    }

    fn json(self) -> serde_json::Value {
        match self {
            Self::Text(text) | Self::Shown(text) => text.into(),
            Self::Number(number) => number.into(),
            Self::Bool(value) => value.into(),
        }
    }
}

/// Nothing in it could be taken for another field, a quote or a control.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:/[]@+%".contains(&b))
}

impl Fields {
    fn push(&mut self, field: &Field, value: Recorded) {
        match (field.name(), value) {
            ("message", Recorded::Text(text) | Recorded::Shown(text)) => self.message = text,
            (name, value) => self.rest.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Recorded::Text(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Recorded::Number(value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Recorded::Number(value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Recorded::Bool(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.push(field, Recorded::Shown(text));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Recorded::Shown(format!("{value:?}")));
    }
}

/// Text that stays on its line and moves no cursor, with quotes left as they are.
struct Unbroken<'a>(&'a str);

impl fmt::Display for Unbroken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for c in self.0.chars() {
            match c {
                '"' | '\'' | '\\' => f.write_char(c)?,
                c => c.escape_debug().try_for_each(|c| f.write_char(c))?,
            }
        }
        Ok(())
    }
}

/// JSON escapes only what would end its string; these also move cursors or turn text around.
struct JsonUnbroken<'a>(&'a str);

impl fmt::Display for JsonUnbroken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for c in self.0.chars() {
            match c {
                '\u{7f}'..='\u{9f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}' => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
