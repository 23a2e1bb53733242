//! The steps of the tour, in their order.

use std::{fs, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use weft_tests::lab::{Capture, LONG, Mesh, Pod, Process, Signal, binary, wait_for};

use crate::story::{Story, curl, note, shown};

const MARKER: &str = "my-credit-card-4711";
const POLICY: &str = "web-callers";
const DRAWN: usize = 20;

pub(crate) fn all(story: &mut Story, mesh: &mut Mesh) -> Result<()> {
    stage(story, mesh)?;
    in_the_clear(story, mesh)?;
    enrolled(story, mesh)?;
    balanced(story, mesh)?;
    refused(story, mesh)?;
    cut(story, mesh)?;
    rotated(story, mesh)?;
    killed(story, mesh)?;
    outside(story, mesh)?;
    mesh.is_sound()?;
    shown("node-1", "weft status", &mesh.near.weft(&["status"])?);
    note("every step was as it was told");
    Ok(())
}

fn stage(story: &mut Story, mesh: &mut Mesh) -> Result<()> {
    story.step("Two nodes, five pods, each a network namespace; real servers in them");
    let pods = [&mesh.client, &mesh.intruder, &mesh.web[0], &mesh.web[1], &mesh.legacy];
    for pod in pods {
        mesh.servers.push(serve(mesh, pod)?);
        note(&format!("{:<9} {:<10} {:<9} {}", pod.name(), pod.v4(), pod.v6(), pod.node()));
    }
    note("weft-control, and on each node weft-redirect and ztunnel, the latter without privileges");
    Ok(())
}

/// Python's own web server, with a page that names the pod.
fn serve(mesh: &Mesh, pod: &Pod) -> Result<Process> {
    let dir = mesh.lab.dir().join("www").join(pod.name());
    fs::create_dir_all(&dir).context("make the server's folder")?;
    fs::write(dir.join("index.html"), format!("this is {}\n", pod.name()))?;
    let dir = dir.display().to_string();
    pod.serve_with(80, "python3", &["-m", "http.server", "80", "--bind", "::", "--directory", &dir])
}

fn in_the_clear(story: &mut Story, mesh: &Mesh) -> Result<()> {
    story.step("Before the mesh: whoever sits on the wire reads along");
    let capture = Capture::start(mesh.lab.wire(), MARKER)?;
    curl(&mesh.client, &format!("http://{}/?{MARKER}", mesh.web[1].v4()))?;
    let seen = capture.stop()?;
    ensure!(seen.marked > 0, "the marker was not seen on the wire, so the capture proves nothing");
    println!("{}", seen.dump(12));
    note(&format!("{MARKER} stands on the wire in the clear"));
    Ok(())
}

fn enrolled(story: &mut Story, mesh: &Mesh) -> Result<()> {
    story.step(
        "Enrolled: the same programs, the same command, mutual TLS between SPIFFE identities",
    );
    mesh.enroll()?;
    let url = format!("http://{}/?{MARKER}", mesh.web[1].v4());
    wait_for("the client reaches web-2 through the mesh", LONG, || mesh.client.curl(&url).ok())?;
    let capture = Capture::start(mesh.lab.wire(), MARKER)?;
    let body = curl(&mesh.client, &url)?;
    let seen = capture.stop()?;
    ensure!(body == "this is web-2\n", "web-2 answered {body:?}");
    seen.refuse_clear_text()?;
    ensure!(!seen.sample.is_empty(), "nothing passed on the wire");
    println!("{}", seen.dump(8));
    note(&format!("{} packets, and none with {MARKER}", seen.packets));
    let certs = mesh.near.weft(&["get", "certs"])?;
    shown("node-1", "weft get certs", &certs);
    Ok(())
}

fn balanced(story: &mut Story, mesh: &Mesh) -> Result<()> {
    story.step("One address, two pods: load is balanced");
    let url = format!("http://{}/", mesh.vip());
    curl(&mesh.client, &url)?;
    let mut answers = Vec::new();
    for _ in 0..DRAWN {
        answers.push(mesh.client.curl(&url)?);
    }
    let of = |name: &str| answers.iter().filter(|a| a.trim_end().ends_with(name)).count();
    let (one, two) = (of("web-1"), of("web-2"));
    ensure!(one > 0 && two > 0 && one + two == DRAWN, "not balanced: {answers:?}");
    note(&format!("of {DRAWN} connections, web-1 answered {one} and web-2 {two}"));
    Ok(())
}

fn refused(story: &mut Story, mesh: &Mesh) -> Result<()> {
    story.step("A policy refuses the intruder, by name");
    let url = format!("http://{}/", mesh.vip());
    curl(&mesh.intruder, &url)?;
    deny(mesh, &["intruder"])?;
    wait_for("the intruder is refused", LONG, || mesh.intruder.curl(&url).is_err().then_some(()))?;
    ensure!(curl(&mesh.intruder, &url).is_err(), "the intruder got through");
    curl(&mesh.client, &url)?;
    let why = ["why", "default/intruder", "web.default:80"];
    let why_said = mesh.near.weft(&why)?;
    shown("node-1", &format!("weft {}", why.join(" ")), &why_said);
    ensure!(why_said.contains(POLICY), "`weft why` does not name policy {POLICY}");
    Ok(())
}

/// Writes the policy as a person would: by editing its file in the folder.
fn deny(mesh: &Mesh, accounts: &[&str]) -> Result<()> {
    mesh.deny(POLICY, accounts)?;
    let path = mesh.lab.manifests().dir().join(format!("{POLICY}.yaml"));
    let text = fs::read_to_string(&path)?;
    let rule = text.lines().last().unwrap_or_default();
    shown("node-1", &format!("edit {}", path.display()), rule);
    Ok(())
}

fn cut(story: &mut Story, mesh: &mut Mesh) -> Result<()> {
    story.step("A policy edited in the folder cuts a live connection");
    mesh.servers.push(mesh.web[1].serve(8080)?);
    let url = format!("http://{}:8080/drip", mesh.web[1].v4());
    let mut drip = mesh.client.start("drip", "curl", &["-sSN", &url])?;
    shown("client", &format!("curl -N {url} &"), "");
    wait_for("the server drips", LONG, || (drip.log().lines().count() > 5).then_some(()))?;
    let edited = Instant::now();
    deny(mesh, &["intruder", "client"])?;
    let status = drip.exit(LONG).context("the connection was not cut")?;
    let after = edited.elapsed();
    ensure!(!status.success(), "curl ended well, it was not cut");
    let log = drip.log();
    let end: Vec<_> = log.lines().rev().take(3).collect();
    shown("client", "wait", &end.into_iter().rev().collect::<Vec<_>>().join("\n"));
    note(&format!("cut {after:.0?} after the edit"));
    deny(mesh, &["intruder"])?;
    let url = format!("http://{}/", mesh.vip());
    wait_for("the client is let in again", LONG, || mesh.client.curl(&url).ok())?;
    note("the edit is taken back, and the client is let in again");
    Ok(())
}

fn rotated(story: &mut Story, mesh: &Mesh) -> Result<()> {
    story.step("Certificates are rotated under load");
    let before = mesh.near.serial("client")?;
    let load = mesh.client.hammer(&format!("{}:80", mesh.vip()), 2, MARKER)?;
    load.answered(1, LONG)?;
    let after = mesh.near.renewed("client", &before)?;
    let tally = load.stop()?;
    tally.refuse_failures().context("a connection failed while certificates were rotated")?;
    note(&format!("serial {before} became {after}"));
    note(&format!("{} connections meanwhile, and none failed", tally.ok));
    Ok(())
}

fn killed(story: &mut Story, mesh: &mut Mesh) -> Result<()> {
    story.step(
        "The proxy is killed under load, and started again: nothing in the clear, nothing refused",
    );
    let watch = mesh.watch(MARKER)?;
    let load = mesh.client.hammer(&format!("{}:80", mesh.vip()), 2, MARKER)?;
    load.answered(20, LONG)?;
    let pid = mesh.near.proxy()?.pid();
    shown("node-1", &format!("kill -9 {pid}   # ztunnel"), "");
    mesh.near.proxy()?.signal(Signal::Kill)?;
    mesh.near.proxy()?.exit(LONG)?;
    let so_far = load.so_far();
    mesh.near.start_proxy()?;
    shown("node-1", "ztunnel --config ztunnel.yaml &", "");
    load.answered(so_far + 20, LONG)?;
    let tally = load.stop()?;
    // What a killed proxy carried is lost with it: one connection of each client.
    let lost = tally.reset + tally.other;
    ensure!(tally.refused + tally.timed_out == 0 && lost <= 2, "connections failed: {tally:?}");
    watch.refuse_clear_text()?;
    note(&format!(
        "{} connections, the slowest took {} ms; {} were open at the kill and lost, none was refused",
        tally.ok, tally.slowest_ms, lost
    ));
    note("no packet on either node or between them carried the marker in the clear");
    Ok(())
}

fn outside(story: &mut Story, mesh: &Mesh) -> Result<()> {
    story.step("Whoever is outside the mesh is let in while it is permissive, and refused when it is strict");
    let url = format!("http://{}/", mesh.web[1].v4());
    curl(&mesh.client, &format!("http://{}/", mesh.legacy.v4()))?;
    curl(&mesh.legacy, &url)?;
    mesh.strict()?;
    let path = mesh.lab.manifests().dir().join("strict.yaml");
    shown("node-1", &format!("cat {}", path.display()), &fs::read_to_string(&path)?);
    wait_for("legacy is refused", LONG, || mesh.legacy.curl(&url).is_err().then_some(()))?;
    if curl(&mesh.legacy, &url).is_ok() {
        bail!("legacy got through in strict mode");
    }
    curl(&mesh.client, &url)?;
    mesh.lab.manifests().delete("strict")?;
    Ok(())
}

/// What one can do with a mesh that was left up.
pub(crate) fn farewell(mesh: &Mesh) -> Result<()> {
    let (weft, demo) = (binary("weft")?, binary("weft-demo")?);
    let (weft, demo) = (weft.display(), demo.display());
    let (prefix, dir) = (mesh.lab.prefix(), mesh.lab.dir().display());
    println!(
        "
\x1b[1mThe mesh is up. To play with it:\x1b[0m
   a command in a pod       {}
   look into a proxy        ip netns exec {prefix}-node-1 {weft} get workloads
   why, or why not          ip netns exec {prefix}-node-1 {weft} why default/intruder web.default:80
   edit policy, services    {}
   logs                     {dir}/*.log
   tear it down             {demo} --down",
        mesh.client.how_to_run("curl http://10.96.0.10/"),
        mesh.lab.manifests().dir().display(),
    );
    Ok(())
}
