//! This node's own certificate: got once for the token, then renewed by itself.
//!
//! Whoever calls the control plane proves the node with it. While there is none (it is not configured, or the
//! control plane gives none) the token is sent instead, as a stock node does.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tracing::{info, warn};
use weft_certs::{KeyPair, NodeSvid};

use super::{
    Identities,
    ask::{Asked, CaSettings, ask, connect, roots},
    error::{NodeCertificateError, chain},
    system_now,
};

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
    doubted: Arc<Notify>,
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
        Self { held: watch::Sender::new(Held::None).subscribe(), doubted: Arc::default() }
    }

    /// The certificate and the work behind it: somebody must own and run the [`NodeRenewer`].
    pub fn new(settings: CaSettings, node: &str) -> (Self, NodeRenewer) {
        let sender = watch::Sender::new(Held::Asking);
        let doubted = Arc::new(Notify::new());
        let own = Self { held: sender.subscribe(), doubted: doubted.clone() };
        (own, NodeRenewer { settings, node: node.to_owned(), held: sender, doubted, trusted: None })
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

    /// The control plane did not take it, maybe because its root is gone: get another one for the token.
    pub fn doubt(&self) {
        self.doubted.notify_one();
    }
}

/// Keeps the certificate good. See [`NodeRenewer::run`].
#[derive(Debug)]
pub struct NodeRenewer {
    settings: CaSettings,
    node: String,
    held: watch::Sender<Held>,
    doubted: Arc<Notify>,
    /// The fingerprint of the roots that this node's identities trust.
    trusted: Option<String>,
}

/// With what a request is proven.
enum Proof<'a> {
    Certificate(&'a NodeSvid),
    Token,
}

impl NodeRenewer {
    /// Works until it is dropped.
    ///
    /// The roots that come with each certificate are given to `identities`, and the next request says so.
    pub async fn run(mut self, identities: Identities) -> Infallible {
        let mut retry = RETRY_AFTER;
        loop {
            let before = self.good();
            match self.obtain(before.as_deref()).await {
                Ok(svid) => {
                    let trusted = Some(svid.bundle().fingerprint());
                    let is_news = self.trusted != trusted;
                    if is_news {
                        identities.trust(svid.bundle());
                        self.trusted = trusted;
                    }
                    let life = svid.not_after().duration_since(system_now()).unwrap_or_default();
                    let node = svid.identity().to_string();
                    info!(node, valid_for_s = life.as_secs(), "this node has a certificate");
                    self.held.send_replace(Held::Certificate(Arc::new(svid)));
                    retry = RETRY_AFTER;
                    // What is news to us is to the control plane that we have it: it waits for that word.
                    self.rest(if is_news { Duration::ZERO } else { life / 2 }).await;
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

    /// Until a certificate is to be renewed, or doubted.
    async fn rest(&self, life: Duration) {
        let renew_at = system_now() + life;
        sleep(GAP_MIN).await;
        while system_now() < renew_at {
            tokio::select! {
                // Biased: doubt is rare and urgent.
                biased;
                () = self.doubted.notified() => return,
                () = sleep(LOOK_EVERY.min(life)) => {}
            }
        }
    }

    fn good(&self) -> Option<Arc<NodeSvid>> {
        match &*self.held.borrow() {
            Held::Certificate(svid) if system_now() < svid.not_after() => Some(svid.clone()),
            Held::Certificate(_) | Held::Asking | Held::None => None,
        }
    }

    /// By the certificate that there is; where that fails, by the token.
    async fn obtain(&self, before: Option<&NodeSvid>) -> Result<NodeSvid, NodeCertificateError> {
        if let Some(svid) = before {
            match self.request(Proof::Certificate(svid)).await {
                Ok(svid) => return Ok(svid),
                Err(error) => {
                    let error = chain(&error);
                    warn!(error, "this node's certificate is not renewed by itself: by its token");
                }
            }
        }
        self.request(Proof::Token).await
    }

    async fn request(&self, proof: Proof<'_>) -> Result<NodeSvid, NodeCertificateError> {
        let proof = match proof {
            Proof::Certificate(svid) => Some(svid),
            Proof::Token => None,
        };
        let key = KeyPair::generate()?;
        let asked = Asked {
            subject: format!("node {}", self.node),
            ttl: TTL.min(self.settings.ttl),
            metadata: self.trusted.as_deref().map(trusting),
            csr: key.request_node()?,
        };
        // Its own connection: there is one such request in half an hour.
        let channel = connect(&self.settings, &roots(&self.settings)?, proof)?;
        let answer = timeout(REQUEST_TIMEOUT, ask(&self.settings, channel, proof, asked)).await;
        let after = REQUEST_TIMEOUT;
        let chain = answer.map_err(|_| NodeCertificateError::Timeout { after })??;
        Ok(NodeSvid::from_pem(&self.node, key, &chain, system_now())?)
    }
}

fn trusting(bundle: &str) -> prost_types::Struct {
    use prost_types::{Struct, Value, value::Kind};
    let value = Value { kind: Some(Kind::StringValue(bundle.to_owned())) };
    Struct { fields: [(BUNDLE.to_owned(), value)].into() }
}
