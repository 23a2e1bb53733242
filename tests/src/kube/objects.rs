//! What tests put into the API server, in few words.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{Namespace, Pod, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, api::PostParams};

use super::{Cluster, assets::asset};

/// The shortest that the API server issues.
const TOKEN_SECONDS: i64 = 600;

/// A service account by its namespace and name.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Cluster {
    /// Makes a namespace, and the service account without which no pod is admitted to it.
    pub async fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let labels: BTreeMap<_, _> =
            labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let metadata =
            ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..Default::default() };
        let namespace = Namespace { metadata, ..Default::default() };
        let api = Api::<Namespace>::all(self.client()?);
        api.create(&PostParams::default(), &namespace).await.context("make a namespace")?;
        self.account(Account { namespace: name, name: "default" }).await
    }

    /// Makes a service account, unless it is there.
    pub async fn account(&self, account: Account<'_>) -> Result<()> {
        let metadata = ObjectMeta { name: Some(account.name.to_owned()), ..Default::default() };
        let made = ServiceAccount { metadata, ..Default::default() };
        let api = Api::<ServiceAccount>::namespaced(self.client()?, account.namespace);
        match api.create(&PostParams::default(), &made).await {
            // kube-controller-manager makes some, too.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            made => made.map(|_| ()).with_context(|| format!("make {account:?}")),
        }
    }

    /// A real token of a service account for one audience; bound to a pod, it ends with that pod.
    pub async fn token(
        &self,
        account: Account<'_>,
        audience: &str,
        bound_to: Option<&Pod>,
    ) -> Result<String> {
        let bound_object_ref = bound_to.map(|pod| BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        });
        let spec = TokenRequestSpec {
            audiences: Some(vec![audience.to_owned()]),
            bound_object_ref,
            expiration_seconds: Some(TOKEN_SECONDS),
            ..Default::default()
        };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let api = Api::<ServiceAccount>::namespaced(self.client()?, account.namespace);
        let made = api.create_token_request(account.name, &PostParams::default(), &request).await;
        let made = made.with_context(|| format!("ask for a token of {account:?}"))?;
        made.status.and_then(|status| status.token).context("a token request without a token")
    }

    /// Applies manifests, whatever their kinds, and takes fields over that others own.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], yaml)?;
        Ok(())
    }

    /// Runs kubectl with something to read.
    pub(super) fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(asset("kubectl")?);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start kubectl")?;
        child.stdin.take().context("kubectl has an input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output().context("wait for kubectl")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}", args.join(" "), error.trim());
        Ok(String::from_utf8(output.stdout)?)
    }
}
