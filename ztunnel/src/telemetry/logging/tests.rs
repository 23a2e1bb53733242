use std::sync::{Arc, Mutex};

use tracing::{Level, debug, event, info};

use super::*;
use crate::config::LogFilter;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        // The time differs between runs.
        text.lines().map(|l| l.split_once('\t').map_or(l, |(_, rest)| rest).to_owned()).collect()
    }
}

fn log(format: LogFormat, level: &str, events: impl FnOnce(&Logging)) -> Vec<String> {
    let written = Written::default();
    let level = level.parse::<LogFilter>().unwrap();
    let (logging, dispatch) = Logging::new(&Log { level, format }, written.clone()).unwrap();
    tracing::dispatcher::with_default(&dispatch, || events(&logging));
    logging.flush();
    written.lines()
}

#[test]
fn a_text_line_has_istios_form() {
    let lines = log(LogFormat::Text, "info", |_| {
        event!(target: "access", Level::INFO, src.addr = %"10.0.0.1:4000", src.workload = "web 1", bytes_sent = 3u64,
            "connection complete");
    });
    assert_eq!(
        lines,
        [
            "info\taccess\tconnection complete\tsrc.addr=10.0.0.1:4000 src.workload=\"web 1\" bytes_sent=3"
        ]
    );
}

#[test]
fn a_json_line_is_one_object() {
    let written = log(LogFormat::Json, "info", |_| {
        event!(target: "access", Level::ERROR, error = %"a\nb", dst.service = "x", "connection complete");
    });
    let line: serde_json::Value = serde_json::from_str(&written[0]).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["scope"], "access");
    assert_eq!(line["message"], "connection complete");
    assert_eq!(line["error"], "a\nb");
    assert_eq!(line["dst.service"], "x");
}

#[test]
fn nothing_from_a_peer_breaks_a_line_or_moves_a_cursor_or_forges_a_field() {
    let evil =
        "a\n2026\terror\tfake\r\u{1b}[2J\u{9b}31m\u{202e}\u{2028} dst.identity=root \"q\" \u{7f}\0";
    let lines = log(LogFormat::Text, "info", |_| {
        info!(text = evil, shown = %evil, debugged = ?evil, "{evil}");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    let bad = |c: char| (c.is_control() && c != '\t') || ['\u{202e}', '\u{2028}'].contains(&c);
    assert!(!lines[0].contains(bad), "{:?}", lines[0]);
    assert_eq!(lines[0].matches('\t').count(), 3, "{}", lines[0]);
    assert!(lines[0].contains("text=\"a\\n"), "{}", lines[0]);
    let json = log(LogFormat::Json, "info", |_| info!(text = evil, "{evil}"));
    assert_eq!(json.len(), 1);
    assert!(!json[0].contains(bad), "{json:?}");
    let line: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(line["text"], evil, "escaped, not changed");
}

#[test]
fn the_level_is_changed_by_scope_and_reset_while_running() {
    let lines = log(LogFormat::Text, "info", |logging| {
        debug!(target: "ztunnel::dns", "one");
        logging.set("ztunnel::dns:debug").unwrap();
        debug!(target: "ztunnel::dns", "two");
        debug!(target: "ztunnel::xds", "three");
        logging.set("debug").unwrap();
        debug!(target: "ztunnel::xds", "four");
        logging.set("error,access:info").unwrap();
        info!(target: "ztunnel::xds", "five");
        info!(target: "access", "six");
        logging.reset().unwrap();
        debug!(target: "ztunnel::dns", "seven");
        info!(target: "ztunnel::xds", "eight");
    });
    let said: Vec<_> = lines.iter().map(|l| l.rsplit_once('\t').unwrap().1).collect();
    assert_eq!(said, ["two", "four", "six", "eight"]);
}

#[test]
fn a_level_that_is_none_changes_nothing_and_is_named() {
    log(LogFormat::Text, "info", |logging| {
        for bad in ["loud", "", "a b:info", ":info", "x:", "info,loud\n"] {
            assert!(matches!(logging.set(bad), Err(LoggingError::BadLevel { .. })), "{bad}");
        }
        assert_eq!(logging.level(), "info");
        let text = logging.set("loud\n").unwrap_err().to_string();
        assert_eq!(text, "log level `loud\\n` is not a level such as info, or scope:level");
    });
}

#[test]
fn a_log_that_nobody_reads_costs_lines_and_never_stops_who_logs() {
    /// Stands in its first write until the test ends.
    struct Stuck(std::sync::mpsc::Receiver<()>);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (hold, released) = std::sync::mpsc::channel();
    let config = Log { level: LogFilter::default(), format: LogFormat::Text };
    let (logging, dispatch) = Logging::new(&config, Stuck(released)).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        for _ in 0..20_000 {
            info!("x");
        }
    });
    assert!(logging.dropped() > 10_000, "{}", logging.dropped());
    drop(hold);
}
