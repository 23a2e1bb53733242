//! The mesh's CA in Secrets: made once, renewed, changed, and never made again by itself.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use weft_certs::{Authority, Bundle, KeyPair, NodeSvid};
use weft_control::{CaSource, LostRoot};
use weft_model::TrustDomain;
use weft_tests::{kube::eventually, lab::LONG};

use crate::mesh::{Control, MESH, cluster, roots, secrets, trusting};

fn field(secret: &Secret, field: &str) -> Option<Vec<u8>> {
    secret.data.as_ref()?.get(field).map(|bytes| bytes.0.clone())
}

#[tokio::test]
async fn two_replicas_that_start_at_once_make_one_root_and_a_restart_keeps_it() -> Result<()> {
    let cluster = cluster().await?;
    let (one, two) = tokio::join!(Control::start(&cluster), Control::start(&cluster));
    let (one, two) = (one?, two?);
    let published = roots(&cluster).await?.context("the roots are published")?;
    let root = secrets(&cluster)?.get("weft-root-ca").await?;
    assert_eq!(field(&root, "tls.crt"), Some(published.clone().into_bytes()));
    for control in [&one, &two] {
        let svid = control.node_svid(&cluster).await?;
        assert_eq!(svid.bundle(), &Bundle::from_pem(&published)?);
    }
    one.stop().await?;
    two.stop().await?;
    let again = Control::start(&cluster).await?;
    assert_eq!(roots(&cluster).await?.as_ref(), Some(&published));
    assert_eq!(secrets(&cluster)?.get("weft-root-ca").await?.data, root.data);
    again.stop().await
}

#[tokio::test]
async fn an_issuing_ca_past_half_its_life_is_made_anew_under_the_same_root() -> Result<()> {
    let cluster = cluster().await?;
    let control = Control::start(&cluster).await?;
    let svid = control.node_svid(&cluster).await?;
    let secrets = secrets(&cluster)?;
    let root = secrets.get("weft-root-ca").await?;
    let text = |name: &str| field(&root, name).map(String::from_utf8).context("a field");
    let domain = TrustDomain::default();
    let root = Authority::from_pem(&domain, &text("tls.crt")??, &text("tls.key")??)?;
    let days = |days: u64| Duration::from_hours(24 * days);
    let old = root.issuing_ca(days(30), SystemTime::now() - days(16))?;
    let mut secret = secrets.get("weft-issuing-ca").await?;
    let put = |text: &str| ByteString(text.as_bytes().to_vec());
    let data = [("tls.crt", put(&old.certificate)), ("tls.key", put(&old.key))];
    secret.data = Some(data.map(|(name, bytes)| (name.to_owned(), bytes)).into());
    secrets.replace("weft-issuing-ca", &PostParams::default(), &secret).await?;
    let anew = eventually("the issuing CA is made anew", LONG, async || {
        let now = field(&secrets.get("weft-issuing-ca").await.ok()?, "tls.crt")?;
        (now != old.certificate.as_bytes()).then_some(())
    });
    anew.await?;
    assert_eq!(control.node_svid(&cluster).await?.bundle(), svid.bundle());
    control.stop().await
}

#[tokio::test]
async fn a_lost_root_is_never_silently_replaced() -> Result<()> {
    let cluster = cluster().await?;
    let control = Control::start(&cluster).await?;
    let before = roots(&cluster).await?.context("the roots are published")?;
    secrets(&cluster)?.delete("weft-root-ca", &DeleteParams::default()).await?;
    // Who runs goes on signing with what it has, and makes none.
    control.node_svid(&cluster).await?;
    control.stop().await?;
    let refused = async || match Control::start(&cluster).await {
        Ok(_) => anyhow::bail!("it started without the root"),
        Err(error) => Ok(format!("{error:#}")),
    };
    let error = refused().await?;
    ensure!(error.contains("weft-issuing-ca") && error.contains("--reset-trust"), "{error}");
    secrets(&cluster)?.delete("weft-issuing-ca", &DeleteParams::default()).await?;
    let error = refused().await?;
    ensure!(error.contains("weft-trust-bundle") && error.contains("--reset-trust"), "{error}");
    ensure!(secrets(&cluster)?.get_opt("weft-root-ca").await?.is_none(), "a root was made");
    let control = Control::with(&cluster, CaSource::Own, LostRoot::Replace).await?;
    ensure!(roots(&cluster).await? != Some(before), "the old root is still published");
    control.node_svid(&cluster).await?;
    control.stop().await
}

#[tokio::test]
async fn a_root_is_changed_once_every_node_has_said_that_it_has_both() -> Result<()> {
    let cluster = cluster().await?;
    let control = Control::start(&cluster).await?;
    let svid = control.node_svid(&cluster).await?;
    let old = svid.bundle().clone();
    // The node says what it trusts, and is known to the replica that changes roots.
    let key = KeyPair::generate()?;
    let asked = trusting(&key, &old.fingerprint())?;
    control.by_certificate(&cluster, &svid, asked).await??;
    control.until_ca("the node is known", "\"nodes\": 1").await?;
    cluster.kubectl(&[
        "annotate",
        "-n",
        MESH,
        "configmap",
        "weft-trust-bundle",
        "weft.mesh/rotate-root=now",
    ])?;
    control.until_ca("the change waits for the node", "\"node-1\"").await?;
    let page = control.page("/ca").await?;
    ensure!(page.contains("preparing"), "{page}");

    // The answer has both roots; the node takes them, and says so.
    let key = KeyPair::generate()?;
    let asked = trusting(&key, &old.fingerprint())?;
    let chain = control.by_certificate(&cluster, &svid, asked).await??;
    let svid = NodeSvid::from_pem("node-1", key, &chain, SystemTime::now())?;
    let both = svid.bundle().clone();
    assert_eq!(both.certificates().len(), 2);
    let key = KeyPair::generate()?;
    control.by_certificate(&cluster, &svid, trusting(&key, &both.fingerprint())?).await??;
    control.until_ca("the new root signs", "retiring").await?;

    // What is signed by the new root is good for who knows both, and for who knows the old one only.
    let signed = eventually("a node's certificate is of the new root", LONG, async || {
        let svid = control.node_svid(&cluster).await.ok()?;
        (svid.bundle().certificates().first() != old.certificates().first()).then_some(svid)
    });
    let signed = signed.await?;
    let certificates = signed.chain_pem().matches("BEGIN CERTIFICATE").count();
    assert_eq!(certificates, 3, "leaf, issuing CA, and the old root's word for the new one");
    let map =
        cluster.kubectl(&["get", "-n", MESH, "configmap", "weft-trust-bundle", "-o", "yaml"])?;
    ensure!(!map.contains("rotate-root"), "the wish stays: {map}");
    control.stop().await
}

#[tokio::test]
async fn a_ca_of_others_signs_until_a_better_one_comes_and_a_broken_one_changes_nothing()
-> Result<()> {
    let cluster = cluster().await?;
    let name = "cacerts";
    let plugged_in =
        async || Control::with(&cluster, CaSource::Secret(name.to_owned()), LostRoot::Refuse).await;
    let domain = TrustDomain::default();
    let root = Authority::new(&domain, SystemTime::now())?;
    let fields = |complete: bool| -> Result<_> {
        let ca = root.issuing_ca(LONG * 100, SystemTime::now())?;
        let mut fields = vec![
            ("ca-cert.pem".to_owned(), ByteString(ca.certificate.into_bytes())),
            ("ca-key.pem".to_owned(), ByteString(ca.key.as_bytes().to_vec())),
        ];
        if complete {
            let roots = ByteString(root.bundle().to_pem().into_bytes());
            fields.push(("root-cert.pem".to_owned(), roots));
        }
        Ok(Some(fields.into_iter().collect()))
    };
    let error = plugged_in().await.err().context("it started without a CA")?;
    ensure!(format!("{error:#}").contains("Secret cacerts is missing"), "{error:#}");
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
    let secret = Secret { metadata, data: fields(false)?, ..Default::default() };
    let mut secret = secrets(&cluster)?.create(&PostParams::default(), &secret).await?;
    let error = plugged_in().await.err().context("it started with half a CA")?;
    ensure!(format!("{error:#}").contains("it has no `root-cert.pem`"), "{error:#}");

    secret.data = fields(true)?;
    let mut secret = secrets(&cluster)?.replace(name, &PostParams::default(), &secret).await?;
    let control = plugged_in().await?;
    control.until_ca("the roots are published", &root.bundle().fingerprint()).await?;
    let first = control.node_svid(&cluster).await?;
    assert_eq!(first.bundle(), root.bundle());
    secret.data = fields(false)?;
    let mut secret = secrets(&cluster)?.replace(name, &PostParams::default(), &secret).await?;
    control.node_svid(&cluster).await?;
    ensure!(secrets(&cluster)?.get_opt("weft-root-ca").await?.is_none(), "a root of our own");
    secret.data = fields(true)?;
    secrets(&cluster)?.replace(name, &PostParams::default(), &secret).await?;
    let issuer = |svid: &NodeSvid| svid.chain_pem().split("-----END").nth(1).map(str::to_owned);
    let other = eventually("the better CA signs", LONG, async || {
        let svid = control.node_svid(&cluster).await.ok()?;
        (issuer(&svid) != issuer(&first)).then_some(())
    });
    other.await?;
    control.stop().await
}
