//! The usual cast: a client, an intruder, two web pods behind a VIP, and a pod outside of the mesh.

use anyhow::{Result, ensure};

use super::{Capture, Captured, Control, Lab, Node, Pod, PodSpec, Process};

/// The virtual address of service `web`.
const VIP: &str = "10.96.0.10";
const VIP6: &str = "fd96::10";

/// Two nodes and five pods, all but `legacy` enrolled, servers running on port 80 of each.
///
/// Fields are dropped from the first to the last: processes and pods before nodes, nodes before the lab.
#[derive(Debug)]
pub struct Mesh {
    pub servers: Vec<Process>,
    pub client: Pod,
    pub intruder: Pod,
    pub web: [Pod; 2],
    pub legacy: Pod,
    /// Of client, intruder and legacy; and of one web pod.
    pub near: Node,
    pub far: Node,
    pub control: Control,
    pub lab: Lab,
}

impl Mesh {
    /// The usual cast, all but `legacy` enrolled, and the service's endpoints known to both proxies.
    pub fn new() -> Result<Self> {
        let mut mesh = Self::cast(Lab::new()?)?;
        mesh.serve()?;
        mesh.enroll()?;
        Ok(mesh)
    }

    /// All nodes and pods are there, no server runs in them, and none is in the mesh.
    pub fn cast(lab: Lab) -> Result<Self> {
        let control = lab.control()?;
        let (near, far) = (lab.node(1, &control)?, lab.node(2, &control)?);
        let pod = |node: &Node, name: &str, app: &str| {
            node.pod(PodSpec { name, service_account: app, app })
        };
        let (client, intruder) =
            (pod(&near, "client", "client")?, pod(&near, "intruder", "intruder")?);
        let web = [pod(&near, "web-1", "web")?, pod(&far, "web-2", "web")?];
        let legacy = pod(&near, "legacy", "legacy")?;
        control.manifests().apply("service-web", &service_web())?;
        let servers = Vec::new();
        Ok(Self { servers, client, intruder, web, legacy, near, far, control, lab })
    }

    /// Starts our small server on port 80 of each pod.
    pub fn serve(&mut self) -> Result<()> {
        for pod in [&self.client, &self.intruder, &self.web[0], &self.web[1], &self.legacy] {
            self.servers.push(pod.serve(80)?);
        }
        Ok(())
    }

    /// Takes all pods but `legacy` into the mesh, and waits until both proxies know it.
    pub fn enroll(&self) -> Result<()> {
        let pods = [&self.client, &self.intruder, &self.web[0], &self.web[1]];
        for pod in pods {
            pod.enroll()?;
        }
        for node in [&self.near, &self.far] {
            for pod in pods {
                // Before, it would be called in the clear, as one outside of the mesh.
                node.knows(pod.name(), "HBONE")?;
            }
        }
        Ok(())
    }

    /// Watches both nodes and the wire between them for a marker.
    pub fn watch(&self, marker: &str) -> Result<Watch> {
        let places = [self.near.namespace(), self.far.namespace(), self.lab.wire()];
        let captures: Result<Vec<_>> =
            places.iter().map(|place| Capture::start(place, marker)).collect();
        Ok(Watch(captures?))
    }

    /// Adds or replaces an `AuthorizationPolicy` that denies these service accounts to reach `web`.
    pub fn deny(&self, policy: &str, accounts: &[&str]) -> Result<()> {
        let principals: Vec<_> =
            accounts.iter().map(|name| format!("cluster.local/ns/default/sa/{name}")).collect();
        self.lab.manifests().apply(
            policy,
            &format!(
                "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {policy}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  action: DENY
  rules: [{{from: [{{source: {{principals: {principals:?}}}}}]}}]
"
            ),
        )
    }

    /// Demands mutual TLS of everyone who calls a pod of the mesh.
    pub fn strict(&self) -> Result<()> {
        self.lab.manifests().apply(
            "strict",
            "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
",
        )
    }

    /// Errors: a part of the mesh has panicked.
    pub fn is_sound(&self) -> Result<()> {
        let logs = [&self.near, &self.far].map(|node| [node.proxy_log(), node.agent_log()]);
        let logs = logs.into_iter().flatten().chain([self.control.log()]);
        for line in logs.flat_map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>()) {
            ensure!(!line.contains("panicked at"), "something panicked: {line}");
        }
        Ok(())
    }

    /// The service's address, as a client dials it.
    pub fn vip(&self) -> &'static str {
        VIP
    }

    /// The service's IPv6 address.
    pub fn vip6(&self) -> &'static str {
        VIP6
    }
}

/// Captures of all places where a packet between pods can be seen.
#[derive(Debug)]
pub struct Watch(Vec<Capture>);

impl Watch {
    /// Ends the captures. Errors: the marker was seen in the clear, or nothing was seen at all.
    pub fn refuse_clear_text(self) -> Result<()> {
        for seen in self.stop()? {
            seen.refuse_clear_text()?;
        }
        Ok(())
    }

    /// Ends the captures; the last one is of the wire between the nodes.
    pub fn stop(self) -> Result<Vec<Captured>> {
        let seen: Result<Vec<_>> = self.0.into_iter().map(Capture::stop).collect();
        let seen = seen?;
        ensure!(seen.iter().any(|seen| seen.packets > 0), "no packet passed anywhere");
        Ok(seen)
    }
}

fn service_web() -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  clusterIP: {VIP}
  clusterIPs: [{VIP}, \"{VIP6}\"]
  ipFamilies: [IPv4, IPv6]
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: 80, protocol: TCP}}]
"
    )
}
