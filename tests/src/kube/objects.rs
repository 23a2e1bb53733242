//! What tests put into the API server, in few words.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
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
use kube::{
    Api,
    api::PostParams,
    config::{AuthInfo, Kubeconfig, NamedAuthInfo},
};
use serde_json::Value;

use super::{Cluster, assets::asset};

/// The shortest that the API server issues.
const TOKEN_SECONDS: i64 = 600;

/// Whom tokens for the API server itself are for.
const AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// A service account by its namespace and name.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

/// Whether it is done, or only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    /// Validated, admitted, and not stored.
    Dry,
    Really,
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

    /// A kubeconfig with a service account's token, and no more than its rights.
    pub async fn kubeconfig_of(&self, account: Account<'_>) -> Result<PathBuf> {
        self.restricted(self.kubeconfig(), account).await
    }

    /// The same way to the API server as an administrator's kubeconfig, with a service account's rights.
    pub async fn restricted(&self, kubeconfig: &Path, account: Account<'_>) -> Result<PathBuf> {
        let token = self.token(account, AUDIENCE, None).await?;
        let mut config = Kubeconfig::read_from(kubeconfig)?;
        let auth_info = Some(AuthInfo { token: Some(token.into()), ..AuthInfo::default() });
        let name = config.auth_infos.first().context("an administrator")?.name.clone();
        config.auth_infos = vec![NamedAuthInfo { name, auth_info, ..NamedAuthInfo::default() }];
        let path = format!("{}-{}", account.namespace, account.name);
        let path = kubeconfig.with_extension(path);
        // JSON is YAML.
        fs::write(&path, serde_json::to_string(&config)?)?;
        Ok(path)
    }

    /// Applies manifests, whatever their kinds, and takes fields over that others own.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], yaml)?;
        Ok(())
    }

    /// Applies objects in their order, as Helm does. A field that the API server does not know is an error.
    pub fn install(&self, objects: &[Value], apply: Apply) -> Result<()> {
        // Not as one List: kubectl would judge its items itself, and the API server knows more.
        let all: Vec<_> = objects.iter().map(Value::to_string).collect();
        let mut args = vec!["apply", "--server-side", "--validate=strict", "-f", "-"];
        match apply {
            Apply::Dry => args.push("--dry-run=server"),
            Apply::Really => {}
        }
        self.kubectl_with(&args, &all.join("\n---\n")).map(drop)
    }

    /// Runs kubectl with something to read.
    pub(super) fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = self.kubectl_command(args)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start kubectl")?;
        child.stdin.take().context("kubectl has an input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output().context("wait for kubectl")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}", args.join(" "), error.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// kubectl as the administrator, to be started.
    pub fn kubectl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(asset("kubectl")?);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        Ok(command)
    }
}
