use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Environment, VERSIONS, answer};
use crate::cni::protocol::{Attachment, PodName, Reply, Request};

/// A runtime on a node whose agent answers once.
struct Node {
    dir: TempDir,
    agent: Option<JoinHandle<Request>>,
}

impl Node {
    fn without_agent() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), agent: None }
    }

    fn answering(reply: Reply) -> Self {
        let mut node = Self::without_agent();
        let listener = UnixListener::bind(node.dir.path().join("agent.sock")).unwrap();
        node.agent = Some(thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            serde_json::to_writer(&mut stream, &reply).unwrap();
            stream.write_all(b"\n").unwrap();
            serde_json::from_str(&line).unwrap()
        }));
        node
    }

    /// What the agent was asked.
    fn asked(self) -> Request {
        self.agent.unwrap().join().unwrap()
    }

    fn conf(&self) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "net", "type": "weft-cni",
            "socket": self.dir.path().join("agent.sock"),
            "exemptNamespaces": ["kube-system"],
            "prevResult": result(),
        })
    }

    fn call(&self, command: &str, args: &str) -> Result<Option<Value>, Value> {
        call(command, args, &self.conf())
    }
}

fn result() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/x" }],
        "ips": [{ "address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": 0 },
                { "address": "fd00::5/64" }],
        "dns": {}, "other": { "b": 1, "a": [1.5, 18_446_744_073_709_551_615_u64] },
    })
}

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1";

fn call(command: &str, args: &str, conf: &Value) -> Result<Option<Value>, Value> {
    let environment = Environment {
        command: Some(command.to_owned()),
        container: Some("c1".to_owned()),
        netns: Some("/run/netns/x".to_owned()),
        args: Some(args.to_owned()),
    };
    match answer(&environment, conf.to_string().as_bytes()) {
        Ok(said) => Ok(said.map(|said| serde_json::from_str(&said).unwrap())),
        Err(error) => Err(serde_json::from_str(&error.to_json()).unwrap()),
    }
}

fn pod() -> PodName {
    PodName { namespace: "shop".into(), name: "web".into(), uid: Some("u1".into()) }
}

fn attachment() -> Attachment {
    Attachment {
        container: "c1".into(),
        netns: Some("/run/netns/x".into()),
        addresses: vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
    }
}

#[test]
fn add_passes_on_what_the_plugins_before_made() {
    for reply in [Reply::Captured, Reply::Out { reason: "no label asks for it".into() }] {
        let node = Node::answering(reply);
        let said = node.call("ADD", ARGS).unwrap().unwrap();
        // In the order of the original too.
        assert_eq!(said.to_string(), result().to_string());
        assert_eq!(node.asked(), Request::Add { pod: pod(), attachment: attachment() });
    }
}

#[test]
fn add_of_a_pod_that_is_not_captured_fails_and_says_which_and_why() {
    let node = Node::answering(Reply::Failed { reason: "map PODS is full".into() });
    let expected = json!({
        "cniVersion": "1.0.0", "code": 100,
        "msg": "pod shop/web is not captured by weft: map PODS is full",
    });
    assert_eq!(node.call("ADD", ARGS), Err(expected));
}

#[test]
fn without_the_agent_add_fails_but_for_exempt_namespaces() {
    let node = Node::without_agent();
    let error = node.call("ADD", ARGS).unwrap_err();
    assert_eq!(error["code"], 11, "{error}");
    let socket = node.dir.path().join("agent.sock");
    let start = format!("pod shop/web: no answer from weft-redirect at {}: ", socket.display());
    assert!(error["msg"].as_str().unwrap().starts_with(&start), "{error}");
    let exempt = ARGS.replace("shop", "kube-system");
    assert_eq!(node.call("ADD", &exempt), Ok(Some(result())));
}

#[test]
fn a_pod_that_nobody_knows_is_turned_away_but_for_exempt_namespaces() {
    let unknown = || Node::answering(Reply::Unknown { reason: "the API server is away".into() });
    let expected = json!({
        "cniVersion": "1.0.0", "code": 11,
        "msg": "pod shop/web is not known to weft: the API server is away",
    });
    assert_eq!(unknown().call("ADD", ARGS), Err(expected));
    assert_eq!(unknown().call("ADD", &ARGS.replace("shop", "kube-system")), Ok(Some(result())));
}

#[test]
fn an_agent_that_hangs_up_has_not_answered() {
    let node = Node::without_agent();
    let listener = UnixListener::bind(node.dir.path().join("agent.sock")).unwrap();
    let agent = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
    });
    let error = node.call("ADD", ARGS).unwrap_err();
    assert_eq!(error["code"], 11, "{error}");
    agent.join().unwrap();
}

#[test]
fn who_stands_behind_no_network_plugin_is_told_so() {
    let mut conf = Node::without_agent().conf();
    conf.as_object_mut().unwrap().remove("prevResult");
    let error = call("ADD", ARGS, &conf).unwrap_err();
    assert_eq!(
        (&error["code"], error["msg"].as_str().unwrap().contains("prevResult")),
        (&json!(7), true)
    );
}

#[test]
fn what_is_no_pod_of_kubernetes_passes() {
    let node = Node::without_agent();
    assert_eq!(node.call("ADD", "IgnoreUnknown=1"), Ok(Some(result())));
}

#[test]
fn check_says_nothing_when_all_is_well_and_fails_as_add_does() {
    let node = Node::answering(Reply::Captured);
    assert_eq!(node.call("CHECK", ARGS), Ok(None));
    assert_eq!(node.asked(), Request::Check { pod: pod(), attachment: attachment() });
    let node = Node::answering(Reply::Failed { reason: "its steering is gone".into() });
    assert_eq!(node.call("CHECK", ARGS).unwrap_err()["code"], 100);
}

#[test]
fn del_never_fails() {
    let node = Node::answering(Reply::Released);
    assert_eq!(node.call("DEL", ARGS), Ok(None));
    let asked = node.asked();
    let gone = Attachment { addresses: Vec::new(), ..attachment() };
    assert_eq!(asked, Request::Del { pod: pod(), attachment: gone });
    assert_eq!(Node::without_agent().call("DEL", ARGS), Ok(None));
    assert_eq!(call("DEL", ARGS, &json!({ "cniVersion": "9" })), Ok(None));
    assert_eq!(call("DEL", "", &Node::without_agent().conf()), Ok(None));
}

#[test]
fn gc_and_status_need_no_agent() {
    for command in ["GC", "STATUS"] {
        assert_eq!(Node::without_agent().call(command, ""), Ok(None), "{command}");
    }
}

#[test]
fn version_needs_nothing_but_the_question() {
    let said = call("VERSION", "", &json!({ "cniVersion": "0.4.0" })).unwrap();
    assert_eq!(said, Some(json!({ "cniVersion": "0.4.0", "supportedVersions": VERSIONS })));
}

#[test]
fn bad_calls_have_the_codes_of_the_specification() {
    let good = Node::without_agent().conf();
    let mut old = good.clone();
    old["cniVersion"] = json!("0.2.0");
    let mut odd = good.clone();
    odd["prevResult"]["ips"][0]["address"] = json!("10.1.0.5.6/24");
    let table = [
        ("TELEPORT", ARGS, &good, 4, "TELEPORT"),
        ("ADD", ARGS, &json!({ "cniVersion": "1.0.0" }), 6, "socket"),
        ("ADD", ARGS, &old, 1, "0.2.0"),
        ("ADD", ARGS, &odd, 7, "10.1.0.5.6"),
    ];
    for (command, args, conf, code, word) in table {
        let error = call(command, args, conf).unwrap_err();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(word), "{error}");
    }
    let error = answer(&Environment::default(), fs::File::open("/dev/null").unwrap()).unwrap_err();
    let expected = r#"{"cniVersion":"1.1.0","code":4,"msg":"CNI_COMMAND is not set"}"#;
    assert_eq!(error.to_json(), expected);
    let environment = Environment {
        command: Some("ADD".into()),
        args: Some(ARGS.into()),
        ..Environment::default()
    };
    let error = answer(&environment, good.to_string().as_bytes()).unwrap_err();
    assert!(error.to_json().contains("CNI_CONTAINERID is not set"), "{error:?}");
}
