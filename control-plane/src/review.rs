//! Tokens of Kubernetes service accounts, reviewed by the API server: which node's proxy is calling.
//!
//! A token counts only if it is bound to a pod of the mesh's own namespace that runs as a node's service
//! account, and was made for us. What a token says of itself is never believed before the API server has.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use serde::Deserialize;
use tokio::{
    sync::Semaphore,
    time::{self, Instant},
};

use crate::{caller::Caller, clock, escape::shown};

/// Reviews under way at once: a crowd of nodes must not keep the API server from its other work.
const REVIEWS_MAX: usize = 8;
/// A node tries again later; until then it must not wait for ever.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// A refused token is not asked about again and again.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// A stock proxy sends its token with every request. A pod that is deleted keeps its token for so long.
const ACCEPTED_FOR: Duration = Duration::from_secs(5);
/// What is remembered. Beyond it, tokens are asked about each time.
const REMEMBERED_MAX: usize = 4096;
/// Longer ones are not even looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// Why a token proves no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the token is no JWT")]
    Shape,
    #[error("the API server does not accept the token for `{audience}`: {reason}")]
    NotAuthenticated { audience: String, reason: String },
    #[error("the token is for `{found}`, not for `{audience}`")]
    OtherAudience { audience: String, found: String },
    #[error("the token is of `{user}`, which is no node's service account")]
    OtherUser { user: String },
    #[error("the token of `{user}` is not bound to a pod on a node: it has no {missing}")]
    Unbound { user: String, missing: &'static str },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReviewError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the API server did not review a token: {reason}")]
    Unavailable { reason: String },
    #[error("no token review within {} s", REVIEW_TIMEOUT.as_secs())]
    Late,
}

/// Whose tokens count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAccounts {
    /// The mesh's own namespace.
    pub namespace: String,
    /// The service accounts of the nodes' proxies.
    pub names: Vec<String>,
    /// What tokens must be made for.
    pub audience: String,
}

/// Asks the API server, and remembers for a moment what it said.
pub(crate) struct Reviewer {
    reviews: Api<TokenReview>,
    accounts: NodeAccounts,
    places: Semaphore,
    remembered: Mutex<HashMap<Hash, Remembered>>,
}

/// Of a token: a memory of tokens would be worth stealing.
type Hash = [u8; 32];

#[derive(Debug, Clone)]
struct Remembered {
    answer: Result<Caller, Refused>,
    until: Instant,
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").field("accounts", &self.accounts).finish_non_exhaustive()
    }
}

impl Reviewer {
    pub(crate) fn new(client: Client, accounts: NodeAccounts) -> Self {
        Self {
            reviews: Api::all(client),
            accounts,
            places: Semaphore::new(REVIEWS_MAX),
            remembered: Mutex::default(),
        }
    }

    /// The node whose proxy has this token. Cancel safe.
    pub(crate) async fn review(&self, token: &str) -> Result<Caller, ReviewError> {
        let claims = Claims::unproven(token).ok_or(Refused::Shape)?;
        let hash = hash(token);
        if let Some(answer) = self.remembered(&hash) {
            return Ok(answer?);
        }
        let asked = time::timeout(REVIEW_TIMEOUT, self.ask(token)).await;
        let status = asked.map_err(|_| ReviewError::Late)??;
        // Its expiry may be read from it: the API server has just said that it wrote it.
        let answer = judge(&status, &self.accounts, claims.expires());
        self.remember(hash, answer.clone());
        Ok(answer?)
    }

    async fn ask(&self, token: &str) -> Result<TokenReviewStatus, ReviewError> {
        let _place = self.places.acquire().await.expect("the semaphore is never closed");
        let audiences = Some(vec![self.accounts.audience.clone()]);
        let spec = TokenReviewSpec { audiences, token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.reviews.create(&PostParams::default(), &review).await;
        let answer = answer
            .map_err(|error| ReviewError::Unavailable { reason: shown(&error.to_string()) })?;
        let no_status = || ReviewError::Unavailable { reason: "it said nothing".to_owned() };
        answer.status.ok_or_else(no_status)
    }

    fn remembered(&self, hash: &Hash) -> Option<Result<Caller, Refused>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let found = remembered.get(hash)?;
        (clock::instant() < found.until).then(|| found.answer.clone())
    }

    fn remember(&self, hash: Hash, answer: Result<Caller, Refused>) {
        let now = clock::instant();
        let until = now + if answer.is_ok() { ACCEPTED_FOR } else { REFUSED_FOR };
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, found| now < found.until);
        }
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(hash, Remembered { answer, until });
        }
    }
}

fn hash(token: &str) -> Hash {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// What a token says of itself, of which nothing is proven.
#[derive(Debug, Deserialize)]
struct Claims {
    exp: u64,
}

impl Claims {
    /// `None`: no JWT, so the API server need not be asked.
    fn unproven(token: &str) -> Option<Self> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let mut parts = token.split('.');
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || decode(signature)?.is_empty() {
            return None;
        }
        serde_json::from_slice::<serde_json::Map<_, _>>(&decode(header)?).ok()?;
        serde_json::from_slice(&decode(claims)?).ok()
    }

    fn expires(&self) -> SystemTime {
        // A far bound, so that no sum of ours can overflow.
        UNIX_EPOCH + Duration::from_secs(self.exp.min(u64::from(u32::MAX)))
    }
}

/// What a review comes to.
fn judge(
    status: &TokenReviewStatus,
    accounts: &NodeAccounts,
    expires: SystemTime,
) -> Result<Caller, Refused> {
    let audience = || accounts.audience.clone();
    if status.authenticated != Some(true) {
        let reason = shown(status.error.as_deref().unwrap_or("no reason is given"));
        return Err(Refused::NotAuthenticated { audience: audience(), reason });
    }
    // An API server that knows no audiences answers without any: the token may then be for anybody.
    let found = status.audiences.as_deref().unwrap_or_default();
    if !found.contains(&accounts.audience) {
        return Err(Refused::OtherAudience {
            audience: audience(),
            found: shown(&found.join(" ")),
        });
    }
    let user = status.user.as_ref();
    let name = user.and_then(|user| user.username.as_deref()).unwrap_or_default();
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .filter(|(namespace, _)| *namespace == accounts.namespace)
        .map(|(_, account)| account);
    if !account.is_some_and(|account| accounts.names.iter().any(|name| name == account)) {
        return Err(Refused::OtherUser { user: shown(name) });
    }
    let extra = |key: &'static str| {
        let values = user.and_then(|user| user.extra.as_ref()?.get(key));
        match values.map(Vec::as_slice) {
            Some([value]) if !value.is_empty() => Ok(Arc::from(value.as_str())),
            _ => Err(Refused::Unbound { user: shown(name), missing: key }),
        }
    };
    // A token that is bound to a pod dies with it; one that is not would live on.
    extra(POD_NAME)?;
    extra(POD_UID)?;
    Ok(Caller { node: extra(NODE_NAME)?, uid: Some(extra(NODE_UID)?), expires })
}

#[cfg(test)]
mod tests;
