//! The usual cast: a client, an intruder, two web pods behind a VIP, and a pod outside of the mesh.

use anyhow::Result;

use super::{Control, Lab, Node, Pod, PodSpec, Process};

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

    /// Takes all pods but `legacy` into the mesh, and waits until the proxies know them.
    pub fn enroll(&self) -> Result<()> {
        for pod in [&self.client, &self.intruder, &self.web[0], &self.web[1]] {
            pod.enroll()?;
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
