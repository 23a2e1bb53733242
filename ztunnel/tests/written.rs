//! What the proxy writes to its log.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use ztunnel::{
    config::{Log, LogFilter, LogFormat},
    telemetry::Logging,
};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All that is logged on this thread while something is done, at the default level.
pub(crate) fn written(during: impl FnOnce()) -> String {
    let lines = Lines::default();
    let config = Log { level: LogFilter::default(), format: LogFormat::Text };
    let (logging, dispatch) = Logging::new(&config, lines.clone()).unwrap();
    tracing::dispatcher::with_default(&dispatch, during);
    logging.flush();
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}
