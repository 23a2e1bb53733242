use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use ztunnel_core::{Carried, End, Failure, Finish};

use super::{
    super::{
        Logging,
        tests::{at, carried},
    },
    *,
};
use crate::config::{Log, LogFilter, LogFormat};

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

fn line(format: LogFormat, act: impl FnOnce()) -> String {
    let written = Written::default();
    let level = "access=debug".parse::<LogFilter>().unwrap();
    let (logging, dispatch) = Logging::new(&Log { level, format }, written.clone()).unwrap();
    tracing::dispatcher::with_default(&dispatch, act);
    logging.flush();
    String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
}

fn text(act: impl FnOnce()) -> String {
    let line = line(LogFormat::Text, act);
    line.split_once('\t').unwrap().1.to_owned()
}

const ENDS: &str = "src.addr=10.0.0.1:4000 src.workload=\"client\" src.namespace=\"shop\" \
    src.identity=\"spiffe://cluster.local/ns/shop/sa/client\" src.cluster=\"Kubernetes\" \
    dst.addr=10.0.0.2:8080 dst.hbone_addr=10.0.0.2:15008 \
    dst.service=\"web.shop.svc.cluster.local\" dst.workload=\"web\" dst.namespace=\"shop\" \
    dst.identity=\"spiffe://cluster.local/ns/shop/sa/web\" dst.cluster=\"Kubernetes\"";

#[test]
fn a_connection_ends_in_one_line_of_istios_fields() {
    assert_eq!(
        text(|| ended(&carried(Direction::Outbound))),
        format!(
            "info\taccess\tconnection complete\t{ENDS} direction=\"outbound\" \
             bytes_sent=84 bytes_recv=175 duration=\"8ms\"\n"
        )
    );
    assert!(
        text(|| ended(&carried(Direction::Inbound)))
            .ends_with("direction=\"inbound\" bytes_sent=175 bytes_recv=84 duration=\"8ms\"\n")
    );
}

#[test]
fn an_error_is_a_line_at_error_with_its_cause() {
    let failure = Failure::Connect { to: at("10.0.0.2:80"), error: "a\nb\u{1b}[2J".to_owned() };
    let failed = Outcome { end: End::Failed(failure.clone()), ..carried(Direction::Outbound) };
    let said = text(|| ended(&failed));
    assert!(said.starts_with("error\taccess\tconnection failed\t"), "{said}");
    assert!(said.ends_with("error=\"cannot connect to 10.0.0.2:80: a\\nb\\u{1b}[2J\"\n"), "{said}");
    let finish = Finish::Broken(failure);
    let broken = Carried { bytes_to_server: 1, bytes_to_client: 2, finish };
    let broken = Outcome { end: End::Carried(broken), ..carried(Direction::Outbound) };
    assert!(text(|| ended(&broken)).starts_with("error\taccess\tconnection complete\t"));
}

#[test]
fn json_has_the_same_fields() {
    let line = line(LogFormat::Json, || ended(&carried(Direction::Outbound)));
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["scope"], "access");
    assert_eq!(line["src.identity"], "spiffe://cluster.local/ns/shop/sa/client");
    assert_eq!(line["bytes_recv"], 175);
    assert_eq!(line["duration"], "8ms");
    assert!(line.get("error").is_none());
}

#[test]
fn an_opened_connection_is_told_at_debug() {
    let said = text(|| opened(&carried(Direction::Outbound).parties));
    assert_eq!(said, format!("debug\taccess\tconnection opened\t{ENDS} direction=\"outbound\"\n"));
}
