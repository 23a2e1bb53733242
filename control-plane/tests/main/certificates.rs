use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use tonic::{Code, Status, transport::Channel};
use weft_certs::{Authority, KeyPair, Leaf, NodeIdentity, NodeSvid, Svid};
use weft_model::{Identity, TrustDomain};
use weft_xds::proto::auth::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};

use crate::scene::{HOUR, POD, Scene, text, with_token, within};

pub(crate) const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn identity() -> Identity {
    WEB.parse().unwrap()
}

pub(crate) fn csr() -> String {
    KeyPair::generate().unwrap().request(&identity()).unwrap()
}

pub(crate) async fn ask(
    scene: &Scene,
    token: Option<&str>,
    identity: Option<&str>,
    csr: &str,
) -> Result<Vec<String>, Status> {
    let message = match identity {
        Some(identity) => request_for(identity, &[], csr),
        None => IstioCertificateRequest { csr: csr.to_owned(), ..Default::default() },
    };
    let request = match token {
        Some(token) => with_token(message, token),
        None => tonic::Request::new(message),
    };
    send(scene.channel().await, request).await
}

fn request_for(identity: &str, pods: &[&str], csr: &str) -> IstioCertificateRequest {
    let mut fields = BTreeMap::from([("ImpersonatedIdentity".to_owned(), text(identity))]);
    if !pods.is_empty() {
        let values = pods.iter().map(|pod| text(pod)).collect();
        let list = prost_types::value::Kind::ListValue(prost_types::ListValue { values });
        fields.insert("WeftPodUids".to_owned(), prost_types::Value { kind: Some(list) });
    }
    IstioCertificateRequest {
        csr: csr.to_owned(),
        validity_duration: 600,
        metadata: Some(prost_types::Struct { fields }),
    }
}

async fn send(
    channel: Channel,
    request: tonic::Request<IstioCertificateRequest>,
) -> Result<Vec<String>, Status> {
    let mut service = IstioCertificateServiceClient::new(channel);
    let answer = within("the service answers", service.create_certificate(request)).await?;
    Ok(answer.into_inner().cert_chain)
}

/// The node's own identity document, by its token.
pub(crate) async fn node_svid(scene: &Scene, node: &str) -> NodeSvid {
    let key = KeyPair::generate().unwrap();
    let csr = key.request_node().unwrap();
    let chain = ask(scene, Some(&scene.token(node, HOUR)), None, &csr).await.unwrap();
    NodeSvid::from_pem(node, key, &chain, SystemTime::now()).unwrap()
}

/// What a cluster's token of the node with this uid would have been exchanged for.
pub(crate) fn node_svid_of(scene: &Scene, node: &str, uid: &str) -> NodeSvid {
    let read = |file| fs::read_to_string(scene.path().join("data").join(file)).unwrap();
    let (roots, key) = (read("root-cert.pem"), read("ca-key.pem"));
    let root = Authority::from_pem(&TrustDomain::default(), &roots, &key).unwrap();
    let identity = NodeIdentity::new(TrustDomain::default(), node, Some(uid)).unwrap();
    let (key, now) = (KeyPair::generate().unwrap(), SystemTime::now());
    let chain = root.issue_node(&key.request_node().unwrap(), &identity, HOUR, now).unwrap();
    NodeSvid::from_pem(node, key, &chain, now).unwrap()
}

/// How often a certificate was denied for a reason.
async fn denied(scene: &Scene, reason: &str) -> u64 {
    let metrics = scene.page("/metrics").await;
    let name = format!("weft_control_certificates_denied_total{{reason=\"{reason}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

#[tokio::test]
async fn a_nodes_token_is_exchanged_for_a_certificate_that_does_all_the_rest() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let svid = node_svid(&scene, "a").await;
    assert_eq!(svid.identity().to_string(), "spiffe://cluster.local/weft/node/a");
    let left = svid.not_after().duration_since(SystemTime::now()).unwrap();
    assert!(left <= HOUR && left > Duration::from_mins(59), "{left:?}");

    let ask = async |svid: &NodeSvid, message| {
        let channel = scene.channel_with(svid.chain_pem(), &svid.key_pem()).await.unwrap();
        send(channel, tonic::Request::new(message)).await
    };
    ask(&svid, request_for(WEB, &[], &csr())).await.unwrap();
    let renewal = KeyPair::generate().unwrap().request_node().unwrap();
    let renewal = IstioCertificateRequest { csr: renewal, ..Default::default() };
    assert_eq!(ask(&svid, renewal).await.unwrap().len(), 2);
    let other = node_svid(&scene, "b").await;
    let refused = ask(&other, request_for(WEB, &[], &csr())).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(denied(&scene, "no_such_pod").await, 1);
    scene.stop().await;
}

#[tokio::test]
async fn a_reused_pod_name_with_a_new_uid_has_no_identity_for_the_old_one() {
    let old = POD.replace("name: web,", "name: web, uid: u-1,");
    let scene = Scene::new(&[("web.yaml", &old)]).await;
    let token = scene.token("a", HOUR);
    let ask = async |pods: &[&str]| {
        let request = with_token(request_for(WEB, pods, &csr()), &token);
        send(scene.channel().await, request).await
    };
    ask(&["u-1"]).await.unwrap();
    ask(&["u-9", "u-1"]).await.unwrap();
    let before = scene.page("/debug/config").await;
    scene.write("web.yaml", &old.replace("u-1", "u-2").replace("10.0.0.1", "10.0.0.2"));
    let changed = async { while scene.page("/debug/config").await == before {} };
    within("the new pod is known", changed).await;
    let refused = ask(&["u-1"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(denied(&scene, "other_pod").await, 1);
    ask(&["u-2"]).await.unwrap();
    scene.stop().await;
}

/// The handshake fails, or what is asked on it does: TLS 1.3 clients finish before the server has judged.
async fn opens_nothing(scene: &Scene, chain: &str, key: &str) {
    let Ok(channel) = scene.channel_with(chain, key).await else { return };
    let request = tonic::Request::new(request_for(WEB, &[], &csr()));
    let refused = send(channel, request).await.expect_err("a forged certificate must open nothing");
    let cut = matches!(refused.code(), Code::Unavailable | Code::Unknown);
    assert!(cut && refused.message().contains("transport"), "the connection is cut: {refused}");
}

#[tokio::test]
async fn a_certificate_of_another_root_or_of_a_workload_opens_nothing() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let (domain, now) = (TrustDomain::default(), SystemTime::now());
    let forger = Authority::new(&domain, now).unwrap();
    let node = NodeIdentity::new(domain, "a", None).unwrap();
    let key = KeyPair::generate().unwrap();
    let chain = forger.issue_node(&key.request_node().unwrap(), &node, HOUR, now).unwrap();
    opens_nothing(&scene, &chain[0], &key.to_pem()).await;

    let key = KeyPair::generate().unwrap();
    let csr = key.request(&identity()).unwrap();
    let chain = ask(&scene, Some(&scene.token("a", HOUR)), Some(WEB), &csr).await.unwrap();
    opens_nothing(&scene, &chain[0], &key.to_pem()).await;
    assert_eq!(denied(&scene, "no_such_pod").await, 0);
    scene.stop().await;
}

#[tokio::test]
async fn a_node_gets_a_certificate_for_a_pod_that_runs_on_it() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let key = KeyPair::generate().unwrap();
    let csr = key.request(&identity()).unwrap();
    let chain = ask(&scene, Some(&scene.token("a", HOUR)), Some(WEB), &csr).await.unwrap();
    let now = SystemTime::now();
    let svid = Svid::from_pem(&identity(), key, &chain, now).unwrap();
    let left = svid.not_after().duration_since(now).unwrap();
    assert!(left <= Duration::from_mins(10) && left > Duration::from_mins(9), "{left:?}");
    let metrics = scene.page("/metrics").await;
    assert!(metrics.contains("weft_control_certificates_issued_total 1"), "{metrics}");
    scene.stop().await;
}

#[tokio::test]
async fn a_request_for_more_than_its_identity_is_refused_and_its_subject_is_not_taken_over() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let token = scene.token("a", HOUR);
    let csr = |change: fn(&mut rcgen::CertificateParams)| {
        let mut params = rcgen::CertificateParams::default();
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    };
    let named = |params: &mut rcgen::CertificateParams| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "evil.example");
    };
    let chain = ask(&scene, Some(&token), Some(WEB), &csr(named)).await.unwrap();
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    assert_eq!(*Leaf::from_der(&leaf).unwrap().identity(), identity());
    assert!(!leaf.windows(12).any(|bytes| bytes == b"evil.example"), "it is in the certificate");

    let extra = |params: &mut rcgen::CertificateParams| {
        let vault = "spiffe://cluster.local/ns/bank/sa/vault".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(vault));
    };
    let authority = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    for (reason, csr) in [("request_names", csr(extra)), ("request_ca", csr(authority))] {
        let refused = ask(&scene, Some(&token), Some(WEB), &csr).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert_eq!(refused.message(), "this node may not have that certificate");
        assert_eq!(denied(&scene, reason).await, 1);
    }
    scene.stop().await;
}

#[tokio::test]
async fn what_a_node_may_not_have_is_refused() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let (a, b) = (scene.token("a", HOUR), scene.token("b", HOUR));
    let expired = scene.token("a", Duration::ZERO);
    let foreign = "spiffe://other.domain/ns/shop/sa/web";
    let absent = "spiffe://cluster.local/ns/shop/sa/db";
    let csr = csr();
    for (what, token, identity, csr, code) in [
        ("no token", None, Some(WEB), &*csr, Code::Unauthenticated),
        ("a forged token", Some("a.b.c"), Some(WEB), &csr, Code::Unauthenticated),
        ("an expired token", Some(&*expired), Some(WEB), &csr, Code::Unauthenticated),
        ("a pod of another node", Some(&b), Some(WEB), &csr, Code::PermissionDenied),
        ("another trust domain", Some(&a), Some(foreign), &csr, Code::PermissionDenied),
        ("an account without a pod", Some(&a), Some(absent), &csr, Code::PermissionDenied),
        ("no SPIFFE ID", Some(&a), Some("https://x"), &csr, Code::InvalidArgument),
        ("no request", Some(&a), Some(WEB), "nonsense", Code::InvalidArgument),
    ] {
        let refused = ask(&scene, token, identity, csr).await.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {}", refused.message());
    }
    for (reason, times) in [
        ("no_proof", 1),
        ("token", 2),
        ("no_such_pod", 2),
        ("trust_domain", 1),
        ("bad_identity", 1),
        ("bad_request", 1),
    ] {
        assert_eq!(denied(&scene, reason).await, times, "{reason}");
    }
    scene.stop().await;
}

#[tokio::test]
async fn every_refusal_is_one_line_of_the_log_with_reason_node_and_identity() {
    let dir = Scene::new(&[("web.yaml", POD)]).await.stop().await;
    let mut scene = Scene::program(dir).await;
    let (a, b) = (scene.token("a", HOUR), scene.token("b", HOUR));
    let foreign = "spiffe://other.domain/ns/shop/sa/web";
    let forged = "spiffe://a\nINFO certificate issued";
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = params.serialize_request(&key).unwrap().pem().unwrap();
    let names = [WEB, "spiffe://cluster.local/ns/bank/sa/vault"];
    let names = names.map(|name| rcgen::SanType::URI(name.try_into().unwrap()));
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = names.into();
    let more = params.serialize_request(&key).unwrap().pem().unwrap();
    let csr = csr();
    for (reason, token, node, identity, csr) in [
        ("no_proof", None, "", WEB, &csr),
        ("token", Some("a.b.c"), "", WEB, &csr),
        ("no_such_pod", Some(&*b), "b", WEB, &csr),
        ("trust_domain", Some(&*a), "a", foreign, &csr),
        ("request_ca", Some(&a), "a", WEB, &authority),
        ("request_names", Some(&a), "a", WEB, &more),
        ("bad_identity", Some(&a), "a", forged, &csr),
    ] {
        ask(&scene, token, Some(identity), csr).await.expect_err(reason);
        // One that were told twice would be read as the next one's.
        let line = scene.warning().await;
        let identity = identity.replace('\n', "\\\\n");
        for part in ["certificate denied".to_owned(), format!("reason=\"{reason}\"")]
            .into_iter()
            .chain([format!("node=\"{node}\""), format!("identity=\"{identity}\"")])
        {
            assert!(line.contains(&part), "no {part} in {line}");
        }
    }
    scene.stop().await;
}

#[tokio::test]
async fn a_pod_that_has_finished_has_no_identity_any_more() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let token = scene.token("a", HOUR);
    ask(&scene, Some(&token), Some(WEB), &csr()).await.unwrap();
    scene.write("web.yaml", &POD.replace("Running", "Succeeded"));
    scene.until_page("/metrics", "weft_control_resources 0").await;
    let refused = ask(&scene, Some(&token), Some(WEB), &csr()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(!refused.message().contains("shop"), "the node is not told why: {}", refused.message());
    scene.stop().await;
}

#[tokio::test]
async fn a_node_that_asks_too_often_is_held_back_and_no_other_is() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let (a, b) = (scene.token("a", HOUR), scene.token("b", HOUR));
    let mut service = IstioCertificateServiceClient::new(scene.channel().await);
    let mut ask = async |token: &str| {
        let message = request_for("nobody", &[], "");
        let request = with_token(message, token);
        within("an answer", service.create_certificate(request)).await.unwrap_err().code()
    };
    let mut held_back = false;
    for _ in 0..5000 {
        held_back = ask(&a).await == Code::ResourceExhausted;
        if held_back {
            break;
        }
    }
    assert!(held_back);
    assert_eq!(ask(&b).await, Code::InvalidArgument);
    scene.stop().await;
}
