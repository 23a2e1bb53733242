use std::fs::{self, File};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Installation;
use crate::cni::merge::Entry;

const BRIDGE: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#;
const OTHER: &str = r#"{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"ptp"}]}"#;

struct Node(TempDir);

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["conf", "bin"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("plugin"), "the program").unwrap();
        Self(dir)
    }

    fn conf(&self, name: &str) -> PathBuf {
        self.0.path().join("conf").join(name)
    }

    fn installation(&self) -> Installation {
        Installation {
            conf_dir: self.0.path().join("conf"),
            bin_dir: self.0.path().join("bin"),
            plugin: self.0.path().join("plugin"),
            entry: Entry { socket: "/run/agent.sock".into(), exempt_namespaces: Vec::new() },
        }
    }

    fn files(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.path().join(folder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// As it comes to be: the types of the plugins in our file.
    async fn becomes(&self, name: &str, types: &[&str]) {
        let looked = async {
            while kinds(&self.conf(name)) != types {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let soon = tokio::time::timeout(Duration::from_secs(20), looked).await;
        assert!(soon.is_ok(), "{name} is not {types:?}: {:?}", self.files("conf"));
    }
}

fn kinds(path: &Path) -> Vec<String> {
    let Ok(text) = fs::read(path) else { return Vec::new() };
    // Whoever reads it sees it whole.
    let list: Value = serde_json::from_slice(&text).unwrap();
    let plugins = list["plugins"].as_array().unwrap().iter();
    plugins.map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_first_configuration_is_copied_and_left_as_it_is() {
    let node = Node::new();
    fs::write(node.conf("20-other.conflist"), OTHER).unwrap();
    fs::write(node.conf("10-net.conflist"), BRIDGE).unwrap();
    fs::set_permissions(node.conf("10-net.conflist"), fs::Permissions::from_mode(0o600)).unwrap();
    let installed = node.installation().install().unwrap();
    assert_eq!(installed.conf, Some(node.conf("10-net-weft.conflist")));
    assert!(installed.bad.is_empty(), "{:?}", installed.bad);
    let files = ["10-net-weft.conflist", "10-net.conflist", "20-other.conflist"];
    assert_eq!(node.files("conf"), files);
    assert_eq!(kinds(&node.conf(files[0])), ["bridge", "weft-cni"]);
    assert_eq!(fs::read_to_string(node.conf(files[1])).unwrap(), BRIDGE);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&node.conf(files[0])), 0o600);
    let program = node.0.path().join("bin/weft-cni");
    assert_eq!(fs::read_to_string(&program).unwrap(), "the program");
    assert_eq!(mode(&program), 0o755);
    assert_eq!(node.files("bin"), ["weft-cni"]);
}

#[test]
fn a_file_that_is_no_configuration_is_named_and_the_next_one_taken() {
    let node = Node::new();
    fs::write(node.conf("10-net.conflist"), "{").unwrap();
    fs::write(node.conf("20-other.conflist"), OTHER).unwrap();
    let installed = node.installation().install().unwrap();
    assert_eq!(installed.conf, Some(node.conf("20-other-weft.conflist")));
    let said: Vec<String> = installed.bad.iter().map(ToString::to_string).collect();
    let bad = node.conf("10-net.conflist");
    assert_eq!(said, [format!("CNI configuration {} is no JSON", bad.display())]);
}

#[test]
fn the_copy_of_a_configuration_stays_while_that_is_half_written() {
    let node = Node::new();
    fs::write(node.conf("10-net.conflist"), BRIDGE).unwrap();
    fs::write(node.conf("20-other.conflist"), OTHER).unwrap();
    let copy = node.conf("10-net-weft.conflist");
    node.installation().install().unwrap();
    for half in ["", "{", r#"{"cniVersion":"1.0.0","name":"net","plugins":[]}"#] {
        fs::write(node.conf("10-net.conflist"), half).unwrap();
        let installed = node.installation().install().unwrap();
        assert_eq!((installed.conf, installed.bad.len()), (Some(copy.clone()), 1), "{half:?}");
        assert_eq!(kinds(&copy), ["bridge", "weft-cni"], "{half:?}");
    }
    fs::remove_file(node.conf("10-net.conflist")).unwrap();
    let installed = node.installation().install().unwrap();
    assert_eq!(installed.conf, Some(node.conf("20-other-weft.conflist")));
    assert!(!copy.exists());
}

#[test]
fn what_was_installed_is_removed_and_nothing_else() {
    let node = Node::new();
    fs::write(node.conf("10-net.conflist"), BRIDGE).unwrap();
    fs::write(node.0.path().join("bin/bridge"), "another program").unwrap();
    node.installation().install().unwrap();
    for _ in ["once", "again"] {
        Installation::remove(&node.0.path().join("conf"), &node.0.path().join("bin")).unwrap();
        assert_eq!(node.files("conf"), ["10-net.conflist"]);
        assert_eq!(node.files("bin"), ["bridge"]);
    }
}

#[tokio::test]
async fn what_others_change_is_followed() {
    let node = Node::new();
    let installation = node.installation();
    let followed = async {
        // No network yet, then one, as on a node that comes up.
        fs::write(node.conf(".new"), BRIDGE).unwrap();
        fs::rename(node.conf(".new"), node.conf("10-net.conf.tmp")).unwrap();
        fs::rename(node.conf("10-net.conf.tmp"), node.conf("10-net.conflist")).unwrap();
        node.becomes("10-net-weft.conflist", &["bridge", "weft-cni"]).await;
        // The network plugin starts anew and writes something else.
        let changed = json!({ "cniVersion": "1.0.0", "name": "net",
            "plugins": [{ "type": "bridge" }, { "type": "portmap" }] });
        fs::write(node.conf("10-net.conflist"), changed.to_string()).unwrap();
        node.becomes("10-net-weft.conflist", &["bridge", "portmap", "weft-cni"]).await;
        // Somebody takes ours away.
        fs::remove_file(node.conf("10-net-weft.conflist")).unwrap();
        node.becomes("10-net-weft.conflist", &["bridge", "portmap", "weft-cni"]).await;
        // Another one comes first.
        fs::write(node.conf("05-other.conflist"), OTHER).unwrap();
        node.becomes("05-other-weft.conflist", &["ptp", "weft-cni"]).await;
        node.becomes("10-net-weft.conflist", &[]).await;
        // The program is lost.
        fs::remove_file(node.0.path().join("bin/weft-cni")).unwrap();
        while node.files("bin") != ["weft-cni"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = installation.keep() => unreachable!("it keeps for ever"),
        done = tokio::time::timeout(Duration::from_secs(30), followed) => done.unwrap(),
    }
}

#[tokio::test]
async fn a_disk_that_takes_its_time_holds_nobody_up() {
    let node = Node::new();
    let plugin = node.0.path().join("plugin");
    fs::remove_file(&plugin).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &plugin, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let (done, is_done) = mpsc::channel();
    // Ends the wait of a thread that does nothing else.
    let pipe = plugin.clone();
    let watchdog = thread::spawn(move || {
        let late = is_done.recv_timeout(Duration::from_secs(20)).is_err();
        if late {
            let _writer = File::options().write(true).open(&pipe).unwrap();
            fs::write(pipe.with_extension("whole"), "").unwrap();
            fs::rename(pipe.with_extension("whole"), pipe).unwrap();
        }
        late
    });
    let installation = node.installation();
    let others = async {
        // Who reads it waits until somebody writes.
        loop {
            let mut written = File::options();
            let written = written.write(true).custom_flags(libc::O_NONBLOCK).open(&plugin);
            match written {
                Ok(file) => return file,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    let ended = tokio::select! {
        biased;
        () = installation.keep() => false,
        written = tokio::time::timeout(Duration::from_secs(20), others) => written.is_ok(),
    };
    let _ = done.send(());
    assert!(!watchdog.join().unwrap() && ended, "a read of the disk held the thread up");
}
