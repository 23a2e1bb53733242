//! The care of the CA over an API server in memory, by a clock that waits for nobody.

use tokio::task::JoinSet;
use weft_certs::Authority;

use super::*;
use crate::signing::Stale;

mod server;

use server::{Mood, Server};

const DAY: Duration = Duration::from_hours(24);
const SECRETS: &str = "secrets";
const MAPS: &str = "configmaps";

async fn open(server: &Server, source: CaSource) -> Result<(Arc<Trust>, Signing), TrustError> {
    let (domain, heard) = (TrustDomain::default(), Arc::default());
    Trust::open(server.client(), "mesh", &domain, source, LostRoot::Refuse, heard, Arc::default())
        .await
}

async fn own(server: &Server) -> (Arc<Trust>, Signing) {
    open(server, CaSource::Own).await.unwrap()
}

/// An issuing CA under the root that is kept, made so long ago.
fn issuing(server: &Server, ago: Duration) -> Value {
    let secret = serde_json::from_value(server.get(SECRETS, ROOT).unwrap()).unwrap();
    let root = stored::roots(&secret).unwrap().authority(&TrustDomain::default()).unwrap();
    let ca = root.issuing_ca(30 * DAY, clock::now() - ago).unwrap();
    let mut secret = server.get(SECRETS, ISSUING).unwrap();
    secret["data"] = serde_json::to_value(stored::of_issuing(&ca)).unwrap();
    secret
}

fn wish(server: &Server) {
    let mut map = server.get(MAPS, "weft-trust-bundle").unwrap();
    map["metadata"]["annotations"] = json!({"weft.mesh/rotate-root": "now"});
    server.put(MAPS, "weft-trust-bundle", map);
}

fn is_wished(server: &Server) -> bool {
    let map = server.get(MAPS, "weft-trust-bundle").unwrap();
    map["metadata"]["annotations"].get("weft.mesh/rotate-root").is_some()
}

async fn changed(signing: &mut Signing, what: &str) -> Arc<Authority> {
    let changed = time::timeout(Duration::from_mins(5), signing.changed()).await;
    changed.unwrap_or_else(|_| panic!("not in time: {what}"));
    signing.newest()
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_could_not_be_read_when_it_changed_is_read_again() {
    let server = Server::default();
    let (trust, mut signing) = own(&server).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { trust.follow().await });
    // Its watches are open and have told all there is.
    server.put(SECRETS, ISSUING, issuing(&server, DAY));
    let first = changed(&mut signing, "the first change").await;
    server.mood(Mood::Down);
    server.put(SECRETS, ISSUING, issuing(&server, 2 * DAY));
    time::sleep(Duration::from_mins(1)).await;
    server.mood(Mood::Good);
    let second = changed(&mut signing, "the second change").await;
    assert!(second.not_before() < first.not_before());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_says_nothing_ends_no_care_of_the_ca() {
    let server = Server::default();
    server.mood(Mood::Silent);
    let error = open(&server, CaSource::Own).await.unwrap_err();
    assert!(matches!(error, TrustError::Late { .. }), "{error}");
    server.mood(Mood::Good);
    let (trust, mut signing) = own(&server).await;
    let mut tasks = JoinSet::new();
    let (followed, tended) = (trust.clone(), trust.clone());
    tasks.spawn(async move { followed.follow().await });
    tasks.spawn(async move { tended.tend().await });
    server.put(SECRETS, ISSUING, issuing(&server, DAY));
    let first = changed(&mut signing, "the first change").await;
    server.mood(Mood::Silent);
    server.put(SECRETS, ISSUING, issuing(&server, 16 * DAY));
    let said = trust.status().await["error"].to_string();
    assert!(said.contains("read the CA's state within 15 s"), "{said}");
    time::sleep(Duration::from_mins(1)).await;
    server.mood(Mood::Good);
    // What is past half its life is read, and made anew.
    while signing.newest().not_before() <= first.not_before() {
        changed(&mut signing, "another issuing CA").await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_cannot_read_which_ca_is_in_force_signs_nothing_after_50_minutes() {
    let (server, metrics) = (Server::default(), Arc::<Metrics>::default());
    let (domain, heard) = (TrustDomain::default(), Arc::<Heard>::default());
    let (source, lost) = (CaSource::Own, LostRoot::Refuse);
    let opened =
        Trust::open(server.client(), "mesh", &domain, source, lost, heard.clone(), metrics.clone());
    let (trust, mut signing) = opened.await.unwrap();
    let mut tasks = JoinSet::new();
    let followed = trust.clone();
    tasks.spawn(async move { followed.follow().await });
    server.put(SECRETS, ISSUING, issuing(&server, DAY));
    changed(&mut signing, "the first change").await;
    let counted = |text: &str| metrics.text(0, 0).lines().any(|line| line == text);
    // It looks now and then, though nothing changes; and what is no CA was looked at.
    time::sleep(Duration::from_hours(1)).await;
    assert!(signing.current().is_ok());
    assert!(counted("weft_control_ca_failures_total{work=\"read\"} 0"));
    let secret = server.get(SECRETS, ROOT).unwrap();
    server.delete(SECRETS, ROOT);
    time::sleep(Duration::from_hours(1)).await;
    assert!(signing.current().is_ok());
    let told = trust.status().await;
    assert!(told["failing"]["read"].to_string().contains("weft-root-ca is missing"), "{told}");
    server.put(SECRETS, ROOT, secret);
    time::sleep(Duration::from_mins(1)).await;
    assert_eq!(trust.status().await["failing"], json!({}));

    heard.note(&Arc::from("node-1"), None, clock::now());
    server.mood(Mood::Down);
    time::sleep(Duration::from_mins(44)).await;
    assert!(signing.current().is_ok());
    time::sleep(Duration::from_mins(6)).await;
    assert_eq!(signing.current().unwrap_err(), Stale);
    assert!(!counted("weft_control_ca_failures_total{work=\"read\"} 0"));
    assert!(!counted("weft_control_ca_failures_total{work=\"report\"} 0"));
    let told = trust.status().await;
    assert!(told["failing"]["read"].is_string() && told["failing"]["report"].is_string(), "{told}");
    server.mood(Mood::Good);
    time::sleep(Duration::from_mins(1)).await;
    assert!(signing.current().is_ok());
    assert_eq!(trust.status().await["failing"], json!({}));
}

#[tokio::test(start_paused = true)]
async fn a_ca_of_others_is_held_against_the_one_in_force_where_nothing_is_published() {
    let (server, domain) = (Server::default(), TrustDomain::default());
    let root = || Authority::new(&domain, clock::now()).unwrap();
    let (old, new) = (root(), root());
    let (of_old, of_new) = (old.bundle().to_pem(), new.bundle().to_pem());
    server.put(SECRETS, "cacerts", cacerts(&old, &of_old));
    let (trust, signing) = open(&server, CaSource::Secret("cacerts".to_owned())).await.unwrap();
    let first = signing.newest();
    server.delete(MAPS, "weft-trust-bundle");
    server.put(SECRETS, "cacerts", cacerts(&new, &of_new));
    trust.reload().await;
    assert!(Arc::ptr_eq(&signing.newest(), &first), "it signs all the same");
    let told = trust.status().await.to_string();
    assert!(told.contains("it is under none of the roots that nodes were given"), "{told}");
    // What nodes were given is published again, whatever the Secret holds.
    let error = trust.tend_plugged_in("cacerts").await.unwrap_err();
    assert!(matches!(error, TrustError::NotYet { .. }), "{error}");
    let map = server.get(MAPS, "weft-trust-bundle").unwrap();
    assert_eq!(map["data"]["root-cert.pem"], json!(of_old));
    server.put(SECRETS, "cacerts", cacerts(&old, &of_old));
    trust.tend_plugged_in("cacerts").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_slower_goes_on_with_what_the_faster_one_wrote() {
    let server = Server::default();
    own(&server).await;
    let others = issuing(&server, 2 * DAY);
    server.put(SECRETS, ISSUING, issuing(&server, 16 * DAY));
    server.faster(SECRETS, ISSUING, others);
    let (_, signing) = own(&server).await;
    let age = clock::now().duration_since(signing.newest().not_before()).unwrap();
    assert!(age > DAY && age < 3 * DAY, "{age:?}");
}

#[tokio::test(start_paused = true)]
async fn a_record_of_nodes_that_is_lost_is_written_again_and_nothing_is_hurried() {
    let server = Server::default();
    let (domain, heard) = (TrustDomain::default(), Arc::<Heard>::default());
    let opened = Trust::open(
        server.client(),
        "mesh",
        &domain,
        CaSource::Own,
        LostRoot::Refuse,
        heard.clone(),
        Arc::default(),
    );
    let (trust, _) = opened.await.unwrap();
    for (plural, name) in [(MAPS, "weft-node-trust"), (SECRETS, ROOT)] {
        let mut object = server.get(plural, name).unwrap();
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        server.put(plural, name, object);
    }
    heard.note(&Arc::from("node-1"), Some("abad1dea"), clock::now());
    wish(&server);
    for _ in 0..2 {
        trust.tend_own().await.unwrap();
    }
    let waits = async |who: Value| {
        trust.tend_own().await.unwrap();
        let told = trust.status().await;
        assert_eq!(
            (&told["stage"]["name"], &told["waiting"]),
            (&json!("preparing"), &who),
            "{told}"
        );
        told["waitingUntil"].clone()
    };
    assert_eq!(waits(json!(["node-1"])).await, json!(null));
    server.delete(MAPS, "weft-node-trust");
    // What this replica heard is there again at once; what another heard may not be.
    waits(json!(["node-1"])).await;
    heard.note(&Arc::from("node-1"), trust.status().await["bundle"].as_str(), clock::now());
    let until = waits(json!([])).await.as_u64().unwrap();
    let left = Duration::from_secs(until - clock::seconds(clock::now()));
    let (most, hour) = (DAY + Duration::from_hours(2), Duration::from_hours(1));
    assert!(left <= most && left + hour > most, "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_node_said_to_another_replica_since_is_not_written_over() {
    let (server, node) = (Server::default(), Arc::<str>::from("node-1"));
    own(&server).await;
    let replica = || {
        let heard = Arc::<Heard>::default();
        (Nodes::new(Api::namespaced(server.client(), "mesh"), heard.clone()), heard)
    };
    let ((one, heard_by_one), (two, heard_by_two)) = (replica(), replica());
    let start = clock::now() - DAY;
    let after = |minutes| start + Duration::from_mins(minutes);
    let line = || server.get(MAPS, "weft-node-trust").unwrap()["data"]["node-1"].clone();
    let said = |bundle: &str, at| json!(format!("{bundle} {}", clock::seconds(at)));
    heard_by_one.note(&node, Some("c0ffee"), start);
    one.write().await.unwrap();
    heard_by_two.note(&node, Some("abad1dea"), after(30));
    two.write().await.unwrap();
    assert_eq!(line(), said("abad1dea", after(30)));
    // That it is there is written anew, and its word of before is not.
    heard_by_one.note(&node, None, after(61));
    one.write().await.unwrap();
    assert_eq!(line(), said("abad1dea", after(30)));
    // Nor by a replica that it said nothing to, nor where all is written again.
    let (three, heard_by_three) = replica();
    heard_by_three.note(&node, None, after(62));
    three.write().await.unwrap();
    assert_eq!(line(), said("abad1dea", after(30)));
    server.delete(MAPS, "weft-node-trust");
    for replica in [&two, &one, &three] {
        replica.make().await.unwrap();
        replica.write().await.unwrap();
        assert_eq!(line(), said("abad1dea", after(30)));
    }
    // What another has written in between is seen, and then written over if it is older.
    let mut map = server.get(MAPS, "weft-node-trust").unwrap();
    map["data"]["node-2"] = said("c0ffee", start);
    server.faster(MAPS, "weft-node-trust", map);
    heard_by_one.note(&node, Some("c0ffee"), after(90));
    for said in [said("abad1dea", after(30)), said("c0ffee", after(90))] {
        one.write().await.unwrap();
        assert_eq!(line(), said);
    }
}

/// A Secret of somebody's CA under a root, with these roots.
fn cacerts(root: &Authority, roots: &str) -> Value {
    let ca = root.issuing_ca(30 * DAY, clock::now()).unwrap();
    let field = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
    let data = [
        ("ca-cert.pem", field(&ca.certificate)),
        ("ca-key.pem", field(&ca.key)),
        ("root-cert.pem", field(roots)),
    ];
    let data: std::collections::BTreeMap<_, _> = data.into();
    json!({"metadata": {"name": "cacerts"}, "data": data})
}

#[tokio::test(start_paused = true)]
async fn a_ca_of_others_under_another_root_is_not_taken_before_its_time() {
    let (server, domain, heard) =
        (Server::default(), TrustDomain::default(), Arc::<Heard>::default());
    let root = || Authority::new(&domain, clock::now()).unwrap();
    let (old, new) = (root(), root());
    let (of_old, of_new) = (old.bundle().to_pem(), new.bundle().to_pem());
    let both = format!("{of_old}{of_new}");
    server.put(SECRETS, "cacerts", cacerts(&old, &of_old));
    let open = async |lost| {
        let source = CaSource::Secret("cacerts".to_owned());
        Trust::open(server.client(), "mesh", &domain, source, lost, heard.clone(), Arc::default())
            .await
    };
    let (trust, mut signing) = open(LostRoot::Refuse).await.unwrap();
    let mut tasks = JoinSet::new();
    let (followed, tended) = (trust.clone(), trust.clone());
    tasks.spawn(async move { followed.follow().await });
    tasks.spawn(async move { tended.tend().await });
    let first = signing.newest();
    let refused = async |why: &str| {
        time::sleep(Duration::from_mins(1)).await;
        let told = trust.status().await.to_string();
        assert!(told.contains(why), "{told}");
        let started = open(LostRoot::Refuse).await.map(drop).unwrap_err();
        assert!(chain(&started).contains(why), "{started}");
    };

    server.put(SECRETS, "cacerts", cacerts(&new, &of_new));
    refused("it is under none of the roots that nodes were given").await;
    assert!(Arc::ptr_eq(&signing.newest(), &first), "it signs all the same");
    heard.note(&Arc::from("node-1"), Some(&old.bundle().fingerprint()), clock::now());
    server.put(SECRETS, "cacerts", cacerts(&old, &both));
    let second = changed(&mut signing, "the new root is beside the old one").await;
    assert_eq!(second.bundle().certificates().len(), 2);
    time::sleep(Duration::from_mins(1)).await;
    server.put(SECRETS, "cacerts", cacerts(&new, &both));
    refused("these nodes have not said that they have its root").await;
    heard.note(&Arc::from("node-1"), Some(&second.bundle().fingerprint()), clock::now());
    changed(&mut signing, "the new CA signs").await;
    server.put(SECRETS, "cacerts", cacerts(&new, &of_new));
    refused("by which alone certificates that are still good are accepted").await;

    // Whoever must, may: and says so.
    let (_, signing) = open(LostRoot::Replace).await.unwrap();
    assert_eq!(signing.newest().bundle(), new.bundle());
    open(LostRoot::Refuse).await.unwrap();

    // What nodes were given cannot be held against what cannot be read.
    let mut map = server.get(MAPS, "weft-trust-bundle").unwrap();
    map["data"]["root-cert.pem"] = json!("rubbish");
    server.put(MAPS, "weft-trust-bundle", map);
    let error = open(LostRoot::Refuse).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("ConfigMap weft-trust-bundle"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_root_other_than_the_one_that_nodes_were_told_signs_nothing() {
    let server = Server::default();
    let (trust, signing) = own(&server).await;
    let (first, secret) = (signing.newest(), server.get(SECRETS, ROOT).unwrap());
    let published = || server.get(MAPS, "weft-trust-bundle").unwrap()["data"].clone();
    wish(&server);
    for _ in 0..4 {
        trust.tend_own().await.unwrap();
    }
    let (told, both) = (trust.status().await, published());
    assert_eq!(told["stage"]["name"], json!("retiring"), "{told}");
    // As a backup of before the change has it.
    let newer = server.get(SECRETS, ROOT).unwrap();
    server.put(SECRETS, ROOT, secret.clone());
    let refused = |error: TrustError| {
        assert!(matches!(error, TrustError::Other { .. }), "{error}");
        assert!(error.to_string().contains("--reset-trust"), "{error}");
    };
    refused(open(&server, CaSource::Own).await.map(drop).unwrap_err());
    refused(trust.tend_own().await.unwrap_err());
    let told = trust.status().await["error"].to_string();
    assert!(told.contains("Secret weft-root-ca holds no root"), "{told}");
    assert_eq!(published(), both);
    server.put(SECRETS, ROOT, newer);
    own(&server).await;

    // Whoever must, may.
    server.put(SECRETS, ROOT, secret);
    let (domain, heard) = (TrustDomain::default(), Arc::default());
    let lost = LostRoot::Replace;
    let opened =
        Trust::open(server.client(), "mesh", &domain, CaSource::Own, lost, heard, Arc::default())
            .await;
    assert_eq!(opened.unwrap().1.newest().bundle(), first.bundle());
    own(&server).await;
}

#[tokio::test(start_paused = true)]
async fn every_replica_tells_where_a_change_of_roots_is() {
    let server = Server::default();
    let (one, _) = own(&server).await;
    let (two, _) = own(&server).await;
    let both_say = async |stage: &str| {
        let told = one.status().await;
        assert_eq!(told["stage"]["name"], json!(stage), "{told}");
        assert_eq!(two.status().await, told);
    };
    both_say("settled").await;
    wish(&server);
    one.tend_own().await.unwrap();
    both_say("preparing").await;
    one.tend_own().await.unwrap();
    assert!(!is_wished(&server), "the wish is granted");
    one.tend_own().await.unwrap();
    both_say("retiring").await;
    wish(&server);
    two.tend_own().await.unwrap();
    both_say("retiring").await;
    assert!(is_wished(&server), "a wish for yet another root is kept until it is its turn");
}
