//! Who this proxy says it is to a control plane.

use prost_types::{ListValue, Struct, Value, value::Kind};
use weft_xds::proto::discovery;

use crate::config;

/// Environment variables of this prefix become metadata as texts, of the other one as JSON.
const TEXT_PREFIX: &str = "ISTIO_META_";
const JSON_PREFIX: &str = "ISTIO_METAJSON_";

#[derive(Debug, thiserror::Error)]
#[error("environment variable {name} is not JSON")]
pub struct MetadataError {
    name: String,
    source: serde_json::Error,
}

/// The node of an xDS stream: four parts by `~`, and metadata. `env` is the process's environment.
pub(super) fn node(
    config: &config::Node,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<discovery::Node, MetadataError> {
    let config::Node { pod_name, pod_namespace, instance_ip, .. } = config;
    let mut metadata = Struct::default();
    let mut put = |name: &str, value| metadata.fields.insert(name.to_owned(), value);
    for (variable, value) in env {
        if let Some(name) = variable.strip_prefix(TEXT_PREFIX) {
            put(name, text(&value));
        } else if let Some(name) = variable.strip_prefix(JSON_PREFIX) {
            let parsed = serde_json::from_str(&value)
                .map_err(|source| MetadataError { name: variable.clone(), source })?;
            put(name, json(parsed));
        }
    }
    // Last: the environment adds to what we are, and does not change it.
    put("NAME", text(pod_name));
    put("NAMESPACE", text(pod_namespace));
    put("INSTANCE_IPS", text(&instance_ip.to_string()));
    put("NODE_NAME", text(&config.name));
    Ok(discovery::Node {
        id: format!(
            "ztunnel~{instance_ip}~{pod_name}.{pod_namespace}~{pod_namespace}.svc.cluster.local"
        ),
        metadata: Some(metadata),
        ..discovery::Node::default()
    })
}

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}

fn json(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        serde_json::Value::String(value) => Kind::StringValue(value),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(json).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(Struct {
            fields: fields.into_iter().map(|(name, value)| (name, json(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_node_has_four_parts_and_the_metadata_that_istiod_reads() {
        let config = config::Node { name: "node-1".into(), ..config::Node::default() };
        let env = variables(&[
            ("ISTIO_META_CLUSTER_ID", "c1"),
            ("ISTIO_META_NODE_NAME", "another"),
            ("ISTIO_METAJSON_LABELS", r#"{"a":[1,true,null]}"#),
            ("PATH", "/bin"),
        ]);
        let node = node(&config, env).unwrap();
        assert_eq!(node.id, "ztunnel~1.1.1.1~ztunnel.istio-system~istio-system.svc.cluster.local");
        let fields = node.metadata.unwrap().fields;
        let shown: Vec<_> = fields.keys().map(String::as_str).collect();
        assert_eq!(
            shown,
            ["CLUSTER_ID", "INSTANCE_IPS", "LABELS", "NAME", "NAMESPACE", "NODE_NAME"]
        );
        assert_eq!(fields["NODE_NAME"], text("node-1"));
    }

    #[test]
    fn metadata_that_is_not_json_is_named() {
        let env = variables(&[("ISTIO_METAJSON_X", "{")]);
        let error = node(&config::Node::default(), env).unwrap_err();
        assert_eq!(error.to_string(), "environment variable ISTIO_METAJSON_X is not JSON");
    }
}
