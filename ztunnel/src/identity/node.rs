//! This node's own certificate: got once for the token, then renewed by itself.
//!
//! Whoever calls the control plane proves the node with it. While there is none (it is not configured, or the
//! control plane gives none) the token is sent instead, as a stock node does.

use std::{convert::Infallible, fs, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Code, Status};
use tracing::{info, warn};
use weft_certs::{Bundle, KeyPair, NodeSvid};

use super::{
    Identities,
    ask::{Asked, CaSettings, ask, connect},
    error::{NodeCertificateError, ServiceError},
    system_now,
};
use crate::causes::chain;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The life asked for. Short: whoever steals the key has it for no longer.
const TTL: Duration = Duration::from_hours(1);
const RETRY_AFTER: Duration = Duration::from_secs(5);
const RETRY_AFTER_MAX: Duration = Duration::from_mins(2);
/// Which roots a node says to trust, by their fingerprint.
const BUNDLE: &str = "WeftTrustBundle";
/// Between two attempts, whatever life the certificates have and however often they are doubted.
const GAP_MIN: Duration = Duration::from_secs(1);
/// Certificates live by the wall clock and sleepers by the steady one: a step of it is noticed this late.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The certificate in force, for whoever calls the control plane. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeCertificate {
    held: watch::Receiver<Held>,
    /// What the control plane did not take.
    doubted: watch::Sender<Option<Arc<NodeSvid>>>,
}

#[derive(Debug, Clone)]
enum Held {
    /// The first request is under way.
    Asking,
    Certificate(Arc<NodeSvid>),
    None,
}

impl NodeCertificate {
    /// Of a node that has none and asks for none.
    pub fn none() -> Self {
        Self { held: watch::Sender::new(Held::None).subscribe(), doubted: watch::Sender::default() }
    }

    /// The certificate and the work behind it: somebody must own and run the [`NodeRenewer`]. `files` are those of
    /// the roots by which the control plane is proven to this node.
    pub fn new(settings: CaSettings, node: &str, files: Vec<PathBuf>) -> (Self, NodeRenewer) {
        let sender = watch::Sender::new(Held::Asking);
        let own = Self { held: sender.subscribe(), doubted: watch::Sender::default() };
        let (node, doubted) = (node.to_owned(), own.doubted.subscribe());
        let renewer =
            NodeRenewer { settings, node, files, held: sender, doubted, trusted: None, said: None };
        (own, renewer)
    }

    /// What the node proves itself with; waits until the first request for it was answered. `None`: nothing
    /// but its token. Cancel safe.
    pub async fn current(&self) -> Option<Arc<NodeSvid>> {
        let mut held = self.held.clone();
        let held = held.wait_for(|held| !matches!(held, Held::Asking)).await.ok()?;
        match &*held {
            Held::Certificate(svid) if system_now() < svid.not_after() => Some(svid.clone()),
            Held::Certificate(_) | Held::Asking | Held::None => None,
        }
    }

    /// The control plane answered this to who proved itself with `svid`. Where it did not take that, maybe
    /// because its root is gone or the node was made again, another one is got for the token.
    pub fn failed(&self, svid: &Arc<NodeSvid>, status: &Status) {
        if is_refusal(status) {
            self.doubted.send_replace(Some(svid.clone()));
        }
    }
}

/// Keeps the certificate good. See [`NodeRenewer::run`].
#[derive(Debug)]
pub struct NodeRenewer {
    settings: CaSettings,
    node: String,
    files: Vec<PathBuf>,
    held: watch::Sender<Held>,
    doubted: watch::Receiver<Option<Arc<NodeSvid>>>,
    /// The roots that this node's identities trust.
    trusted: Option<Bundle>,
    /// The fingerprint of those that the control plane was told last.
    said: Option<String>,
}

/// With what a request is proven.
enum Proof<'a> {
    Certificate(&'a NodeSvid),
    Token,
}

impl Proof<'_> {
    fn label(&self) -> &'static str {
        match self {
            Self::Certificate(_) => "certificate",
            Self::Token => "token",
        }
    }
}

impl NodeRenewer {
    /// Works until it is dropped.
    ///
    /// The roots that come with each certificate are given to `identities`, and the next request says so, if the
    /// files hold them too: a node that trusted less than it says would lose the control plane with its old root.
    pub async fn run(mut self, identities: Identities) -> Infallible {
        let mut retry = RETRY_AFTER;
        loop {
            let before = self.good();
            let says = self.says(&identities);
            match self.obtain(before.as_ref(), says.as_deref()).await {
                Ok(svid) => {
                    self.said = says;
                    if self.trusted.as_ref() != Some(svid.bundle()) {
                        identities.trust(svid.bundle());
                        self.trusted = Some(svid.bundle().clone());
                    }
                    let life = svid.not_after().duration_since(system_now()).unwrap_or_default();
                    let node = svid.identity().to_string();
                    info!(node, valid_for_s = life.as_secs(), "this node has a certificate");
                    let svid = Arc::new(svid);
                    self.held.send_replace(Held::Certificate(svid.clone()));
                    retry = RETRY_AFTER;
                    self.rest(&svid, life / 2, &identities).await;
                }
                Err(error) => {
                    let retry_in_ms = retry.as_millis();
                    let error = chain(&error);
                    warn!(error, retry_in_ms, "this node gets no certificate of its own");
                    if before.is_none() {
                        self.held.send_replace(Held::None);
                    }
                    sleep(retry).await;
                    retry = (retry * 2).min(RETRY_AFTER_MAX);
                }
            }
        }
    }

    /// The fingerprint of the roots that all of this node trusts.
    fn says(&self, identities: &Identities) -> Option<String> {
        let mut least = self.trusted.clone().filter(|roots| identities.all_trust(roots))?;
        for file in &self.files {
            let held = Bundle::from_pem(&fs::read_to_string(file).ok()?).ok()?;
            least = match (has(&held, &least), has(&least, &held)) {
                (true, _) => least,
                (false, true) => held,
                (false, false) => return None,
            };
        }
        Some(least.fingerprint())
    }

    /// Until a certificate is to be renewed, or doubted, or there is something else to say: the control plane waits
    /// for that word.
    async fn rest(&self, svid: &Arc<NodeSvid>, life: Duration, identities: &Identities) {
        let renew_at = system_now() + life;
        let mut doubted = self.doubted.clone();
        sleep(GAP_MIN).await;
        while system_now() < renew_at && self.says(identities) == self.said {
            let look = sleep(LOOK_EVERY.min(life));
            tokio::select! {
                // Biased: doubt is rare and urgent.
                biased;
                Ok(_) = doubted.wait_for(|doubted| is_of(doubted.as_ref(), svid)) => return,
                () = look => {}
            }
        }
    }

    fn good(&self) -> Option<Arc<NodeSvid>> {
        match &*self.held.borrow() {
            Held::Certificate(svid) if system_now() < svid.not_after() => Some(svid.clone()),
            Held::Certificate(_) | Held::Asking | Held::None => None,
        }
    }

    /// By the certificate that there is; where that fails, by the token. The other way round where the
    /// certificate is doubted: it may renew itself, and not be taken all the same.
    async fn obtain(
        &self,
        before: Option<&Arc<NodeSvid>>,
        says: Option<&str>,
    ) -> Result<NodeSvid, NodeCertificateError> {
        let Some(svid) = before else { return self.request(Proof::Token, says).await };
        let (first, second) = if is_of(self.doubted.borrow().as_ref(), svid) {
            (Proof::Token, Proof::Certificate(svid))
        } else {
            (Proof::Certificate(svid), Proof::Token)
        };
        let by = first.label();
        match self.request(first, says).await {
            Ok(svid) => Ok(svid),
            Err(error) => {
                let error = chain(&error);
                warn!(error, by, "this node's certificate is not renewed this way: by the other");
                self.request(second, says).await
            }
        }
    }

    async fn request(
        &self,
        proof: Proof<'_>,
        says: Option<&str>,
    ) -> Result<NodeSvid, NodeCertificateError> {
        let proof = match proof {
            Proof::Certificate(svid) => Some(svid),
            Proof::Token => None,
        };
        let key = KeyPair::generate()?;
        let asked = Asked {
            subject: format!("node {}", self.node),
            ttl: TTL.min(self.settings.ttl),
            metadata: says.map(trusting),
            csr: key.request_node()?,
        };
        // Its own connection: there is one such request in half an hour.
        let remote = &self.settings.remote;
        let channel = connect(remote, &remote.roots().map_err(ServiceError::from)?, proof)?;
        let answer = timeout(REQUEST_TIMEOUT, ask(remote, channel, proof, asked)).await;
        let after = REQUEST_TIMEOUT;
        let chain = answer.map_err(|_| NodeCertificateError::Timeout { after })??;
        Ok(NodeSvid::from_pem(&self.node, key, &chain, system_now())?)
    }
}

fn has(roots: &Bundle, others: &Bundle) -> bool {
    others.certificates().iter().all(|root| roots.certificates().contains(root))
}

fn is_of(doubted: Option<&Arc<NodeSvid>>, svid: &Arc<NodeSvid>) -> bool {
    doubted.is_some_and(|doubted| Arc::ptr_eq(doubted, svid))
}

/// Whether a certificate was not taken. Nothing else is a reason to have the token reviewed: a control plane
/// that is away must not be asked by all nodes for another certificate when it comes back.
pub(super) fn is_refusal(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || is_alert(status)
}

/// Whether the peer ended the TLS session: in 1.3 it judges our certificate when we are already talking.
fn is_alert(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        // What TLS has against a peer is data that is invalid; a network that fails is any other kind.
        let io = error.downcast_ref::<io::Error>();
        let io = io.or_else(|| error.downcast_ref::<h2::Error>()?.get_io());
        if let Some(io) = io
            && io.kind() == io::ErrorKind::InvalidData
        {
            let tls = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            // HTTP/2 keeps no more than the kind, and comes after our own judgement of the peer.
            return tls.is_none_or(|tls| matches!(tls, rustls::Error::AlertReceived(_)));
        }
        cause = error.source();
    }
    false
}

fn trusting(bundle: &str) -> prost_types::Struct {
    use prost_types::{Struct, Value, value::Kind};
    let value = Value { kind: Some(Kind::StringValue(bundle.to_owned())) };
    Struct { fields: [(BUNDLE.to_owned(), value)].into() }
}
