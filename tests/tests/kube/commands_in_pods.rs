//! `kubectl exec` reaches the programs of the small kubelet's pods.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Output, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use weft_tests::{
    kube::{Cluster, Kubelet, eventually},
    lab::{LONG, Lab},
};

/// `web` is a program of the machine, `own` has a file system and a user of its own.
const PODS: &str = "apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: none, command: [sleep, \"600\"], env: [{name: COLOUR, value: blue}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: own, namespace: shop}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: weft-control
    command: [sleep, \"600\"]
    securityContext: {runAsUser: 4711, runAsGroup: 4712, allowPrivilegeEscalation: false}
";

struct Shop {
    cluster: Cluster,
    kubelet: Kubelet,
    _lab: Lab,
}

impl Shop {
    async fn open() -> Result<Self> {
        let cluster = Cluster::own().await?;
        cluster.namespace("shop", &[]).await?;
        let lab = Lab::new()?;
        let kubelet = Kubelet::start(&cluster, lab.bare_node(1)?, "zone-a").await?;
        cluster.apply(PODS)?;
        let pods = Api::<Pod>::namespaced(cluster.client()?, "shop");
        for name in ["web", "own"] {
            eventually(&format!("{name} runs"), LONG, async || {
                (pods.get(name).await.ok()?.status?.phase? == "Running").then_some(())
            })
            .await?;
        }
        Ok(Self { cluster, kubelet, _lab: lab })
    }

    /// Runs a command in a pod by kubectl.
    fn exec(&self, how: &How, pod: &str, command: &[&str], input: &[u8]) -> Result<Output> {
        let args = ["exec", "-i", "-n", "shop", pod, "--"];
        let mut kubectl = self.cluster.kubectl_command(&[&args, command].concat())?;
        kubectl.envs(how.variables());
        kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = kubectl.spawn().context("start kubectl")?;
        let mut to = child.stdin.take().context("kubectl has an input")?;
        thread::scope(|scope| {
            // It may end before it has read all.
            scope.spawn(move || drop(to.write_all(input)));
            child.wait_with_output().context("wait for kubectl")
        })
    }

    fn says(&self, how: &How, pod: &str, script: &str) -> Result<String> {
        let output = self.exec(how, pod, &["sh", "-c", script], b"")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{script}: {error}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// What kubectl speaks.
#[derive(Debug)]
enum How {
    WebSocket,
    Spdy,
}

impl How {
    fn variables(&self) -> [(&str, &str); 1] {
        match self {
            Self::WebSocket => [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "true")],
            Self::Spdy => [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")],
        }
    }
}

const ALL: [How; 2] = [How::WebSocket, How::Spdy];

#[tokio::test]
async fn kubectl_exec_passes_input_output_errors_and_the_exit_status() -> Result<()> {
    let shop = Shop::open().await?;
    for how in &ALL {
        let script = "echo this; echo that >&2; exit 3";
        let output = shop.exec(how, "web", &["sh", "-c", script], b"")?;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "this\n", "{how:?}: {error}");
        assert_eq!(error, "that\ncommand terminated with exit code 3\n", "{how:?}");
        assert_eq!(output.status.code(), Some(3), "{how:?}");
        // More than fits into any window, and the end of the input is heard.
        let much: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let output = shop.exec(how, "web", &["cat"], &much)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && output.stdout == much, "{how:?}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn kubectl_exec_runs_in_the_pod_s_network_and_root_and_as_its_user() -> Result<()> {
    let shop = Shop::open().await?;
    for how in &ALL {
        for pod in ["web", "own"] {
            let v4 = shop.kubelet.sandbox("shop", pod)?.v4().to_owned();
            let addresses = shop.says(how, pod, "ip -4 -o addr show eth0")?;
            ensure!(addresses.contains(&format!(" {v4}/")), "{how:?}, {pod}: {addresses}");
        }
        assert_eq!(shop.says(how, "web", "id -u; echo $COLOUR")?, "0\nblue\n", "{how:?}");
        let who = "id -u; id -g; ls /weft-control; grep -c NoNewPrivs:.1 /proc/self/status";
        assert_eq!(shop.says(how, "own", who)?, "4711\n4712\n/weft-control\n1\n", "{how:?}");
        let refused = shop.exec(how, "web", &["ls", "/weft-control"], b"")?;
        ensure!(!refused.status.success(), "{how:?}: a pod sees the files of another");
    }
    Ok(())
}

#[tokio::test]
async fn what_kubectl_exec_began_is_in_the_pod_s_cgroup_and_ends_when_nobody_is_there_for_it()
-> Result<()> {
    let shop = Shop::open().await?;
    let web = Api::<Pod>::namespaced(shop.cluster.client()?, "shop").get("web").await?;
    let uid = web.metadata.uid.context("a pod has a UID")?;
    for how in &ALL {
        let script = "echo $$; exec sleep 600";
        let mut kubectl = shop
            .cluster
            .kubectl_command(&["exec", "-n", "shop", "web", "--", "sh", "-c", script])?;
        let mut child = kubectl.envs(how.variables()).stdout(Stdio::piped()).spawn()?;
        let mut process = String::new();
        let output = child.stdout.take().context("kubectl has an output")?;
        BufReader::new(output).read_line(&mut process)?;
        let process = format!("/proc/{}", process.trim());
        let cgroup = std::fs::read_to_string(format!("{process}/cgroup"))?;
        ensure!(cgroup.contains(&format!("/pods/pod{uid}")), "{how:?}: {cgroup}");
        child.kill()?;
        child.wait()?;
        let what = format!("{how:?}: {process} ends");
        eventually(&what, LONG, async || (!std::fs::exists(&process).ok()?).then_some(())).await?;
    }
    Ok(())
}
