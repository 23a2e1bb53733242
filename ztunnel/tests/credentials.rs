//! Certificates that prove nothing, as a whole proxy meets them: refused, named in the log, and no byte passes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::{
    ClientConfig, ServerConfig,
    client::ResolvesClientCert,
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_certs::Authority;
use weft_model::TrustDomain;
use ztunnel::{config::Metrics, telemetry::Telemetry, worker::Svids};
use ztunnel_core::{Direction, End, Failure, Outcome};

use crate::{
    fixture::{Ca, Mesh, WEB, at, identity, run},
    written::written,
};

type Change = fn(&mut CertificateParams);

/// A leaf that no authority of ours would sign.
struct Forged {
    what: &'static str,
    change: Change,
    signer: Signer,
    /// What the log says of it, after the name that it claims.
    said: &'static str,
}

#[derive(Clone, Copy)]
enum Signer {
    Ours,
    /// Of the same trust domain's name, with another key.
    Another,
    Itself,
}

fn since_epoch(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + from.duration_since(UNIX_EPOCH).unwrap();
    params.not_after = epoch + to.duration_since(UNIX_EPOCH).unwrap();
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

const HOUR: Duration = Duration::from_hours(1);
/// What a clock may be wrong by: much more than the minute that is forgiven.
const SKEW: Duration = Duration::from_mins(10);

const FORGED: &[Forged] = &[
    Forged {
        what: "expired",
        change: |p| {
            let now = SystemTime::now();
            since_epoch(p, now - 2 * HOUR, now - HOUR);
        },
        signer: Signer::Ours,
        said: "expired",
    },
    Forged {
        what: "of a CA whose clock is ten minutes ahead",
        change: |p| {
            let now = SystemTime::now();
            since_epoch(p, now + SKEW, now + HOUR);
        },
        signer: Signer::Ours,
        said: "is not valid before",
    },
    Forged {
        what: "a CA's",
        change: |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        signer: Signer::Ours,
        said: "is a CA's, not a workload's",
    },
    Forged {
        what: "of two identities",
        change: |p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/admin")),
        signer: Signer::Ours,
        said: "has 2 URI SANs, not one",
    },
    Forged {
        what: "of another authority",
        change: |_| {},
        signer: Signer::Another,
        said: "which is none of ours",
    },
    Forged {
        what: "self-signed",
        change: |_| {},
        signer: Signer::Itself,
        said: "which is none of ours",
    },
];

/// As a client's only: for a server another identity than the expected one says more.
const FOREIGN: Forged = Forged {
    what: "of another trust domain",
    change: |p| p.subject_alt_names = vec![uri("spiffe://other.example/ns/shop/sa/client")],
    signer: Signer::Ours,
    said: "of another trust domain than ours, cluster.local",
};

fn forge(ca: &Ca, name: &str, forged: &Forged) -> Arc<CertifiedKey> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let now = SystemTime::now();
    since_epoch(&mut params, now - Duration::from_mins(1), now + HOUR);
    params.subject_alt_names = vec![uri(&identity(name).to_string())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (forged.change)(&mut params);
    let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let another = Authority::new(&TrustDomain::default(), now).unwrap();
    let signed_by = |authority: &Authority| {
        let key_of_ca = rcgen::KeyPair::from_pem(&authority.key_pem()).unwrap();
        let root = authority.bundle().certificates().first().unwrap();
        let issuer = Issuer::from_ca_cert_der(root, key_of_ca).unwrap();
        params.signed_by(&key, &issuer).unwrap()
    };
    let certificate = match forged.signer {
        Signer::Ours => signed_by(&ca.authority),
        Signer::Another => signed_by(&another),
        Signer::Itself => params.self_signed(&key).unwrap(),
    };
    let der = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
    Arc::new(CertifiedKey::new(vec![certificate.into()], signing))
}

/// Shows one certificate to everybody.
#[derive(Debug)]
struct Shows(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

/// The access-log line of an outcome.
fn logged(outcome: &Outcome) -> String {
    written(|| Telemetry::new(&Metrics::default(), 1, None).worker(0).ended(outcome))
}

/// The newest outcome says why in the log, and counts as a handshake that failed.
fn is_refused(outcome: &Outcome, what: &str, said: &str) {
    assert!(matches!(outcome.end, End::Failed(Failure::Handshake { .. })), "{what}: {outcome:?}");
    let line = logged(outcome);
    assert!(line.contains(said), "{what}: {line}");
    // Rust's own form of a value is for us, not for who reads a log.
    assert!(!line.contains("Error("), "{what}: {line}");
}

async fn call_with(mesh: &Mesh, shown: Option<Arc<CertifiedKey>>) {
    let svid = mesh.ca.svid(&identity("client")).await.unwrap();
    let config = weft_certs::client_config(&svid, &[identity("web")]);
    let mut config = ClientConfig::clone(&config);
    config.client_auth_cert_resolver = Arc::new(Shows(shown));
    let stream = TcpStream::connect(mesh.places.find(at(WEB, 15008))).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    // In TLS 1.3 the client is done before the server has looked at its certificate.
    if let Ok(mut tls) = connector.connect(weft_certs::server_name(), stream).await {
        let ended = tls.read(&mut [0; 1]).await;
        assert!(!matches!(ended, Ok(1..)), "the proxy answered");
    }
}

#[test]
fn a_caller_whose_certificate_proves_nothing_is_refused_and_named() {
    run(async {
        let (mesh, _client, _web) = Mesh::pair();
        let _app = mesh.serve_web().await;
        for (count, forged) in FORGED.iter().chain([&FOREIGN]).enumerate() {
            let shown = forge(&mesh.ca, "client", forged);
            call_with(&mesh, Some(shown)).await;
            let outcomes = mesh.outcomes(count + 1).await;
            is_refused(outcomes.last().unwrap(), forged.what, forged.said);
        }
    });
}

#[test]
fn a_caller_without_a_certificate_is_refused_and_named() {
    run(async {
        let (mesh, _client, _web) = Mesh::pair();
        call_with(&mesh, None).await;
        let outcomes = mesh.outcomes(1).await;
        is_refused(outcomes.last().unwrap(), "none", "no certificate");
    });
}

#[test]
fn a_server_whose_certificate_proves_nothing_gets_no_byte_and_is_named() {
    run(async {
        let (mesh, pod, _web) = Mesh::pair();
        let svid = mesh.ca.svid(&identity("web")).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        mesh.places.put(at(WEB, 15008), listener.local_addr().unwrap());
        for (count, forged) in FORGED.iter().enumerate() {
            let mut config = ServerConfig::clone(&weft_certs::server_config(&svid));
            config.cert_resolver = Arc::new(Shows(Some(forge(&mesh.ca, "web", forged))));
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let serving = async {
                let (stream, _) = listener.accept().await.unwrap();
                assert!(acceptor.accept(stream).await.is_err(), "{}", forged.what);
            };
            let calling = async {
                let mut caller = TcpStream::connect(pod.captured).await.unwrap();
                let error = caller.read(&mut [0; 1]).await.unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            };
            tokio::join!(serving, calling);
            let outcomes = mesh.outcomes(count + 1).await;
            let outcome = outcomes.last().unwrap();
            assert_eq!(outcome.parties.direction, Direction::Outbound);
            is_refused(outcome, forged.what, forged.said);
        }
    });
}

#[test]
fn a_ca_that_refuses_costs_the_connections_that_need_it_and_no_other() {
    run(async {
        let (mesh, pod, _web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let open = TcpStream::connect(pod.captured).await.unwrap();
        let (mut served, _) = app.accept().await.unwrap();
        mesh.ca.refuses.set(true);
        let mut refused = TcpStream::connect(pod.captured).await.unwrap();
        let error = refused.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let outcomes = mesh.outcomes(1).await;
        let line = logged(outcomes.last().unwrap());
        let said = "no certificate for spiffe://cluster.local/ns/shop/sa/client: not today";
        assert!(line.contains(said), "{line}");

        drop(open);
        assert_eq!(served.read(&mut [0; 1]).await.unwrap(), 0, "the open one was carried on");
        mesh.ca.refuses.set(false);
        let _again = TcpStream::connect(pod.captured).await.unwrap();
        app.accept().await.unwrap();
    });
}
