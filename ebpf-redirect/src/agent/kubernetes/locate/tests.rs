use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Locator, search, through};
use crate::agent::kubernetes::{Shared, objects};

const UID: &str = "5f0c7a31-9a3e-4d3e-8f1d-0c2f6f6b7c11";

/// A folder as `/proc` has them: processes with a cgroup, a start and a namespace.
struct Proc(TempDir);

impl Proc {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn process(&self, pid: u32, cgroup: &str, start: u64) -> &Self {
        let folder = self.0.path().join(pid.to_string());
        fs::create_dir_all(folder.join("ns")).unwrap();
        fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        let fields = "S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0";
        fs::write(folder.join("stat"), format!("{pid} (a) b) {fields} {start} 99 88")).unwrap();
        fs::write(folder.join("ns/net"), "").unwrap();
        self
    }

    fn netns(&self, pid: u32) -> PathBuf {
        self.0.path().join(pid.to_string()).join("ns/net")
    }

    fn search(&self, ids: &[&str], host: Option<(u64, u64)>) -> Option<PathBuf> {
        search(self.0.path(), ids, host).unwrap()
    }
}

fn identity(path: &Path) -> (u64, u64) {
    let meta = fs::metadata(path).unwrap();
    (meta.dev(), meta.ino())
}

#[test]
fn a_process_is_the_pod_s_by_its_cgroup() {
    let underscored = UID.replace('-', "_");
    let table = [
        (format!("/kubepods/burstable/pod{UID}/abc"), true),
        (format!("/kubepods/pod{UID}"), true),
        (
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{underscored}.slice/cri-containerd-abc.scope"
            ),
            true,
        ),
        (format!("/../../kubepods-pod{underscored}.slice/crio-abc.scope"), true),
        (format!("/kubepods/pod{UID}0/abc"), false),
        (format!("/kubepods/xpod{UID}/abc"), false),
        (format!("/user/{UID}"), false),
        ("/kubepods/pod5f0c7a31-9a3e-4d3e-8f1d-0c2f6f6b7c12/abc".to_owned(), false),
        ("/".to_owned(), false),
    ];
    for (cgroup, expected) in table {
        let proc = Proc::new();
        proc.process(7, &cgroup, 100);
        let found = proc.search(&[UID], None);
        assert_eq!(found, expected.then(|| proc.netns(7)), "{cgroup}");
    }
}

#[test]
fn the_oldest_process_holds_the_sandbox() {
    let proc = Proc::new();
    let cgroup = format!("/kubepods/pod{UID}/x");
    proc.process(10, &cgroup, 300).process(2000, &cgroup, 100).process(5, &cgroup, 200);
    assert_eq!(proc.search(&[UID], None), Some(proc.netns(2000)));
}

#[test]
fn a_process_in_the_host_s_namespace_is_not_where_the_pod_is() {
    let proc = Proc::new();
    let cgroup = format!("/kubepods/pod{UID}/x");
    proc.process(10, &cgroup, 100).process(11, &cgroup, 200);
    let host = identity(&proc.netns(10));
    assert_eq!(proc.search(&[UID], Some(host)), Some(proc.netns(11)));
}

#[test]
fn what_ends_while_it_is_looked_at_is_passed_over() {
    let proc = Proc::new();
    let cgroup = format!("/kubepods/pod{UID}/x");
    for (pid, lost) in [(1, "cgroup"), (2, "stat"), (3, "ns/net")] {
        proc.process(pid, &cgroup, 100);
        fs::remove_file(proc.0.path().join(pid.to_string()).join(lost)).unwrap();
    }
    fs::write(proc.0.path().join("meminfo"), "").unwrap();
    assert_eq!(proc.search(&[UID], None), None);
    proc.process(4, &cgroup, 200);
    assert_eq!(proc.search(&["another", UID], None), Some(proc.netns(4)));
}

#[tokio::test]
async fn a_pod_that_is_gone_is_looked_for_no_more() {
    use kube::runtime::watcher::Event;
    let object = serde_json::json!({
        "metadata": { "namespace": "shop", "name": "lost", "uid": UID,
            "labels": { "istio.io/dataplane-mode": "ambient" } },
        "status": { "phase": "Running", "podIPs": [{ "ip": "192.0.2.7" }] },
    });
    let lost = objects::facts(serde_json::from_value(object).unwrap()).unwrap();
    let shared = Shared::new();
    shared.tell(|cluster| cluster.pod_event(Event::Apply(lost.clone())));
    let unplaced = shared.look().unplaced();
    assert_eq!(unplaced, std::slice::from_ref(&lost));
    let mut locator = Locator::new(Vec::new(), Path::new("/proc/self/ns/net"));
    assert!(locator.look_for(&unplaced, &shared).await.is_some());
    assert_eq!(locator.tries.len(), 1);
    shared.tell(|cluster| cluster.pod_event(Event::Delete(lost)));
    assert_eq!(locator.look_for(&[], &shared).await, None);
    assert!(locator.tries.is_empty());
}

#[test]
fn a_path_of_the_host_is_found_from_within_a_container() {
    let host = tempfile::tempdir().unwrap();
    let there = |path: &str| {
        let path = host.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        path
    };
    let (netns, socket) = (there("run/netns/weft-test-1"), there("run/weft-test/cri.sock"));
    let found = |path: &str| through(host.path(), Path::new(path));
    assert_eq!(found("/run/netns/weft-test-1"), netns);
    // As a link to an absolute path it would lead out of the host's folder again.
    assert_eq!(found("/var/run/netns/weft-test-1"), netns);
    assert_eq!(found("/run/weft-test/cri.sock"), socket);
    // What is here is taken as it is, and what is nowhere is named as it was told.
    assert_eq!(found("/proc/self/ns/net"), Path::new("/proc/self/ns/net"));
    assert_eq!(found("/run/weft-test/nowhere"), Path::new("/run/weft-test/nowhere"));
}
