//! The roots as a `ClusterTrustBundle`, which pods of any namespace mount by its name.
//!
//! Not every API server serves these, and an administrator may keep them from us. Nothing of ours depends on it: it
//! follows the `ConfigMap`, and what fails here stays here.

use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::json;
use weft_certs::Bundle;

use super::{
    TrustError,
    error::api_error,
    place::{metadata, unless_written_since},
};

const GROUP: &str = "certificates.k8s.io";
/// The newest that is served counts.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const KIND: &str = "ClusterTrustBundle";
const PLURAL: &str = "clustertrustbundles";
/// Whose roots they are. Who writes them must have the right to attest for it.
const SIGNER: &str = "weft.mesh/ca";

pub(super) struct ClusterBundle {
    client: Client,
    name: String,
}

impl ClusterBundle {
    /// Named by the mesh's namespace: there may be other meshes. The signer's name before it is the API server's rule.
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self { client, name: format!("weft.mesh:ca:{namespace}") }
    }

    /// Writes the roots, where such bundles are served. Asked anew each time: they may be from now on.
    pub(super) async fn write(&self, roots: &Bundle) -> Result<(), TrustError> {
        let failed = |source| api_error("write", &self.name, source);
        let Some(resource) = self.served().await.map_err(failed)? else { return Ok(()) };
        let bundles = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
        let spec = json!({"signerName": SIGNER, "trustBundle": roots.to_pem()});
        let post = PostParams::default();
        let written = match bundles.get_opt(&self.name).await.map_err(failed)? {
            None => {
                let mut bundle = DynamicObject::new(&self.name, &resource);
                bundle.metadata = metadata(&self.name);
                bundle.data = json!({ "spec": spec });
                bundles.create(&post, &bundle).await
            }
            Some(bundle) if bundle.data.get("spec") == Some(&spec) => return Ok(()),
            Some(mut bundle) => {
                bundle.data = json!({ "spec": spec });
                bundles.replace(&self.name, &post, &bundle).await
            }
        };
        unless_written_since(written).map_err(failed)
    }

    async fn served(&self) -> Result<Option<ApiResource>, kube::Error> {
        for version in VERSIONS {
            let listed = self.client.list_api_group_resources(&format!("{GROUP}/{version}")).await;
            match listed {
                Ok(list) if list.resources.iter().any(|it| it.name == PLURAL) => {
                    let kind = GroupVersionKind::gvk(GROUP, version, KIND);
                    return Ok(Some(ApiResource::from_gvk_with_plural(&kind, PLURAL)));
                }
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
