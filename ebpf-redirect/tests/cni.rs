//! The plugin's program, as a runtime starts it: by environment and input, heard by output and exit.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::tests;

tests![
    the_plugin_tells_its_versions,
    the_plugin_passes_on_what_it_was_given_when_the_agent_says_so,
    the_plugin_fails_by_output_and_exit_when_there_is_no_agent,
    the_plugin_takes_a_pod_down_without_an_agent,
];

const PLUGIN: &str = env!("CARGO_BIN_EXE_weft-cni");

fn call(command: &str, input: &Value) -> Output {
    let mut plugin = Command::new(PLUGIN)
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", "/run/netns/x")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that fails at once reads nothing.
    let _ = plugin.stdin.take().unwrap().write_all(input.to_string().as_bytes());
    plugin.wait_with_output().unwrap()
}

fn conf(dir: &TempDir) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "weft-cni",
        "socket": dir.path().join("agent.sock"), "exemptNamespaces": [], "prevResult": result(),
    })
}

fn result() -> Value {
    json!({ "cniVersion": "1.1.0", "ips": [{ "address": "10.1.0.5/24" }], "dns": {} })
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn the_plugin_tells_its_versions() {
    let output = call("VERSION", &json!({ "cniVersion": "1.0.0" }));
    assert!(output.status.success(), "{output:?}");
    let versions = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    assert_eq!(said(&output), json!({ "cniVersion": "1.0.0", "supportedVersions": versions }));
}

fn the_plugin_passes_on_what_it_was_given_when_the_agent_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("agent.sock")).unwrap();
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        stream.write_all(b"{\"state\":\"captured\"}\n").unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    });
    let output = call("ADD", &conf(&dir));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said(&output), result());
    let asked = json!({
        "command": "add",
        "pod": { "namespace": "shop", "name": "web", "uid": "u1" },
        "attachment": { "container": "c1", "netns": "/run/netns/x", "addresses": ["10.1.0.5"] },
    });
    assert_eq!(agent.join().unwrap(), asked);
}

fn the_plugin_fails_by_output_and_exit_when_there_is_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let output = call("ADD", &conf(&dir));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = said(&output);
    assert_eq!((&error["cniVersion"], &error["code"]), (&json!("1.1.0"), &json!(11)), "{error}");
    assert!(error["msg"].as_str().unwrap().starts_with("pod shop/web: "), "{error}");
}

fn the_plugin_takes_a_pod_down_without_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let output = call("DEL", &conf(&dir));
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
}
