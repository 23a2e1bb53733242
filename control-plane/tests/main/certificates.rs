use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use tonic::{Code, Status};
use weft_certs::{KeyPair, Leaf, Svid};
use weft_model::Identity;
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
    let fields = identity.map(|id| ("ImpersonatedIdentity".to_owned(), text(id)));
    let message = IstioCertificateRequest {
        csr: csr.to_owned(),
        validity_duration: 600,
        metadata: Some(prost_types::Struct { fields: BTreeMap::from_iter(fields) }),
    };
    let request = match token {
        Some(token) => with_token(message, token),
        None => tonic::Request::new(message),
    };
    let mut service = IstioCertificateServiceClient::new(scene.channel().await);
    let answer = within("the service answers", service.create_certificate(request)).await?;
    Ok(answer.into_inner().cert_chain)
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
async fn names_and_extensions_in_a_request_are_not_taken_over() {
    let scene = Scene::new(&[("web.yaml", POD)]).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(rcgen::SanType::URI("spiffe://cluster.local/ns/bank/sa/vault".try_into().unwrap()));
    params.is_ca = rcgen::IsCa::NoCa;
    params.distinguished_name.push(rcgen::DnType::CommonName, "evil.example");
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let chain = ask(&scene, Some(&scene.token("a", HOUR)), Some(WEB), &csr).await.unwrap();
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    assert_eq!(*Leaf::from_der(&leaf).unwrap().identity(), identity());
    for stray in ["evil.example", "vault"] {
        let found = leaf.windows(stray.len()).any(|bytes| bytes == stray.as_bytes());
        assert!(!found, "{stray} is in the certificate");
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
        ("no identity", Some(&a), None, &csr, Code::InvalidArgument),
        ("no SPIFFE ID", Some(&a), Some("https://x"), &csr, Code::InvalidArgument),
        ("no request", Some(&a), Some(WEB), "nonsense", Code::InvalidArgument),
    ] {
        let refused = ask(&scene, token, identity, csr).await.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {}", refused.message());
    }
    let metrics = scene.page("/metrics").await;
    assert!(metrics.contains("weft_control_certificates_denied_total 9"), "{metrics}");
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
        let fields = BTreeMap::from([("ImpersonatedIdentity".to_owned(), text("nobody"))]);
        let metadata = Some(prost_types::Struct { fields });
        let message = IstioCertificateRequest { metadata, ..IstioCertificateRequest::default() };
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
