use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use weft_certs::{Authority, KeyPair, Svid};
use weft_model::{Identity, Namespace, ServiceAccountName, TrustDomain, View};
use ztunnel_core::{Direction, Parties, Security, Side};

use super::*;
use crate::{
    config::{Config, Log, LogFilter, LogFormat, Metrics},
    identity::Slot,
    telemetry::Live,
};

const WITHIN: Duration = Duration::from_secs(20);

fn identity() -> Identity {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn svid() -> Arc<Svid> {
    let now = SystemTime::now();
    let authority = Authority::new(&TrustDomain::default(), now).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = key.request(&identity()).unwrap();
    let chain = authority.issue(&request, &identity(), Duration::from_hours(1), now).unwrap();
    Arc::new(Svid::from_pem(&identity(), key, &chain, now).unwrap())
}

struct Lab {
    admin: SocketAddr,
    stats: SocketAddr,
    readiness: SocketAddr,
    pending: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicUsize>,
    svid: Arc<Svid>,
    _live: Live,
    /// The filter lives as long as its log.
    _log: tracing::Dispatch,
    _tasks: JoinSet<()>,
}

fn live(telemetry: &Telemetry) -> Live {
    let at = |text: &str| Some(text.parse().unwrap());
    let parties = Parties {
        direction: Direction::Outbound,
        source: Side { address: at("10.0.0.1:4000"), ..Side::default() },
        destination: Side { address: at("10.0.0.2:80"), ..Side::default() },
        service: None,
        hbone: at("10.0.0.2:15008"),
        security: Security::MutualTls,
    };
    telemetry.worker(0).open(
        "uid-1".into(),
        "10.96.0.1:80".parse().unwrap(),
        &parties,
        Arc::default(),
    )
}

async fn lab(connections_max: usize) -> Lab {
    let config = Log { level: LogFilter::default(), format: LogFormat::Text };
    let (logging, dispatch) = Logging::new(&config, io::sink()).unwrap();
    let logging = Arc::new(logging);
    let telemetry = Telemetry::new(&Metrics::default(), 1, Some(logging.clone()));
    let live = live(&telemetry);
    let (pending, stopped, svid) = (Arc::default(), Arc::default(), svid());
    let (waits, stops, shown): (Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>, _) =
        (Arc::clone(&pending), Arc::clone(&stopped), Slot::Ready(svid.clone()));
    let for_dump = telemetry.clone();
    let pods = [PodState {
        uid: "uid-1".into(),
        pod: ztunnel_core::Pod {
            namespace: Namespace::new("shop").unwrap(),
            name: "web-0".into(),
            service_account: ServiceAccountName::new("web").unwrap(),
        },
        trust_domain: TrustDomain::default(),
        status: PodStatus::Up,
    }];
    let service = Service {
        config: Config::default().to_json(),
        dump: Arc::new(move || {
            let identities = [(identity(), shown.clone())];
            let connections = for_dump.connections();
            dump(&View::default(), &identities, &pods, &connections, SystemTime::now())
        }),
        logging,
        telemetry,
        pending: Arc::new(move || waits.lock().unwrap().clone()),
        stop: Arc::new(move || {
            stops.fetch_add(1, SeqCst);
        }),
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let listen = Listen { admin: any, stats: any, readiness: any };
    let listeners = Listeners::bind(&listen).await.unwrap();
    let at = |listener: &TcpListener| listener.local_addr().unwrap();
    let (admin, stats, readiness) =
        (at(&listeners.admin), at(&listeners.stats), at(&listeners.readiness));
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(service, listeners, connections_max));
    Lab {
        admin,
        stats,
        readiness,
        pending,
        stopped,
        svid,
        _live: live,
        _log: dispatch,
        _tasks: tasks,
    }
}

/// Status and body of one request in its own connection.
async fn ask(to: SocketAddr, head: &str) -> (u16, String) {
    let work = async {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let request = format!("{head}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = timeout(WITHIN, work).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap_or("0").parse().unwrap();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status, body.unwrap_or_default())
}

async fn get(to: SocketAddr, path: &str) -> (u16, String) {
    ask(to, &format!("GET {path} HTTP/1.1\r\nHost: localhost")).await
}

async fn post(to: SocketAddr, path: &str) -> (u16, String) {
    ask(to, &format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0")).await
}

#[tokio::test]
async fn the_dump_has_what_only_the_proxy_knows() {
    let lab = lab(8).await;
    let (status, body) = get(lab.admin, "/config_dump").await;
    assert_eq!(status, 200);
    let dump: serde_json::Value = serde_json::from_str(&body).unwrap();
    let certificate = &dump["certificates"][0];
    assert_eq!(certificate["identity"], "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(certificate["state"], "Available");
    let leaf = &certificate["certChain"][0];
    assert!(leaf["serialNumber"].as_str().unwrap().bytes().all(|b| b.is_ascii_digit()));
    for time in ["validFrom", "expirationTime"] {
        let text = leaf[time].as_str().unwrap();
        assert!(text.parse::<jiff::Timestamp>().is_ok() && text.ends_with('Z'), "{text}");
    }
    assert_eq!(certificate["rootCerts"].as_array().unwrap().len(), 1);
    let state = &dump["workloadState"]["uid-1"];
    assert_eq!(state["state"], "Up");
    assert_eq!(
        state["info"],
        serde_json::json!({
            "name": "web-0", "namespace": "shop", "trustDomain": "cluster.local",
            "serviceAccount": "web",
        })
    );
    assert_eq!(
        state["connections"]["outbound"],
        serde_json::json!([{
            "src": "10.0.0.1:4000", "originalDst": "10.96.0.1:80",
            "actualDst": "10.0.0.2:15008", "protocol": "HBONE",
        }])
    );
}

#[tokio::test]
async fn no_answer_holds_a_private_key() {
    let lab = lab(8).await;
    let key = lab.svid.key_pem();
    let inner: String = key.lines().filter(|l| !l.starts_with("-----")).collect();
    assert!(inner.len() > 64);
    let mut seen = String::new();
    for path in ["/", "/config_dump", "/config", "/logging"] {
        seen += &get(lab.admin, path).await.1;
    }
    for path in ["/logging", "/logging?level=debug", "/debug/pprof/heap/profiling"] {
        seen += &post(lab.admin, path).await.1;
    }
    seen += &get(lab.stats, "/metrics").await.1;
    seen += &get(lab.readiness, "/healthz/ready").await.1;
    assert!(seen.contains("certChain"), "the search reads what it should");
    // The dump holds PEM in base64 once more, so what was decoded is searched too.
    let decoded: String = seen
        .split(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c)))
        .filter(|word| word.len() > 40)
        .filter_map(|word| String::from_utf8(STANDARD.decode(word).ok()?).ok())
        .collect();
    assert!(decoded.contains("BEGIN CERTIFICATE"));
    for text in [&seen, &decoded] {
        assert!(!text.contains("PRIVATE KEY"));
        for line in key.lines().filter(|l| !l.starts_with("-----")) {
            assert!(!text.contains(line), "a line of the key");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_not_the_nodes_own_is_refused_everywhere_and_does_nothing() {
    let lab = lab(8).await;
    for path in
        ["/", "/config_dump", "/config", "/logging", "/quitquitquit", "/debug/pprof/profile", "/x"]
    {
        for method in ["GET", "POST", "OPTIONS"] {
            for headers in [
                "Host: evil.example",
                "Host: localhost\r\nOrigin: http://evil.example",
                "X: no-host",
            ] {
                let head = format!("{method} {path} HTTP/1.1\r\n{headers}\r\nContent-Length: 0");
                assert_eq!(ask(lab.admin, &head).await.0, 403, "{head}");
            }
        }
    }
    assert_eq!(lab.stopped.load(SeqCst), 0);
}

#[tokio::test]
async fn stopping_needs_post() {
    let lab = lab(8).await;
    assert_eq!(get(lab.admin, "/quitquitquit").await.0, 405);
    assert_eq!(lab.stopped.load(SeqCst), 0);
    assert_eq!(post(lab.admin, "/quitquitquit").await.0, 200);
    assert_eq!(lab.stopped.load(SeqCst), 1);
}

#[tokio::test]
async fn the_log_level_is_shown_changed_and_reset() {
    let lab = lab(8).await;
    let now = |body: &str| body.strip_prefix("current log level is ").unwrap().trim().to_owned();
    assert_eq!(now(&post(lab.admin, "/logging").await.1), "info");
    let (_, body) = post(lab.admin, "/logging?level=ztunnel::dns%3Adebug").await;
    assert!(now(&body).contains("ztunnel::dns=debug"), "{body}");
    assert_eq!(now(&post(lab.admin, "/logging?reset").await.1), "info");
    let (status, body) = post(lab.admin, "/logging?level=loud%0a").await;
    assert_eq!(status, 400);
    assert_eq!(body, "log level `loud\\n` is not a level such as info, or scope:level\n");
    assert_eq!(get(lab.admin, "/logging").await.0, 405);
}

#[tokio::test]
async fn metrics_come_in_the_format_that_was_asked_for() {
    let lab = lab(8).await;
    for path in ["/metrics", "/stats/prometheus"] {
        let (status, body) = get(lab.stats, path).await;
        assert_eq!(status, 200);
        assert!(body.contains("istio_tcp_connections_opened_total{"), "{body}");
        assert!(!body.contains("# EOF"));
    }
    let accept =
        "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0";
    assert!(ask(lab.stats, accept).await.1.ends_with("# EOF\n"));
    assert_eq!(post(lab.stats, "/metrics").await.0, 405);
    for admin_only in ["/config_dump", "/quitquitquit", "/"] {
        assert_eq!(get(lab.stats, admin_only).await.0, 404);
        assert_eq!(get(lab.readiness, admin_only).await.0, 404);
    }
}

#[tokio::test]
async fn readiness_names_what_it_waits_for() {
    let lab = lab(8).await;
    assert_eq!(get(lab.readiness, "/healthz/ready").await, (200, "ready\n".to_owned()));
    *lab.pending.lock().unwrap() = vec!["node agent".to_owned(), "configuration".to_owned()];
    assert_eq!(
        get(lab.readiness, "/healthz/ready").await,
        (500, "not ready, pending: node agent, configuration\n".to_owned())
    );
}

#[tokio::test]
async fn the_config_is_shown_with_its_defaults() {
    let lab = lab(8).await;
    let (status, body) = get(lab.admin, "/config").await;
    let config: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &config["h2"]["frame"]), (200, &"1MiB".into()));
}

#[tokio::test]
async fn a_profile_is_taken_in_pprofs_form_and_bad_numbers_are_named() {
    use pprof::protos::{Message, Profile};
    let lab = lab(8).await;
    let to = lab.admin;
    let body = bytes(to, "/debug/pprof/profile?seconds=1&frequency=50").await;
    Profile::decode(&*body).unwrap();
    let (status, body) = get(to, "/debug/pprof/profile?seconds=0").await;
    assert_eq!((status, &*body), (400, "seconds = `0` is not a number of 1 to 60\n"));
}

/// The body of a page that is no text.
async fn bytes(to: SocketAddr, path: &str) -> Vec<u8> {
    let work = async {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(WITHIN, work).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    answer[body..].to_vec()
}

#[inline(never)]
fn hold_memory_for_the_profile() -> Vec<Vec<u8>> {
    (1..17).map(|n| vec![n; 1 << 20]).collect()
}

/// Both ways in one test: the sampling is the whole process's.
#[tokio::test]
async fn a_heap_profile_names_who_holds_memory_and_nothing_is_sampled_unasked() {
    use std::io::Read;

    use pprof::protos::{Message, Profile};
    let lab = lab(8).await;
    let to = lab.admin;
    let key = lab.svid.key_pem();
    let key: Vec<_> = key.lines().filter(|line| !line.starts_with("-----")).collect();
    let held_by = |gzip: &[u8]| {
        let mut raw = Vec::new();
        flate2::read::GzDecoder::new(gzip).read_to_end(&mut raw).unwrap();
        // One profile of a process at a time: so it is asked here, and not beside the other answers.
        let text = String::from_utf8_lossy(&raw);
        assert!(key.iter().all(|line| !text.contains(line)), "a private key");
        let profile = Profile::decode(&*raw).unwrap();
        let is_ours = |name: &String| name.contains("hold_memory_for_the_profile");
        (profile.string_table.iter().any(is_ours), profile.sample.len())
    };
    let stop = Arc::new(AtomicUsize::new(0));
    let stopped = stop.clone();
    let holder = std::thread::spawn(move || {
        let mut held = hold_memory_for_the_profile();
        while stopped.load(SeqCst) == 0 {
            held = hold_memory_for_the_profile();
        }
        held.len()
    });
    let profile = bytes(to, "/debug/pprof/heap?seconds=2").await;
    stop.store(1, SeqCst);
    holder.join().unwrap();
    assert!(held_by(&profile).0, "{:?}", held_by(&profile));

    assert_eq!(post(to, "/debug/pprof/heap/profiling?activate=true").await.0, 200);
    let held = hold_memory_for_the_profile();
    assert!(held_by(&bytes(to, "/debug/pprof/heap").await).0);
    drop(held);
    assert_eq!(post(to, "/debug/pprof/heap/profiling?activate=false").await.0, 200);
    // Held while it is asked, since what is freed is in no profile.
    let unasked = hold_memory_for_the_profile();
    assert!(!held_by(&bytes(to, "/debug/pprof/heap?seconds=1").await).0, "sampled unasked");
    drop(unasked);
    assert_eq!(post(to, "/debug/pprof/heap/profiling?activate=yes").await.0, 400);
    let (status, body) = get(to, "/debug/pprof/heap?seconds=601").await;
    assert_eq!((status, &*body), (400, "seconds = `601` is not a number of 1 to 600\n"));
}

#[tokio::test]
async fn silent_connections_give_their_place_up_and_hold_no_other_address_up() {
    let lab = lab(4).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(lab.stats).await.unwrap());
    }
    assert_eq!(get(lab.readiness, "/healthz/ready").await.0, 200, "another address");
    // Waits in the backlog until a silent one has had its five seconds.
    assert_eq!(get(lab.stats, "/metrics").await.0, 200);
}

#[tokio::test]
async fn a_head_that_is_too_long_or_no_http_is_refused_and_the_next_one_served() {
    let lab = lab(4).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost", "x".repeat(20 << 10));
    assert!(matches!(ask(lab.admin, &long).await.0, 414 | 431));
    let many = "\r\nX: y".repeat(100);
    assert_eq!(ask(lab.admin, &format!("GET / HTTP/1.1\r\nHost: localhost{many}")).await.0, 431);
    assert_eq!(ask(lab.admin, "\u{16}\u{3}\u{1} hello").await.0, 400);
    assert_eq!(get(lab.admin, "/").await.0, 200);
}

#[tokio::test]
async fn a_certificate_that_is_not_there_says_why() {
    let none = dump(&View::default(), &[(identity(), Slot::Pending)], &[], &[], SystemTime::now());
    assert_eq!(none.certificates[0].state, "Initializing");
    assert_eq!(none.certificates[0].cert_chain, []);
    let slot = Slot::Ready(svid());
    let late = SystemTime::now() + Duration::from_hours(3);
    let expired = dump(&View::default(), &[(identity(), slot)], &[], &[], late);
    assert_eq!(expired.certificates[0].state, "Unavailable: expired");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_with_its_field() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let at = taken.local_addr().unwrap();
    let listen = Listen { admin: any, stats: at, readiness: any };
    let error = Listeners::bind(&listen).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on listen.stats = {at}"));
}
