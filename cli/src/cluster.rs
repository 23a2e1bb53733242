//! The API server, and why it does not give what is asked.

use std::{fmt::Debug, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use serde::de::DeserializeOwned;

use crate::{args::Access, causes::last};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Of what is written.
pub(crate) const MANAGER: &str = "weft-cli";
/// Objects of a page.
const PAGE: u32 = 500;

/// Each says what to do next, where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("cannot use the kubeconfig{of}: {reason}", of = of(file.as_ref()), reason = last(cause))]
    Kubeconfig { file: Option<PathBuf>, cause: KubeconfigError },
    #[error("no cluster is configured: {cause}; name one by --kubeconfig or KUBECONFIG")]
    NotFound { cause: InferConfigError },
    #[error("the API server refused to {doing}: {reason}")]
    Refused { doing: String, reason: String },
    #[error(
        "cannot {doing}: {reason}; does the API server run, and is it that of --context and --kubeconfig?",
        reason = last(cause)
    )]
    Unreachable { doing: String, cause: kube::Error },
    #[error("{what} does not exist")]
    Missing { what: String },
}

fn of(file: Option<&PathBuf>) -> String {
    file.map(|file| format!(" {}", file.display())).unwrap_or_default()
}

/// A cluster with a mesh, or one that is to have one.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// Where the mesh is installed.
    pub(crate) mesh: String,
}

impl Access {
    /// Whether a cluster is meant, rather than the one that is found.
    pub(crate) fn is_named(&self) -> bool {
        self.context.is_some() || self.kubeconfig.is_some()
    }

    /// Sends nothing yet.
    pub(crate) async fn connect(&self) -> Result<Cluster, ClusterError> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT_WITHIN);
        config.read_timeout = Some(READ_WITHIN);
        let client = Client::try_from(config).map_err(failed("use the configuration"))?;
        Ok(Cluster { client, mesh: self.mesh_namespace.clone() })
    }

    async fn config(&self) -> Result<Config, ClusterError> {
        let options =
            KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let failed = |cause| ClusterError::Kubeconfig { file: self.kubeconfig.clone(), cause };
        if let Some(file) = &self.kubeconfig {
            let read = Kubeconfig::read_from(file).map_err(failed)?;
            return Config::from_custom_kubeconfig(read, &options).await.map_err(failed);
        }
        if self.context.is_some() {
            return Config::from_kubeconfig(&options).await.map_err(failed);
        }
        Config::infer().await.map_err(|cause| ClusterError::NotFound { cause })
    }
}

impl Cluster {
    /// The pods with agent and proxy, one of each node; two while one replaces the other.
    pub(crate) async fn proxies(&self) -> Result<Vec<Pod>, ClusterError> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.mesh);
        let selected = ListParams::default().labels("app.kubernetes.io/name=weft-node");
        list(&pods, selected, "the pods of the mesh").await
    }
}

/// What the API server's answer means to who asked. `doing` completes "cannot ...".
pub(crate) fn failed(doing: &str) -> impl Fn(kube::Error) -> ClusterError + use<> {
    let doing = doing.to_owned();
    move |error| match error {
        kube::Error::Api(status) => {
            ClusterError::Refused { doing: doing.clone(), reason: status.message }
        }
        cause => ClusterError::Unreachable { doing: doing.clone(), cause },
    }
}

/// As [`failed`], of one object that may not be there.
pub(crate) fn failed_on(doing: &str, what: &str) -> impl Fn(kube::Error) -> ClusterError + use<> {
    let (others, what) = (failed(&format!("{doing} {what}")), what.to_owned());
    move |error| match error {
        kube::Error::Api(status) if status.code == 404 => {
            ClusterError::Missing { what: what.clone() }
        }
        error => others(error),
    }
}

/// All of a kind, read page by page. `what` completes "cannot list ...".
pub(crate) async fn list<K>(
    api: &Api<K>,
    selected: ListParams,
    what: &str,
) -> Result<Vec<K>, ClusterError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut asked = ListParams { limit: Some(PAGE), ..selected };
    let mut all = Vec::new();
    loop {
        let page = api.list(&asked).await.map_err(failed(&format!("list {what}")))?;
        all.extend(page.items);
        asked.continue_token = page.metadata.continue_.filter(|next| !next.is_empty());
        if asked.continue_token.is_none() {
            return Ok(all);
        }
    }
}
