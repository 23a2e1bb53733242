//! What of the CA is in one namespace, read and written.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tracing::{debug, info, warn};
use weft_certs::{Authority, Bundle, BundleError, IssuingCa};
use weft_model::TrustDomain;

use super::{
    LostRoot, TrustError,
    error::api_error,
    plugin::Parts,
    published::{BUNDLE, FIELD, News, Published},
    rotation::{Roots, Wish},
    stored::{self, Data, ISSUING, ROOT},
};
use crate::clock;

/// Of the ConfigMap: whoever sets it, to whatever value, wants another root. Taken off when that has begun.
const ROTATE: &str = "weft.mesh/rotate-root";
const ISSUING_LIFE: Duration = Duration::from_hours(30 * 24);

/// Secrets and `ConfigMap`s of one namespace.
pub(super) struct Place {
    pub(super) secrets: Api<Secret>,
    pub(super) maps: Api<ConfigMap>,
    pub(super) domain: TrustDomain,
}

/// An authority, and what it was made of.
pub(super) struct Opened {
    pub(super) authority: Authority,
    pub(super) of: MadeOf,
}

#[derive(Clone)]
pub(super) struct MadeOf {
    /// Of which any change is another CA.
    fields: String,
    pub(super) roots: Bundle,
    /// The names of those roots, and of others that nodes were given, by each of which it is accepted.
    pub(super) signers: BTreeSet<String>,
}

impl MadeOf {
    /// Whatever nodes were given since.
    pub(super) fn is_same_ca(&self, other: &Self) -> bool {
        self.fields == other.fields && self.roots == other.roots
    }
}

impl Place {
    /// At the start: makes what was never there.
    pub(super) async fn first(&self, lost: LostRoot) -> Result<Opened, TrustError> {
        let now = clock::now();
        if self.secret(ROOT).await?.is_none() {
            let sign = self.sign_of_a_root().await?;
            match (sign, lost) {
                (Some(sign), LostRoot::Refuse) => return Err(TrustError::Lost { sign }),
                (Some(sign), LostRoot::Replace) => {
                    warn!(
                        sign,
                        "a new root is made, as --reset-trust says: every node must be given it"
                    );
                }
                (None, _) => info!("the mesh's first root is made"),
            }
            let roots = Roots::first(&self.domain, now)?;
            // Another replica may be faster: then its root counts.
            self.create(ROOT, stored::of_roots(&roots)).await?;
        }
        let (_, roots) = match (self.own_roots().await, lost) {
            (Err(other @ TrustError::Other { .. }), LostRoot::Replace) => {
                warn!(error = %other, "its root signs, as --reset-trust says");
                self.roots().await?
            }
            (found, LostRoot::Refuse | LostRoot::Replace) => found?,
        };
        // First: whoever looks from now on holds the Secret against it.
        self.publish_own(&roots, now).await?;
        self.issuing(&roots, now).await
    }

    /// Our own roots, if the one that signs as nodes were told is among them.
    pub(super) async fn own_roots(&self) -> Result<(Secret, Roots), TrustError> {
        let (secret, roots) = self.roots().await?;
        // What cannot be read says nothing, and is written anew.
        let published = self.map().await?.and_then(|map| Published::of(&map).ok().flatten());
        let ours = roots.bundle()?;
        match published.as_ref().and_then(|published| published.signer_other_than(&ours)) {
            None => Ok((secret, roots)),
            Some(published) => Err(TrustError::Other { published }),
        }
    }

    /// What says that nodes may trust a root.
    async fn sign_of_a_root(&self) -> Result<Option<&'static str>, TrustError> {
        if self.secret(ISSUING).await?.is_some() {
            return Ok(Some("Secret weft-issuing-ca"));
        }
        let map = self.map().await?;
        let roots = map.and_then(|map| map.data).is_some_and(|data| data.contains_key(FIELD));
        Ok(roots.then_some("ConfigMap weft-trust-bundle"))
    }

    /// What is kept of our own, read only.
    pub(super) async fn kept(&self) -> Result<Opened, TrustError> {
        let (_, roots) = self.own_roots().await?;
        let missing = || TrustError::Missing { name: ISSUING.to_owned() };
        let secret = self.secret(ISSUING).await?.ok_or_else(missing)?;
        let ca = stored::issuing(&secret);
        let ca = ca.map_err(|source| TrustError::Stored { name: ISSUING, source })?;
        self.open(&roots, &ca, clock::now())
    }

    /// The CA of a Secret.
    pub(super) async fn plugged_in(
        &self,
        name: &str,
        published: Option<&Published>,
        now: SystemTime,
    ) -> Result<Opened, TrustError> {
        let secret = self.secret(name).await?;
        let secret = secret.ok_or_else(|| TrustError::Missing { name: name.to_owned() })?;
        let no_ca = |source| TrustError::PlugIn { name: name.to_owned(), source };
        let parts = Parts::of(&secret).map_err(no_ca)?;
        let authority = parts.authority(&self.domain, now).map_err(no_ca)?;
        let signers = parts.signers(&self.domain, published.map(|p| &p.roots), now);
        let (fields, roots) =
            (format!("{:?}", stored::data_of(&secret)), authority.bundle().clone());
        Ok(Opened { authority, of: MadeOf { fields, roots, signers } })
    }

    pub(super) async fn roots(&self) -> Result<(Secret, Roots), TrustError> {
        let missing = || TrustError::Missing { name: ROOT.to_owned() };
        let secret = self.secret(ROOT).await?.ok_or_else(missing)?;
        let roots = stored::roots(&secret);
        let roots = roots.map_err(|source| TrustError::Stored { name: ROOT, source })?;
        Ok((secret, roots))
    }

    /// The issuing CA, made anew if there is none, it is past half its life, or it is under another root.
    pub(super) async fn issuing(
        &self,
        roots: &Roots,
        now: SystemTime,
    ) -> Result<Opened, TrustError> {
        let found = self.secret(ISSUING).await?;
        if let Some(secret) = &found
            && let Ok(ca) = stored::issuing(secret)
            && self.is_under(roots, &ca, now)
            && let Ok(opened) = self.open(roots, &ca, now)
            && now < opened.authority.not_before() + ISSUING_LIFE / 2
        {
            return Ok(opened);
        }
        let ca = roots.authority(&self.domain)?.issuing_ca(ISSUING_LIFE, now)?;
        match found {
            None => self.create(ISSUING, stored::of_issuing(&ca)).await?,
            Some(secret) => self.replace(ISSUING, secret, stored::of_issuing(&ca)).await?,
        }
        info!("the issuing CA is made anew");
        // What is there now, be it ours or that of a faster replica.
        self.kept().await
    }

    /// Whether the root that signs has signed it, and not the one before.
    fn is_under(&self, roots: &Roots, ca: &IssuingCa, now: SystemTime) -> bool {
        let own = Bundle::from_pem(&roots.active.certificate);
        own.is_ok_and(|own| {
            Authority::issuing(&self.domain, &ca.certificate, &ca.key, &own, now).is_ok()
        })
    }

    fn open(&self, roots: &Roots, ca: &IssuingCa, now: SystemTime) -> Result<Opened, TrustError> {
        let chain = format!("{}{}", ca.certificate, roots.cross());
        let bundle = roots.bundle()?;
        let authority = Authority::issuing(&self.domain, &chain, &ca.key, &bundle, now)?;
        let signers = signers(roots)?;
        Ok(Opened { authority, of: MadeOf { fields: chain, roots: bundle, signers } })
    }

    pub(super) async fn publish_own(
        &self,
        roots: &Roots,
        now: SystemTime,
    ) -> Result<(), TrustError> {
        self.publish(&roots.bundle()?, &signers(roots)?, now).await
    }

    /// Writes the roots for all to read, and by which of them is signed.
    pub(super) async fn publish(
        &self,
        roots: &Bundle,
        signers: &BTreeSet<String>,
        now: SystemTime,
    ) -> Result<(), TrustError> {
        let post = PostParams::default();
        let written = match self.map().await? {
            None => {
                let mut map = ConfigMap { metadata: metadata(BUNDLE), ..ConfigMap::default() };
                Published::after(None, roots, signers, now).put(&mut map);
                self.maps.create(&post, &map).await
            }
            Some(mut map) => {
                // One that cannot be read says nothing.
                let before = Published::of(&map).ok().flatten();
                match Published::after(before.as_ref(), roots, signers, now).put(&mut map) {
                    News::None => return Ok(()),
                    News::Some => self.maps.replace(BUNDLE, &post, &map).await,
                }
            }
        };
        unless_written_since(written).map_err(|source| api_error("write", BUNDLE, source))
    }

    /// Whether somebody wants another root.
    pub(super) async fn wish(&self) -> Result<Wish, TrustError> {
        let annotations = self.map().await?.and_then(|map| map.metadata.annotations);
        let asked = annotations.is_some_and(|all| all.contains_key(ROTATE));
        Ok(if asked { Wish::Rotate } else { Wish::None })
    }

    /// What is published, and since when there is a map for it.
    pub(super) async fn published(&self) -> Result<(Option<Published>, Option<Time>), TrustError> {
        let Some(map) = self.map().await? else { return Ok((None, None)) };
        let published = Published::of(&map).map_err(TrustError::Published)?;
        Ok((published, map.metadata.creation_timestamp))
    }

    async fn map(&self) -> Result<Option<ConfigMap>, TrustError> {
        self.maps.get_opt(BUNDLE).await.map_err(|source| api_error("read", BUNDLE, source))
    }

    /// The wish for another root is granted.
    pub(super) async fn granted(&self) -> Result<(), TrustError> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ROTATE: null}}}));
        let patched = self.maps.patch(BUNDLE, &PatchParams::default(), &patch).await;
        patched.map(drop).map_err(|source| api_error("write", BUNDLE, source))
    }

    async fn secret(&self, name: &str) -> Result<Option<Secret>, TrustError> {
        self.secrets.get_opt(name).await.map_err(|source| api_error("read", name, source))
    }

    /// Never over one that is there.
    async fn create(&self, name: &str, data: Data) -> Result<(), TrustError> {
        let metadata = metadata(name);
        let secret = Secret { metadata, data: Some(data), ..Secret::default() };
        let created = self.secrets.create(&PostParams::default(), &secret).await;
        unless_written_since(created).map_err(|source| api_error("make", name, source))
    }

    /// Only the version that was read: whoever wrote since is not overwritten, and the next look sees it.
    pub(super) async fn replace(
        &self,
        name: &str,
        mut secret: Secret,
        data: Data,
    ) -> Result<(), TrustError> {
        secret.data = Some(data);
        let replaced = self.secrets.replace(name, &PostParams::default(), &secret).await;
        unless_written_since(replaced).map_err(|source| api_error("write", name, source))
    }
}

fn signers(roots: &Roots) -> Result<BTreeSet<String>, BundleError> {
    Ok(Bundle::from_pem(&roots.active.certificate)?.names())
}

/// Another replica that was faster is no error.
pub(super) fn unless_written_since<T>(written: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match written {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            debug!(reason = status.reason, "another has written since");
            Ok(())
        }
        other => other.map(drop),
    }
}

pub(super) fn metadata(name: &str) -> ObjectMeta {
    let labels = [("app.kubernetes.io/managed-by".to_owned(), "weft-control".to_owned())];
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels.into()), ..ObjectMeta::default() }
}
