//! An authority in memory behind the real renewer, in paused time: an hour of waiting costs nothing.

use std::{
    collections::VecDeque,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use rustls_pki_types::UnixTime;
use tempfile::TempDir;
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};
use weft_certs::{Authority, KeyPair, REQUESTS_MAX};
use weft_model::TrustDomain;

use super::*;
use crate::{causes::chain, remote::Remote};

mod node;
mod service;

const DAY: Duration = Duration::from_hours(24);

/// A fixed start, moved by tokio's (paused) clock.
#[derive(Debug)]
struct Clock {
    started: Instant,
}

fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(490_896)
}

impl Clock {
    fn now(&self) -> SystemTime {
        epoch() + self.started.elapsed()
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// What the CA does with one request; without an instruction it signs.
enum Do {
    Sign,
    Refuse,
    SignFor(Identity),
}

struct Ca {
    authority: Mutex<Authority>,
    clock: Arc<Clock>,
    /// What the CA takes the node's time for.
    dated: Mutex<fn(SystemTime) -> SystemTime>,
    ttl: Duration,
    script: Mutex<VecDeque<Do>>,
    /// Once this is `Refuse`, the CA is dead.
    then: Mutex<Do>,
    asked: watch::Sender<usize>,
    /// For which the last request was.
    pods: Mutex<Vec<Arc<str>>>,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    gate: Semaphore,
}

impl Ca {
    fn new(ttl: Duration) -> Arc<Self> {
        let authority = Authority::new(&TrustDomain::default(), epoch()).unwrap();
        Arc::new(Self {
            authority: Mutex::new(authority),
            clock: Arc::new(Clock { started: Instant::now() }),
            dated: Mutex::new(|now| now),
            ttl,
            script: Mutex::default(),
            then: Mutex::new(Do::Sign),
            asked: watch::Sender::new(0),
            pods: Mutex::default(),
            at_once: AtomicUsize::new(0),
            at_once_max: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    fn script(&self, all: impl IntoIterator<Item = Do>) {
        self.script.lock().unwrap().extend(all);
    }

    fn die(&self) {
        *self.then.lock().unwrap() = Do::Refuse;
    }

    fn asked(&self) -> usize {
        *self.asked.borrow()
    }
}

impl CertificateSource for Arc<Ca> {
    async fn sign(
        &self,
        identity: &Identity,
        pods: Vec<Arc<str>>,
        request: String,
    ) -> Result<Vec<String>, ServiceError> {
        *self.pods.lock().unwrap() = pods;
        self.asked.send_modify(|n| *n += 1);
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.at_once_max.fetch_max(at_once, Ordering::Relaxed);
        let open = self.gate.acquire().await.unwrap();
        open.forget();
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        self.gate.add_permits(1);
        let scripted = self.script.lock().unwrap().pop_front();
        let then = self.then.lock().unwrap();
        let (identity, request) = match scripted.as_ref().unwrap_or(&then) {
            Do::Sign => (identity.clone(), request),
            Do::SignFor(other) => {
                (other.clone(), KeyPair::generate().unwrap().request(other).unwrap())
            }
            Do::Refuse => {
                return Err(ServiceError::Refused {
                    address: "memory".to_owned(),
                    subject: identity.to_string(),
                    source: Box::new(tonic::Status::unauthenticated("not today")),
                });
            }
        };
        let authority = self.authority.lock().unwrap();
        let now = self.dated.lock().unwrap()(self.clock.now());
        let chain = authority.issue(&request, &identity, self.ttl, now);
        Ok(chain.unwrap())
    }
}

fn web() -> Identity {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn numbered(n: usize) -> Identity {
    format!("spiffe://cluster.local/ns/shop/sa/w{n}").parse().unwrap()
}

/// A node's identities with their renewer running; dropping it is the end of the process.
struct Node {
    identities: Identities,
    _renewer: JoinSet<()>,
}

fn node(ca: &Arc<Ca>, dir: Option<&TempDir>) -> Node {
    let store = dir.map(|d| Store::open(d.path()).unwrap());
    let options = Options {
        clock: ca.clock.clone(),
        draw: Box::new(|| 0.5),
        ..Options::new(store, Duration::from_secs(10))
    };
    let (identities, renewer) = Identities::new(options, ca.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(renewer.run());
    Node { identities, _renewer: tasks }
}

fn files(dir: &TempDir) -> Vec<String> {
    let names = std::fs::read_dir(dir.path()).unwrap();
    names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

async fn asked(ca: &Ca, times: usize) {
    let mut seen = ca.asked.subscribe();
    timeout(DAY, seen.wait_for(|n| *n >= times)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_first_caller_waits_for_the_first_certificate_and_the_next_do_not() {
    let ca = Ca::new(DAY);
    let node = node(&ca, None);
    let svid = node.identities.svid(&web()).await.unwrap();
    assert_eq!(svid.identity(), &web());
    assert!(Arc::ptr_eq(&svid, &node.identities.svid(&web()).await.unwrap()));
    assert_eq!(ca.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_service_is_told_for_which_pods_an_identity_is_wanted() {
    let ca = Ca::new(DAY);
    let node = node(&ca, None);
    let (one, two) = (Arc::from("u-1"), Arc::from("u-2"));
    let first = node.identities.hold_for(&web(), Priority::Warmup, &one);
    let _second = node.identities.hold_for(&web(), Priority::Warmup, &two);
    asked(&ca, 1).await;
    assert_eq!(*ca.pods.lock().unwrap(), [one, two.clone()]);
    drop(first);
    asked(&ca, 2).await;
    assert_eq!(*ca.pods.lock().unwrap(), [two], "a pod that is gone is not spoken for");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_half_its_life_with_a_new_key() {
    let ca = Ca::new(DAY);
    let node = node(&ca, None);
    let _hold = node.identities.hold(&web(), Priority::Warmup);
    let first = node.identities.svid(&web()).await.unwrap();
    let mut slot = node.identities.watch(&web());
    slot.borrow_and_update();
    let before = Instant::now();
    slot.changed().await.unwrap();
    let waited = before.elapsed();
    assert!((DAY / 2..DAY / 2 + Duration::from_secs(6)).contains(&waited), "{waited:?}");
    let second = node.identities.svid(&web()).await.unwrap();
    assert_ne!(first.key_pem(), second.key_pem());
    assert_eq!(ca.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_served_until_it_expires_while_the_ca_is_dead_and_no_longer() {
    let ca = Ca::new(DAY);
    let node = node(&ca, None);
    let _hold = node.identities.hold(&web(), Priority::Warmup);
    node.identities.svid(&web()).await.unwrap();
    ca.die();
    tokio::time::sleep(Duration::from_secs(86_399)).await;
    node.identities.svid(&web()).await.unwrap();
    assert!(ca.asked() > 100, "it kept asking: {}", ca.asked());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let error = node.identities.svid(&web()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("no certificate for {}", web()));
    assert_eq!(node.identities.current(&web()).map(|s| s.not_after()), None);
}

#[tokio::test(start_paused = true)]
async fn a_caller_outlasts_a_short_failure_and_is_refused_early_in_a_long_one() {
    let ca = Ca::new(DAY);
    ca.script([Do::Refuse, Do::Refuse]);
    let node = node(&ca, None);
    node.identities.svid(&web()).await.unwrap();
    assert_eq!(ca.asked(), 3);

    ca.die();
    let other = numbered(1);
    let _hold = node.identities.hold(&other, Priority::Warmup);
    // 0.5 + 1 + 2 + 4 + 8 s: then the next attempt is 16 s away.
    asked(&ca, 3 + 6).await;
    tokio::task::yield_now().await;
    let before = Instant::now();
    let error = node.identities.svid(&other).await.unwrap_err();
    assert!(matches!(&error, IdentityError::Unavailable { identity, .. } if *identity == other));
    let reasons = chain(&error);
    assert!(reasons.contains("certificate service memory gave none"), "{reasons}");
    assert!(reasons.contains("not today"), "{reasons}");
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_never_answers_costs_a_caller_its_deadline_and_no_more() {
    let ca = Ca::new(DAY);
    ca.gate.forget_permits(Semaphore::MAX_PERMITS);
    let node = node(&ca, None);
    let before = Instant::now();
    let error = node.identities.svid(&web()).await.unwrap_err();
    assert!(before.elapsed() <= Duration::from_secs(10), "{:?}", before.elapsed());
    let said = chain(&error);
    assert!(said.starts_with(&format!("no certificate for {}", web())), "{said}");
}

#[tokio::test(start_paused = true)]
async fn no_more_than_eight_requests_are_under_way() {
    let ca = Ca::new(DAY);
    ca.gate.forget_permits(Semaphore::MAX_PERMITS);
    let node = node(&ca, None);
    let holds: Vec<_> =
        (0..30).map(|n| node.identities.hold(&numbered(n), Priority::Warmup)).collect();
    asked(&ca, REQUESTS_MAX).await;
    ca.gate.add_permits(1);
    for n in 0..holds.len() {
        node.identities.svid(&numbered(n)).await.unwrap();
    }
    assert_eq!(ca.at_once_max.load(Ordering::Relaxed), REQUESTS_MAX);
    assert_eq!(ca.asked(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_somebody_else_is_not_taken() {
    let ca = Ca::new(DAY);
    ca.script([Do::SignFor(numbered(7))]);
    let node = node(&ca, None);
    let _hold = node.identities.hold(&web(), Priority::Warmup);
    let mut slot = node.identities.watch(&web());
    slot.changed().await.unwrap();
    let failure = slot.borrow_and_update().failure().cloned().unwrap();
    let said = chain(&*failure.error);
    assert!(said.ends_with(&format!("certificate is of {}, asked for {}", numbered(7), web())));
    // The next answer is right.
    assert_eq!(node.identities.svid(&web()).await.unwrap().identity(), &web());
}

const SKEW: Duration = Duration::from_mins(10);

#[tokio::test(start_paused = true)]
async fn a_clock_ten_minutes_behind_the_cas_is_named_and_served_once_it_is_right() {
    let ca = Ca::new(DAY);
    *ca.dated.lock().unwrap() = |now| now + SKEW;
    let node = node(&ca, None);
    let error = node.identities.svid(&web()).await.unwrap_err();
    let reasons = chain(&error);
    assert!(reasons.contains("is not valid before"), "{reasons}");
    *ca.dated.lock().unwrap() = |now| now;
    tokio::time::sleep(Duration::from_mins(3)).await;
    node.identities.svid(&web()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_clock_ten_minutes_ahead_of_the_cas_shortens_a_certificate_and_fails_nothing() {
    let ca = Ca::new(DAY);
    *ca.dated.lock().unwrap() = |now| now - SKEW;
    let node = node(&ca, None);
    let _hold = node.identities.hold(&web(), Priority::Warmup);
    let svid = node.identities.svid(&web()).await.unwrap();
    assert_eq!(svid.not_after(), epoch() + DAY - SKEW);
    ca.die();
    tokio::time::sleep(Duration::from_hours(23)).await;
    node.identities.svid(&web()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_ca_serves_from_disk_until_expiry() {
    let (ca, dir) = (Ca::new(DAY), TempDir::new().unwrap());
    let before = {
        let node = node(&ca, Some(&dir));
        let hold = node.identities.hold(&web(), Priority::Warmup);
        let svid = node.identities.svid(&web()).await.unwrap();
        tokio::task::yield_now().await;
        // A process that is killed drops no claim in an orderly way.
        std::mem::forget(hold);
        svid
    };
    assert_eq!(files(&dir), ["cluster.local+ns+shop+sa+web.svid"]);
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path().to_owned()), 0o700);
    assert_eq!(mode(dir.path().join("cluster.local+ns+shop+sa+web.svid")), 0o600);

    ca.die();
    let node = node(&ca, Some(&dir));
    let _hold = node.identities.hold(&web(), Priority::Warmup);
    let after = node.identities.svid(&web()).await.unwrap();
    assert_eq!((after.chain(), after.key_pem()), (before.chain(), before.key_pem()));
    assert_eq!(ca.asked(), 1);
    tokio::time::sleep(DAY + Duration::from_secs(1)).await;
    node.identities.svid(&web()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_on_disk_is_deleted_and_asked_for_again() {
    let (ca, dir) = (Ca::new(DAY), TempDir::new().unwrap());
    {
        let node = node(&ca, Some(&dir));
        let hold = node.identities.hold(&web(), Priority::Warmup);
        node.identities.svid(&web()).await.unwrap();
        tokio::task::yield_now().await;
        std::mem::forget(hold);
    }
    let good =
        std::fs::read_to_string(dir.path().join("cluster.local+ns+shop+sa+web.svid")).unwrap();
    for (name, text) in [
        ("torn.svid", good.split_at(good.len() / 2).0.to_owned()),
        ("foreign.svid", good.replace("sa/web", "sa/other")),
        ("unfinished.new", good.clone()),
        ("empty.svid", String::new()),
        ("binary.svid", "\0\u{1}".to_owned()),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let node = node(&ca, Some(&dir));
    assert_eq!(files(&dir), ["cluster.local+ns+shop+sa+web.svid"]);
    drop(node);

    tokio::time::sleep(DAY * 2).await;
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.load(ca.clock.now()).len(), 0);
    assert_eq!(files(&dir), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn certificate_and_key_are_forgotten_with_the_last_workload() {
    let (ca, dir) = (Ca::new(DAY), TempDir::new().unwrap());
    let node = node(&ca, Some(&dir));
    let one = node.identities.hold(&web(), Priority::Warmup);
    let two = node.identities.hold(&web(), Priority::Warmup);
    node.identities.svid(&web()).await.unwrap();
    let mut slot = node.identities.watch(&web());
    tokio::task::yield_now().await;
    assert_eq!(files(&dir).len(), 1);
    drop(one);
    tokio::task::yield_now().await;
    assert_eq!(files(&dir).len(), 1);
    drop(two);
    slot.borrow_and_update();
    slot.changed().await.unwrap_err();
    tokio::task::yield_now().await;
    assert_eq!(files(&dir), [""; 0]);
    assert_eq!(node.identities.all().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_comes_back_at_once_keeps_its_new_file() {
    let (ca, dir) = (Ca::new(DAY), TempDir::new().unwrap());
    let node = node(&ca, Some(&dir));
    for _ in 0..5 {
        let hold = node.identities.hold(&web(), Priority::Warmup);
        drop(hold);
        let hold = node.identities.hold(&web(), Priority::Warmup);
        node.identities.svid(&web()).await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(files(&dir).len(), 1);
        drop(hold);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_certificate_service_says_so() {
    let options = Options::new(None, Duration::from_millis(1));
    let (identities, renewer) =
        Identities::new(options, CertificateService::new(None, NodeCertificate::none()));
    let mut tasks = JoinSet::new();
    tasks.spawn(renewer.run());
    let error = identities.svid(&web()).await.unwrap_err();
    let said = chain(&error);
    assert!(said.ends_with("no certificate service is configured (ca.address)"), "{said}");
}

/// Makes the CA one that signs with `own` and also distributes `other`.
fn sign_with(ca: &Ca, own: &Authority, other: &Authority) {
    let domain = TrustDomain::default();
    let roots = own.bundle().to_pem() + &other.bundle().to_pem();
    let copy = Authority::from_pem(&domain, &roots, &own.key_pem()).unwrap();
    *ca.authority.lock().unwrap() = copy;
}

#[tokio::test(start_paused = true)]
async fn no_handshake_fails_while_certificates_of_seconds_and_their_roots_are_rotated() {
    let ca = Ca::new(Duration::from_secs(4));
    let (one, two) = (node(&ca, None), node(&ca, None));
    let (web, client) = (web(), numbered(1));
    let _holds = (
        one.identities.hold(&client, Priority::Warmup),
        two.identities.hold(&web, Priority::Warmup),
    );
    let domain = TrustDomain::default();
    let (old, new) = (
        Authority::new(&domain, ca.clock.now()).unwrap(),
        Authority::new(&domain, ca.clock.now()).unwrap(),
    );
    let mut seen = BTreeSet::new();
    for step in 0..300 {
        match step {
            0 => sign_with(&ca, &old, &old),
            100 => sign_with(&ca, &old, &new),
            150 => sign_with(&ca, &new, &old),
            200 => sign_with(&ca, &new, &new),
            _ => {}
        }
        let client_svid = one.identities.svid(&client).await.unwrap();
        let server_svid = two.identities.svid(&web).await.unwrap();
        let clock = || -> Arc<dyn TimeProvider> { ca.clock.clone() };
        handshake(
            weft_certs::client_config_at(&client_svid, std::slice::from_ref(&web), clock()),
            weft_certs::server_config_at(&server_svid, clock()),
        )
        .await
        .unwrap_or_else(|e| panic!("step {step}: {e}"));
        seen.insert(server_svid.chain_pem().remove(0));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(seen.len() >= 10, "only {} certificates", seen.len());
    let last = two.identities.svid(&web).await.unwrap();
    assert_eq!(last.bundle(), new.bundle());
}

async fn handshake(
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
) -> std::io::Result<()> {
    let (a, b) = tokio::io::duplex(64 * 1024);
    let (client, server) = (
        tokio_rustls::TlsConnector::from(client).connect(weft_certs::server_name(), a),
        tokio_rustls::TlsAcceptor::from(server).accept(b),
    );
    tokio::try_join!(client, server).map(|_| ())
}
