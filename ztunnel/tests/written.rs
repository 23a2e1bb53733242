//! What the proxy writes to its log.

use std::{
    io::{self, Write},
    sync::{Arc, LazyLock, Mutex},
};

use tracing::Dispatch;

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

/// While there is only one in the process, a thread without any may be the first to come by an event, and switches it
/// off for all (tracing-core, `callsite`). So there are always two.
static OTHER: LazyLock<(Logging, Dispatch)> = LazyLock::new(|| logging(io::sink()));

fn logging(to: impl Write + Send + 'static) -> (Logging, Dispatch) {
    let config = Log { level: LogFilter::default(), format: LogFormat::Text };
    Logging::new(&config, to).unwrap()
}

/// All that is logged on this thread while something is done, at the default level.
pub(crate) fn written(during: impl FnOnce()) -> String {
    let lines = Lines::default();
    LazyLock::force(&OTHER);
    let (logging, dispatch) = logging(lines.clone());
    tracing::dispatcher::with_default(&dispatch, during);
    logging.flush();
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}
