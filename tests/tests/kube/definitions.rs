//! The definitions of kinds that the chart brings: the API server refuses what is wrong, and keeps what is right whole.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde::Deserialize;
use serde_json::{Value, json};
use weft_control::objects::Kind;
use weft_tests::{
    kube::{Chart, Cluster, eventually},
    lab::LONG,
};

use crate::{
    mesh::MESH,
    statuses,
    written::{KINDS, define, loose_definitions, objects},
};

const WRONG: &str = include_str!("definitions/wrong.yaml");
const CONTRADICTORY: &str = include_str!("definitions/contradictory.yaml");
const RIGHT: &str = include_str!("definitions/right.yaml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    kind: String,
    spec: Value,
    #[serde(default)]
    says: String,
}

fn cases(text: &str) -> Result<Vec<Case>> {
    serde_saphyr::from_str(text).context("read cases")
}

async fn defined() -> Result<Cluster> {
    let cluster = Cluster::own().await?;
    cluster.namespace("shop", &[]).await?;
    define(&cluster, &Chart::definitions()?)?;
    Ok(cluster)
}

impl Case {
    fn object(&self) -> Result<DynamicObject> {
        let known = KINDS.iter().find(|known| known.0 == self.kind);
        let (kind, _, group) = known.context("a kind of ours")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let object = DynamicObject::new("one", &resource).within("shop");
        Ok(object.data(json!({ "spec": self.spec })))
    }

    /// Whether the API server would take it.
    async fn is_taken(&self, cluster: &Cluster) -> Result<kube::Result<DynamicObject>> {
        let try_it = PostParams { dry_run: true, ..PostParams::default() };
        Ok(objects(cluster, &self.kind)?.create(&try_it, &self.object()?).await)
    }

    async fn is_refused(&self, cluster: &Cluster) -> Result<()> {
        match self.is_taken(cluster).await? {
            Err(kube::Error::Api(status)) if status.code == 422 => {
                ensure!(status.message.contains(&self.says), "{self:?}: {}", status.message);
                Ok(())
            }
            other => bail!("{self:?} is not refused: {other:?}"),
        }
    }

    /// As the control plane finds them where no definition refuses it.
    fn problems(&self) -> Result<Vec<weft_control::Problem>> {
        let object = self.object()?;
        let version = object.types.clone().unwrap_or_default().api_version;
        let kind = Kind::of(&version, &self.kind).context("it is read")?;
        let object = serde_json::to_value(object)?;
        Ok(weft_control::analyze(vec![(kind, object)]))
    }
}

#[tokio::test]
async fn the_charts_definitions_refuse_what_is_wrong_by_its_field_and_say_what_is_right()
-> Result<()> {
    let cluster = defined().await?;
    for case in cases(WRONG)? {
        case.is_refused(&cluster).await?;
        ensure!(!case.problems()?.is_empty(), "{case:?}: refused, and nothing is wrong with it");
    }
    for case in cases(CONTRADICTORY)? {
        case.is_refused(&cluster).await?;
    }
    // Nearly all that a status would tell of.
    let mut through = Vec::new();
    for (kind, name, spec, _, mended) in statuses::WRONG {
        let case = |spec| -> Result<Case> {
            let spec = serde_saphyr::from_str(spec).context("read a spec")?;
            Ok(Case { kind: kind.to_owned(), spec, says: String::new() })
        };
        if case(spec)?.is_taken(&cluster).await?.is_ok() {
            through.push((kind, name));
        }
        case(mended)?.is_taken(&cluster).await?.with_context(|| format!("{kind} {name}"))?;
    }
    // A name of a certificate that is no identity: there are meshes where that is right.
    assert_eq!(through, [("ServiceEntry", "principal")]);
    Ok(())
}

#[tokio::test]
async fn the_charts_definitions_keep_what_is_right_whole_in_every_version() -> Result<()> {
    let cluster = defined().await?;
    for case in cases(RIGHT)? {
        let kept = case.is_taken(&cluster).await?.with_context(|| format!("{case:?}"))?;
        assert_eq!(kept.data.get("spec"), Some(&case.spec), "{case:?}");
    }
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/samples");
    cluster.kubectl(&["apply", "--server-side", "--validate=strict", "-f", samples])?;
    let shown = cluster.kubectl(&["get", "authorizationpolicies", "-n", "shop"])?;
    let columns: Vec<_> = shown.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "ACTION", "ACCEPTED", "PROGRAMMED", "AGE"]);
    ensure!(shown.contains("orders-callers   ALLOW"), "{shown}");

    let mut versions = BTreeMap::new();
    for definition in Chart::definitions()? {
        let name = definition["metadata"]["name"].as_str().context("it has a name")?.to_owned();
        let found = cluster.kubectl(&["get", "crd", &name, "-o", "json"])?;
        let found: Value = serde_json::from_str(&found)?;
        let conditions = found["status"]["conditions"].as_array().context("it has conditions")?;
        let is = |condition: &Value| (condition["type"].clone(), condition["status"].clone());
        let mut conditions: Vec<_> = conditions.iter().map(is).collect();
        conditions.sort_by_key(|(kind, _)| kind.to_string());
        let well = [("Established", "True"), ("NamesAccepted", "True")];
        assert_eq!(conditions, well.map(|(kind, is)| (json!(kind), json!(is))), "{name}");
        let served = found["spec"]["versions"].as_array().into_iter().flatten();
        let served: Vec<_> = served.filter_map(|of| of["name"].as_str()).collect();
        for version in &served {
            let (plural, group) = name.split_once('.').context("a name with a group")?;
            let path = format!("/apis/{group}/{version}/namespaces/shop/{plural}");
            cluster.kubectl(&["get", "--raw", &path])?;
        }
        versions.insert(name, served.join(" "));
    }
    let (security, networking) = ("v1 v1beta1", "v1 v1beta1 v1alpha3");
    let wanted = [
        ("authorizationpolicies.security.istio.io", security),
        ("peerauthentications.security.istio.io", security),
        ("serviceentries.networking.istio.io", networking),
        ("workloadentries.networking.istio.io", networking),
    ];
    let wanted = wanted.map(|(name, versions)| (name.to_owned(), versions.to_owned()));
    assert_eq!(versions, BTreeMap::from(wanted));
    Ok(())
}

fn loose(name: &str) -> Result<Value> {
    let is_it = |definition: &Value| definition.pointer("/metadata/name") == Some(&json!(name));
    loose_definitions()?.into_iter().find(is_it).with_context(|| format!("{name} is defined"))
}

/// Puts it there as Helm did.
async fn left_by_a_release(cluster: &Cluster, definition: Value) -> Result<()> {
    let mut definition: CustomResourceDefinition = serde_json::from_value(definition)?;
    let metadata = &mut definition.metadata;
    let managed = ("app.kubernetes.io/managed-by".to_owned(), "Helm".to_owned());
    metadata.labels.get_or_insert_default().extend([managed]);
    let release = [("meta.helm.sh/release-name", "weft"), ("meta.helm.sh/release-namespace", MESH)];
    let release = release.map(|(key, value)| (key.to_owned(), value.to_owned()));
    metadata.annotations.get_or_insert_default().extend(release);
    let name = metadata.name.clone().context("it has a name")?;
    let all = Api::<CustomResourceDefinition>::all(cluster.client()?);
    all.patch(&name, &PatchParams::apply("helm"), &Patch::Apply(&definition)).await?;
    Ok(())
}

#[tokio::test]
async fn helm_brings_definitions_upgrades_its_own_leaves_those_of_others_and_takes_none_away()
-> Result<()> {
    let mut cluster = Cluster::own().await?;
    cluster.control()?;
    cluster.namespace("shop", &[]).await?;
    // As others have defined it.
    define(&cluster, &[loose("serviceentries.networking.istio.io")?])?;
    // As an older chart has left it.
    left_by_a_release(&cluster, loose("peerauthentications.security.istio.io")?).await?;
    let anything =
        Case { kind: "ServiceEntry".to_owned(), spec: json!({ "hosts": 7 }), says: String::new() };
    anything.is_taken(&cluster).await??;
    cluster.helm_install(MESH, &Value::Null)?;
    anything.is_taken(&cluster).await?.context("another's definition is replaced")?;
    for case in cases(WRONG)?.iter().filter(|case| case.kind != anything.kind) {
        case.is_refused(&cluster).await?;
    }
    let case = cases(RIGHT)?.swap_remove(1);
    let policies = objects(&cluster, &case.kind)?;
    policies.create(&PostParams::default(), &case.object()?).await?;
    // An upgrade finds what the installation has made.
    cluster.helm_install(MESH, &json!({ "control": { "replicas": 3 } }))?;
    anything.is_taken(&cluster).await?.context("another's definition is replaced")?;
    policies.get("one").await.context("a policy went with an upgrade")?;
    cluster.helm_uninstall(MESH)?;
    let gone = ["get", "clusterroles", "-l", "app.kubernetes.io/part-of=weft", "-o", "name"];
    eventually("the release is gone", LONG, async || {
        cluster.kubectl(&gone).ok()?.is_empty().then_some(())
    })
    .await?;
    policies.get("one").await.context("a policy went with the mesh")?;
    Ok(())
}
