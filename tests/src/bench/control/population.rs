//! A cluster full of objects, as its controllers and kubelets would have written them.

use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::kube::Cluster;

const NAMESPACES: usize = 50;
/// Requests under way at once; the API server takes 400.
const AT_ONCE: usize = 32;

/// How many there are of each kind.
#[derive(Debug, Clone, Copy)]
pub struct Population {
    pub nodes: usize,
    pub services: usize,
    pub pods: usize,
}

impl Population {
    /// Makes all of it: pods run, are ready, and belong to the services in equal shares.
    pub async fn settle(self, cluster: &Cluster) -> Result<()> {
        let client = cluster.client()?;
        for namespace in 0..NAMESPACES {
            let labels = [("istio.io/dataplane-mode", "ambient")];
            cluster.namespace(&name_of_namespace(namespace), &labels).await?;
        }
        each(self.nodes, |n| self.node(&client, n)).await.context("make nodes")?;
        each(self.services, |n| self.service(&client, n)).await.context("make services")?;
        each(self.pods, |n| self.pod(&client, n)).await.context("make pods")
    }

    async fn node(self, client: &Client, n: usize) -> Result<()> {
        let name = name_of_node(n);
        let labels = json!({"topology.kubernetes.io/zone": format!("zone-{}", n % 3)});
        let node = json!({"metadata": {"name": name, "labels": labels}});
        create::<Node>(&Api::all(client.clone()), node).await
    }

    async fn service(self, client: &Client, n: usize) -> Result<()> {
        let (namespace, name) = (name_of_namespace(n), format!("service-{n}"));
        let selector = json!({"app": name});
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
        let service =
            json!({"metadata": {"name": name}, "spec": {"selector": selector, "ports": ports}});
        create::<Service>(&Api::namespaced(client.clone(), &namespace), service).await?;
        let endpoints = (n..self.pods).step_by(self.services).map(|pod| {
            let target = json!({"kind": "Pod", "namespace": namespace, "name": name_of_pod(pod)});
            let conditions = json!({"ready": true, "serving": true, "terminating": false});
            json!({"addresses": [address(pod)], "conditions": conditions, "targetRef": target,
                   "nodeName": name_of_node(pod % self.nodes)})
        });
        let slice = json!({
            "metadata": {
                "name": format!("{name}-a"),
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        });
        create::<EndpointSlice>(&Api::namespaced(client.clone(), &namespace), slice).await
    }

    async fn pod(self, client: &Client, n: usize) -> Result<()> {
        let service = n % self.services;
        let namespace = name_of_namespace(service);
        let pod = json!({
            "metadata": {
                "name": name_of_pod(n),
                "labels": {"app": format!("service-{service}"), "version": "v1"},
                "annotations": {"ambient.istio.io/redirection": "enabled"},
            },
            "spec": {
                "nodeName": name_of_node(n % self.nodes),
                "automountServiceAccountToken": false,
                "containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080}]}],
            },
        });
        let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
        create::<Pod>(&pods, pod).await?;
        self.turn(client, n, true).await.map(drop)
    }

    /// Says of a pod whether it is ready, as its kubelet would, and returns when that was asked for.
    pub async fn turn(self, client: &Client, n: usize, is_ready: bool) -> Result<Instant> {
        let namespace = name_of_namespace(n % self.services);
        let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
        let ready = json!({"type": "Ready", "status": if is_ready { "True" } else { "False" },
                           "lastTransitionTime": Timestamp::now()});
        let status = json!({"status": {
            "phase": "Running",
            "podIP": address(n),
            "podIPs": [{"ip": address(n)}],
            "conditions": [ready],
        }});
        let asked = Instant::now();
        let patch = Patch::Merge(status);
        pods.patch_status(&name_of_pod(n), &PatchParams::default(), &patch).await?;
        Ok(asked)
    }

    /// The name of a pod in xDS.
    pub fn workload(self, n: usize) -> String {
        format!("Kubernetes//Pod/{}/{}", name_of_namespace(n % self.services), name_of_pod(n))
    }
}

async fn create<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(())
}

async fn each<F: Future<Output = Result<()>>>(
    count: usize,
    make: impl Fn(usize) -> F,
) -> Result<()> {
    stream::iter(0..count).map(make).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// The name of one of the nodes.
pub(super) fn name_of_node(n: usize) -> String {
    format!("node-{n}")
}

fn name_of_namespace(n: usize) -> String {
    format!("namespace-{}", n % NAMESPACES)
}

fn name_of_pod(n: usize) -> String {
    format!("pod-{n}-7d4b9c6f5-x2x2x")
}

fn address(n: usize) -> String {
    format!("10.{}.{}.{}", 64 + n / 65_536, n / 256 % 256, n % 256)
}
