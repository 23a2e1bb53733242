//! The control plane killed with SIGKILL at moments of chance, while it writes its files.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time;
use weft_model::View;

use crate::{
    certificates::{WEB, ask, csr},
    discovery::{Proxy, policies},
    program::Program,
    scene::{HOUR, POD, POLICY, Scene, write},
};

/// Moments are drawn from it; the same ones each time, as far as a machine's load lets them be.
const SEED: u64 = 20_260_731;
const STARTS: u32 = 25;
const ROUNDS: u32 = 25;

/// xorshift64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u128) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u64::try_from(u128::from(self.0) % bound.max(1)).unwrap()
    }
}

fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("manifests")).unwrap();
    write(dir.path(), "web.yaml", &pod(0));
    write(dir.path(), "strict.yaml", POLICY);
    dir
}

/// What the pod's file says in its nth version: the address tells which it is.
fn pod(version: u32) -> String {
    POD.replace("10.0.0.1", &Ipv4Addr::from(0x0a00_0000 + version).to_string())
}

fn version(view: &View) -> Option<u32> {
    match view.workloads().next()?.addresses.first()? {
        IpAddr::V4(ip) => Some(u32::from(*ip) - 0x0a00_0000),
        IpAddr::V6(_) => None,
    }
}

fn root_key(dir: &Path) -> Option<Vec<u8>> {
    fs::read(dir.join("data/ca-key.pem")).ok()
}

/// Writes the pod's file as fast as it can.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Writer {
    fn start(dir: &Path, newest: Arc<AtomicU32>) -> Self {
        let (dir, stop) = (dir.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(SeqCst) {
                // Counted before it is written: what is served is never newer.
                let next = newest.fetch_add(1, SeqCst) + 1;
                write(&dir, "web.yaml", &pod(next));
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap();
    }
}

#[tokio::test]
async fn a_first_start_killed_at_any_moment_is_finished_by_the_next() {
    let mut draw = Draw(SEED);
    let began = Instant::now();
    Scene::program(folder()).await.stop().await;
    let start = began.elapsed();
    let mut roots = 0;
    for _ in 0..STARTS {
        let dir = folder();
        let moment = Duration::from_nanos(draw.below(start.as_nanos()));
        let mut program = Program::start(dir.path());
        time::timeout(moment, program.serves()).await.ok();
        drop(program);
        let key = root_key(dir.path());
        roots += u32::from(key.is_some());

        let scene = Scene::program(dir).await;
        let now = root_key(scene.path()).unwrap();
        assert!(key.is_none_or(|key| key == now), "killed after {moment:?}: another root");
        let left: Vec<_> = fs::read_dir(scene.path().join("data")).unwrap().collect();
        assert_eq!(left.len(), 4, "killed after {moment:?}: left over: {left:?}");
        let mut proxy = Proxy::connect(&scene).await;
        proxy.until(|view| version(view) == Some(0) && policies(view) == 1).await;
        scene.stop().await;
    }
    assert!((1..STARTS).contains(&roots), "{roots} roots: kills hit both sides of its making");
}

#[tokio::test]
async fn a_control_plane_killed_while_its_folder_changes_serves_the_last_good_state_again() {
    let mut draw = Draw(SEED);
    let mut scene = Scene::program(folder()).await;
    let (root, token) = (root_key(scene.path()).unwrap(), scene.token("a", HOUR));
    let newest = Arc::new(AtomicU32::new(0));
    let mut seen = 0;
    for round in 0..ROUNDS {
        let mut proxy = Proxy::connect(&scene).await;
        let writer = Writer::start(scene.path(), newest.clone());
        let target = seen + 1 + u32::try_from(draw.below(20)).unwrap();
        proxy.until(|view| version(view) >= Some(target)).await;
        let dir = scene.stop().await;
        writer.stop();
        seen = version(&proxy.view).unwrap();

        // What it kept is all that it has: both files are broken when it comes back.
        write(dir.path(), "web.yaml", "kind: Pod\nmetadata: {name: [");
        write(dir.path(), "strict.yaml", &POLICY.replace("STRICT}", "STRICT"));
        scene = Scene::program(dir).await;
        assert_eq!(root_key(scene.path()).unwrap(), root, "round {round}: another root");
        let mut proxy = Proxy::connect(&scene).await;
        proxy.until(|view| policies(view) == 1).await;
        let served = version(&proxy.view).unwrap();
        let possible = seen..=newest.load(SeqCst);
        assert!(possible.contains(&served), "round {round}: {served} is not of {possible:?}");
        ask(&scene, Some(&token), Some(WEB), &csr()).await.unwrap();
        seen = served;
    }
    scene.stop().await;
}
