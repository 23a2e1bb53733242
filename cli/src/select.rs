//! What a label selector means. No proxy is told labels: the API server knows them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, api::ListParams};
use weft_control::compile::converted_name;

use crate::{
    args::What,
    cluster::{Cluster, ClusterError, list},
    kinds::{self, Kind, kind},
};

const AUTHORIZATION_POLICY: Kind =
    kind("security.istio.io", "AuthorizationPolicy", "authorizationpolicies");
const PEER_AUTHENTICATION: Kind =
    kind("security.istio.io", "PeerAuthentication", "peerauthentications");
const SERVICE_ENTRY: Kind = kind("networking.istio.io", "ServiceEntry", "serviceentries");
const WORKLOAD_ENTRY: Kind = kind("networking.istio.io", "WorkloadEntry", "workloadentries");

/// What proxies have lists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    Workloads,
    Services,
    Policies,
    Certs,
    Connections,
}

impl Rows {
    /// None of what no proxy knows.
    pub(crate) fn of(what: What) -> Option<Self> {
        Some(match what {
            What::Workloads => Self::Workloads,
            What::Services => Self::Services,
            What::Policies => Self::Policies,
            What::Certs => Self::Certs,
            What::Connections => Self::Connections,
            What::Nodes => return None,
        })
    }
}

/// Objects by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Selected(BTreeSet<(String, String)>);

impl Selected {
    /// What rows of a list are about: of certificates, the accounts of pods.
    pub(crate) async fn of(
        cluster: &Cluster,
        rows: Rows,
        selector: &str,
    ) -> Result<Self, ClusterError> {
        let mut selected = Self::default();
        let all = Of { cluster, selector };
        match rows {
            Rows::Workloads => {
                selected.add(all.pods().await?.into_iter().map(|pod| pod.metadata));
                selected.add(all.of_kind(&WORKLOAD_ENTRY).await?);
            }
            Rows::Services => {
                selected.add(all.services().await?.into_iter().map(|it| it.metadata));
                selected.add(all.of_kind(&SERVICE_ENTRY).await?);
            }
            Rows::Policies => {
                selected.add(all.of_kind(&AUTHORIZATION_POLICY).await?);
                selected.add(all.of_kind(&PEER_AUTHENTICATION).await?.into_iter().map(
                    |mut meta| {
                        meta.name = meta.name.as_deref().map(converted_name);
                        meta
                    },
                ));
            }
            Rows::Connections => {
                selected.add(all.pods().await?.into_iter().map(|pod| pod.metadata));
            }
            Rows::Certs => {
                selected.add(all.pods().await?.into_iter().map(|mut pod| {
                    let account = pod.spec.and_then(|spec| spec.service_account_name);
                    pod.metadata.name = Some(account.unwrap_or_else(|| "default".to_owned()));
                    pod.metadata
                }));
            }
        }
        Ok(selected)
    }

    pub(crate) fn has(&self, namespace: &str, name: &str) -> bool {
        self.0.contains(&(namespace.to_owned(), name.to_owned()))
    }

    fn add(&mut self, all: impl IntoIterator<Item = Meta>) {
        self.0.extend(all.into_iter().filter_map(|meta| Some((meta.namespace?, meta.name?))));
    }
}

type Meta = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

struct Of<'a> {
    cluster: &'a Cluster,
    selector: &'a str,
}

impl Of<'_> {
    async fn pods(&self) -> Result<Vec<Pod>, ClusterError> {
        list(&Api::all(self.cluster.client.clone()), self.params(), "pods").await
    }

    async fn services(&self) -> Result<Vec<Service>, ClusterError> {
        list(&Api::all(self.cluster.client.clone()), self.params(), "services").await
    }

    async fn of_kind(&self, kind: &Kind) -> Result<Vec<Meta>, ClusterError> {
        let found = kinds::list(self.cluster, kind, None, self.params()).await?;
        Ok(found.into_iter().flatten().map(|object| object.metadata).collect())
    }

    fn params(&self) -> ListParams {
        ListParams::default().labels(self.selector)
    }
}
