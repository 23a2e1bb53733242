//! Node tokens: which node is calling, proven by a key that only the control plane has.
//!
//! A token is a JWT (HS256) with node, audience and expiry, so that it goes where Istio's tokens go. Of the
//! JWT it has the form only: the header is a constant, never read, so no token can choose its own algorithm.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{caller::Caller, clock::seconds};

/// Who tokens are meant for; a token for another service is refused.
const AUDIENCE: &str = "weft-control";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
/// Longer ones are not even parsed.
const TOKEN_BYTES_MAX: usize = 4096;
pub(crate) const KEY_BYTES: usize = 32;

/// Why a token was refused. Never says anything of the token itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is not one of this control plane")]
    Forged,
    #[error("the token is for `{audience}`, not for `{AUDIENCE}`")]
    OtherAudience { audience: String },
    #[error("the token of node {node} has expired: make a new one with `weft-control token`")]
    Expired { node: String },
    #[error("node name `{node}` is not an RFC 1123 name")]
    NodeName { node: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: String,
    node: String,
    exp: u64,
}

/// Signs and verifies.
#[derive(Debug)]
pub struct Tokens(hmac::Key);

impl Tokens {
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    pub fn issue(&self, node: &str, ttl: Duration, now: SystemTime) -> Result<String, TokenError> {
        if weft_model::ServiceAccountName::new(node).is_err() {
            return Err(TokenError::NodeName { node: crate::escape::shown(node) });
        }
        let exp = seconds(now + ttl);
        let claims = Claims { aud: AUDIENCE.to_owned(), node: node.to_owned(), exp };
        let claims = serde_json::to_vec(&claims).expect("claims are texts and a number");
        let head = format!("{}.{}", encode(HEADER.as_bytes()), encode(&claims));
        let signature = hmac::sign(&self.0, head.as_bytes());
        Ok(format!("{head}.{}", encode(signature.as_ref())))
    }

    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Caller, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Forged);
        }
        let (head, signature) = token.rsplit_once('.').ok_or(TokenError::Forged)?;
        let decode = |text| URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Forged);
        // The signature first: nothing is parsed that we did not write ourselves.
        hmac::verify(&self.0, head.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Forged)?;
        let (_, claims) = head.split_once('.').ok_or(TokenError::Forged)?;
        let claims: Claims =
            serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Forged)?;
        if claims.aud != AUDIENCE {
            return Err(TokenError::OtherAudience { audience: claims.aud });
        }
        let expires = UNIX_EPOCH + Duration::from_secs(claims.exp);
        if now >= expires {
            return Err(TokenError::Expired { node: claims.node });
        }
        Ok(Caller { node: claims.node.into(), uid: None, expires })
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests;
