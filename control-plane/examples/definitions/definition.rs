//! The four kinds, each as the API server is told of it. Names, versions and columns are Istio's, so that what is
//! written for one is right for the other.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_control::objects::{
    ServiceEntrySpec, ServiceEntryStatus, WorkloadEntrySpec,
    security::{AuthorizationSpec, PeerAuthenticationSpec},
};

use crate::{
    schema::{Schemas, merge},
    shape::Shape,
};

struct Definition {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    /// The first one is stored.
    versions: &'static [&'static str],
    /// Names and paths.
    columns: &'static [(&'static str, &'static str)],
    spec: Shape,
    status: Option<Shape>,
    required: &'static [&'static str],
}

const SECURITY: (&str, &[&str]) = ("security.istio.io", &["v1", "v1beta1"]);
const NETWORKING: (&str, &[&str]) = ("networking.istio.io", &["v1", "v1beta1", "v1alpha3"]);

/// By the names of their files.
pub(crate) fn all() -> Result<Vec<(String, Value)>> {
    let mut schemas = Schemas::new();
    let all = definitions()?.into_iter().map(|definition| {
        let name = format!("{}.{}", definition.plural, definition.group);
        let value = definition.value(&mut schemas).with_context(|| name.clone())?;
        Ok((name, value))
    });
    let all = all.collect::<Result<_>>()?;
    schemas.end()?;
    Ok(all)
}

fn definitions() -> Result<[Definition; 4]> {
    let of = |(group, versions), kind, plural, short, spec| Definition {
        group,
        kind,
        plural,
        short,
        versions,
        columns: &[],
        spec,
        status: None,
        required: &[],
    };
    Ok([
        Definition {
            columns: &[("Action", ".spec.action")],
            ..of(
                SECURITY,
                "AuthorizationPolicy",
                "authorizationpolicies",
                "ap",
                Shape::of::<AuthorizationSpec>()?,
            )
        },
        Definition {
            columns: &[("Mode", ".spec.mtls.mode")],
            ..of(
                SECURITY,
                "PeerAuthentication",
                "peerauthentications",
                "pa",
                Shape::of::<PeerAuthenticationSpec>()?,
            )
        },
        Definition {
            columns: &[
                ("Hosts", ".spec.hosts"),
                ("Location", ".spec.location"),
                ("Resolution", ".spec.resolution"),
            ],
            status: Some(Shape::of::<ServiceEntryStatus>()?),
            required: &["spec"],
            ..of(
                NETWORKING,
                "ServiceEntry",
                "serviceentries",
                "se",
                Shape::of::<ServiceEntrySpec>()?,
            )
        },
        Definition {
            columns: &[("Address", ".spec.address")],
            required: &["spec"],
            ..of(
                NETWORKING,
                "WorkloadEntry",
                "workloadentries",
                "we",
                Shape::of::<WorkloadEntrySpec>()?,
            )
        },
    ])
}

impl Definition {
    fn value(&self, schemas: &mut Schemas) -> Result<Value> {
        let Self { group, kind, plural, short, .. } = self;
        let category = group.replace('.', "-").trim_end_matches("-istio-io").to_owned();
        let schema = self.schema(schemas)?;
        let columns = self.columns();
        let versions = self.versions.iter().enumerate().map(|(i, version)| {
            json!({
                "name": version,
                "served": true,
                "storage": i == 0,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns,
                "schema": { "openAPIV3Schema": schema },
            })
        });
        Ok(json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{plural}.{group}"),
                "labels": { "app.kubernetes.io/part-of": "weft" },
                // All policies would go with it.
                "annotations": { "helm.sh/resource-policy": "keep" },
            },
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {
                    "kind": kind,
                    "listKind": format!("{kind}List"),
                    "plural": plural,
                    "singular": kind.to_lowercase(),
                    "shortNames": [short],
                    "categories": ["istio-io", format!("{category}-istio-io")],
                },
                "versions": versions.collect::<Vec<_>>(),
            },
        }))
    }

    fn schema(&self, schemas: &mut Schemas) -> Result<Value> {
        let mut status = match &self.status {
            Some(shape) => schemas.of(shape)?,
            None => json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }),
        };
        let conditions = json!({ "conditions": conditions() });
        merge(
            &mut status,
            json!({ "description": "What became of it.", "properties": conditions }),
        );
        let mut schema = json!({
            "type": "object",
            "properties": { "spec": schemas.of(&self.spec)?, "status": status },
        });
        if !self.required.is_empty() {
            merge(&mut schema, json!({ "required": self.required }));
        }
        Ok(schema)
    }

    fn columns(&self) -> Value {
        let column = |name: &str, path: &str, kind: &str| json!({ "name": name, "type": kind, "jsonPath": path });
        let condition = |name: &str| {
            column(name, &format!(".status.conditions[?(@.type==\"{name}\")].status"), "string")
        };
        let own = self.columns.iter().map(|(name, path)| column(name, path, "string"));
        let of_all = [
            condition("Accepted"),
            condition("Programmed"),
            column("Age", ".metadata.creationTimestamp", "date"),
        ];
        own.chain(of_all).collect()
    }
}

/// Also as Istio's own tools write them.
fn conditions() -> Value {
    let text = || json!({ "type": "string" });
    let time = || json!({ "type": "string", "format": "date-time" });
    json!({
        "description": "What is true of it: Accepted, Programmed, and what others say.",
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "type": text(),
                "status": text(),
                "reason": text(),
                "message": text(),
                "lastTransitionTime": time(),
                "lastProbeTime": time(),
                "observedGeneration": {
                    "anyOf": [{ "type": "integer" }, { "type": "string" }],
                    "x-kubernetes-int-or-string": true,
                },
            },
            "x-kubernetes-preserve-unknown-fields": true,
        },
    })
}
