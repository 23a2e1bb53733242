use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;

pub(crate) const DUMP: &str = r#"{
  "workloads": [
    {"uid": "Kubernetes//Pod/shop/client", "name": "client", "namespace": "shop",
     "serviceAccount": "client", "protocol": "HBONE", "workloadIps": ["10.0.0.1"], "node": "n1"},
    {"uid": "Kubernetes//Pod/shop/intruder", "name": "intruder", "namespace": "shop",
     "serviceAccount": "intruder", "protocol": "HBONE", "workloadIps": ["10.0.0.2"], "node": "n1"},
    {"uid": "Kubernetes//Pod/shop/web-0", "name": "web-0", "namespace": "shop",
     "serviceAccount": "web", "protocol": "HBONE", "workloadIps": ["10.0.0.3"], "node": "n2"},
    {"uid": "Kubernetes//Pod/shop/web-1", "name": "web-1", "namespace": "shop", "status": "Unhealthy",
     "serviceAccount": "web", "protocol": "HBONE", "workloadIps": ["10.0.0.4"], "node": "n2"}
  ],
  "services": [
    {"name": "web", "namespace": "shop", "hostname": "web.shop.svc.cluster.local",
     "vips": ["/10.1.0.1"], "ports": {"80": 8080},
     "endpoints": {
       "Kubernetes//Pod/shop/web-0": {"workloadUid": "Kubernetes//Pod/shop/web-0", "port": {"80": 8080}},
       "Kubernetes//Pod/shop/web-1": {"workloadUid": "Kubernetes//Pod/shop/web-1", "port": {"80": 8080}}}}
  ],
  "policies": [
    {"name": "no-intruder", "namespace": "shop", "scope": "Namespace", "action": "Deny",
     "rules": [[[{"principals": [{"Suffix": "/sa/nobody"}]}]],
               [[{"principals": [{"Exact": "cluster.local/ns/shop/sa/intruder"}]}]]]}
  ],
  "certificates": [{"identity": "spiffe://cluster.local/ns/shop/sa/client", "state": "Available",
    "certChain": [{"pem": "", "serialNumber": "7", "validFrom": "2026-01-01T00:00:00Z",
                   "expirationTime": "2999-01-02T00:00:00Z"}], "rootCerts": []}],
  "workloadState": {"uid-1": {"state": "Up",
    "connections": {"inbound": [], "outbound": [{"src": "10.0.0.1:40000",
      "originalDst": "10.1.0.1:80", "actualDst": "10.0.0.3:15008", "protocol": "HBONE"}]},
    "info": {"name": "client", "namespace": "shop", "trustDomain": "", "serviceAccount": "client"}}}
}"#;

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) error: String,
}

pub(crate) fn weft(args: &[&str], input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A binary that refuses its arguments does not read, and that is its right.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}

/// On the dump above.
fn ask(args: &[&str]) -> Ran {
    weft(&[&["--file", "-"], args].concat(), DUMP)
}

fn json(args: &[&str]) -> (i32, Value) {
    let ran = ask(&[args, &["-o", "json"]].concat());
    (ran.code, serde_json::from_str(&ran.out).unwrap())
}

#[test]
fn workloads_are_listed_in_a_table() {
    let ran = ask(&["get", "workloads"]);
    assert_eq!(
        ran.out.lines().take(2).collect::<Vec<_>>(),
        [
            "NAMESPACE   NAME       ADDRESSES   NODE   PROTOCOL   ACCOUNT    HEALTH      WAYPOINT",
            "shop        client     10.0.0.1    n1     HBONE      client     healthy     -",
        ]
    );
    assert_eq!((ran.code, ran.error.as_str()), (0, ""));
}

#[test]
fn every_list_has_a_table_json_and_yaml() {
    for (what, shows) in [
        ("workloads", "10.0.0.4"),
        ("services", "web.shop.svc.cluster.local"),
        ("policies", "no-intruder"),
        ("certs", "spiffe://cluster.local/ns/shop/sa/client"),
        ("connections", "10.0.0.3:15008"),
    ] {
        for format in ["table", "json", "yaml"] {
            let ran = ask(&["get", what, "-o", format]);
            assert_eq!(ran.code, 0, "{what} {format}: {}", ran.error);
            assert!(ran.out.contains(shows), "{what} {format}: {}", ran.out);
        }
        let (_, other) = json(&["get", what, "-n", "zoo"]);
        assert_eq!(other, Value::Array(Vec::new()), "{what} of another namespace");
    }
}

#[test]
fn a_list_in_json_is_the_dump_again() {
    let (_, workloads) = json(&["get", "workloads"]);
    assert_eq!(workloads[0]["uid"], "Kubernetes//Pod/shop/client");
    assert_eq!(workloads[0]["protocol"], "HBONE");
}

#[test]
fn a_dump_may_be_yaml() {
    let yaml = "workloads:\n- {uid: u, name: n, namespace: a, serviceAccount: s, protocol: TCP}\n\
                services:\n- {name: s, namespace: a, hostname: h, ports: {80: 8080}}\n";
    let ran = weft(&["--file", "-", "get", "services"], yaml);
    assert_eq!(ran.code, 0, "{}", ran.error);
    assert!(ran.out.contains("80->8080"), "{}", ran.out);
}

#[test]
fn why_names_the_policy_and_the_rule_and_returns_3() {
    let ran = ask(&["why", "shop/intruder", "web.shop:80"]);
    assert_eq!(ran.code, 3, "{}", ran.error);
    let expected = "\
Kubernetes//Pod/shop/intruder proves to be spiffe://cluster.local/ns/shop/sa/intruder
and calls 10.1.0.1:80, which is service shop/web.shop.svc.cluster.local

-> Kubernetes//Pod/shop/web-0
   path: HBONE, to 10.0.0.3:15008 for 10.0.0.3:8080; mutual TLS
   must prove to be spiffe://cluster.local/ns/shop/sa/web
   policy shop/no-intruder (DENY): rule 1 matches
   REFUSED: denied by policy shop/no-intruder rule 1

-- Kubernetes//Pod/shop/web-1
   left out: unhealthy

REFUSED: denied by policy shop/no-intruder rule 1
";
    assert_eq!(ran.out, expected);
    let (code, answer) = json(&["why", "shop/intruder", "web.shop:80"]);
    assert_eq!(code, 3);
    assert_eq!(answer["answer"]["verdict"], "refused");
    assert_eq!(answer["answer"]["policy"], "shop/no-intruder");
    assert_eq!(answer["routes"][0]["policies"][0]["rule"], 1);
    assert_eq!(answer["leftOut"][0]["reason"], "unhealthy");
}

#[test]
fn why_takes_every_way_to_name_the_two_ends() {
    for src in ["shop/client", "10.0.0.1"] {
        for dst in [
            "10.1.0.1:80",
            "web.shop.svc.cluster.local:80",
            "web.shop:80",
            "web:80",
            "web-0:8080",
            "shop/web-0:8080",
            "10.0.0.3:8080",
            // Each has one port.
            "web",
            "10.1.0.1",
            "web-0",
            "10.0.0.3",
        ] {
            let ran = ask(&["why", src, dst]);
            assert_eq!(ran.code, 0, "{src} {dst}: {}{}", ran.out, ran.error);
            assert!(ran.out.contains("Pod/shop/web-0"), "{src} {dst}: {}", ran.out);
            assert!(ran.out.contains("\nALLOWED: "), "{src} {dst}: {}", ran.out);
        }
    }
    assert_eq!(ask(&["why", "client", "web:80", "-n", "shop"]).code, 0);
}

#[test]
fn an_error_says_what_to_do_next_and_returns_1() {
    for (args, says) in [
        (&["why", "client", "web:80"][..], "write <namespace>/client or add -n"),
        (&["why", "shop/nobody", "web:80"], "`weft get workloads` lists them"),
        (&["why", "10.9.9.9", "web:80"], "no workload has address 10.9.9.9"),
        (&["why", "shop/client", "10.9.9.9"], "write it as 10.9.9.9:<port>"),
        (&["why", "shop/client", "web:http"], "write it as web:http:<port>"),
        (&["why", "shop/client", "nothing:80"], "nothing in the mesh is called nothing"),
        (&["validate", "/nowhere/at/all"], "give the folder that holds the manifests"),
    ] {
        let ran = ask(args);
        assert_eq!(ran.code, 1, "{args:?} {}", ran.out);
        assert!(ran.error.contains(says), "{args:?}: {}", ran.error);
    }
    let ran = weft(&["--file", "/nowhere/dump.json", "status"], "");
    assert_eq!(ran.code, 1);
    assert!(ran.error.contains("cannot read /nowhere/dump.json"), "{}", ran.error);
    assert!(ran.error.contains("config_dump"), "{}", ran.error);
}

#[test]
fn a_malformed_dump_is_refused_by_path_and_value() {
    let bad = DUMP.replace("/10.1.0.1", "10.1.0.1");
    let ran = weft(&["--file", "-", "status"], &bad);
    assert_eq!(ran.code, 1);
    assert!(ran.error.contains("services[0].vips[0]"), "{}", ran.error);
    assert!(ran.error.contains("`10.1.0.1` is not of the form"), "{}", ran.error);
}

#[test]
fn of_several_ports_one_has_to_be_named() {
    let dump = DUMP.replace("\"ports\": {\"80\": 8080}", "\"ports\": {\"80\": 8080, \"81\": 8081}");
    let ran = weft(&["--file", "-", "why", "shop/client", "web"], &dump);
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert!(ran.error.contains("write it as web:<port>, of 80, 81"), "{}", ran.error);
}

#[test]
fn resolve_says_what_the_mesh_makes_of_a_name_and_returns_3_where_that_fails() {
    let ran = ask(&["resolve", "web:80", "--from", "shop/client"]);
    let expected = "\
web:80 is service shop/web.shop.svc.cluster.local to Kubernetes//Pod/shop/client
name: web.shop.svc.cluster.local
addresses: 10.1.0.1
ports: 80->8080

ENDPOINT                     ADDRESSES   HEALTH      NODE   LOCALITY   LEFT OUT
Kubernetes//Pod/shop/web-0   10.0.0.3    healthy     n2     -          -
Kubernetes//Pod/shop/web-1   10.0.0.4    unhealthy   n2     -          unhealthy
";
    assert_eq!((ran.code, ran.out.as_str(), ran.error.as_str()), (0, expected, ""));
    for (format, shows) in [("wide", "unhealthy   n2"), ("yaml", "80: unhealthy")] {
        let ran = ask(&["resolve", "web", "-n", "shop", "-o", format]);
        assert_eq!(ran.code, 0, "{format}: {}", ran.error);
        assert!(ran.out.contains(shows), "{format}: {}", ran.out);
    }
    let (code, said) = json(&["resolve", "10.0.0.3", "-n", "shop"]);
    assert_eq!((code, &said["is"]), (0, &Value::from("workload")));
    let ran = ask(&["resolve", "example.com", "-n", "shop"]);
    assert_eq!(ran.code, 3, "{}", ran.out);
    assert!(ran.out.contains("not of the mesh to pods of namespace shop"), "{}", ran.out);
    assert_eq!(ask(&["resolve", "web", "--from", "shop/nobody"]).code, 1);
    assert_eq!(ask(&["resolve"]).code, 2);
}

#[test]
fn what_only_a_cluster_knows_is_not_asked_of_a_file() {
    for (args, says) in [
        (&["get", "workloads", "-l", "app=web"][..], "--file names knows no labels"),
        (&["get", "nodes"], "--file names knows no nodes"),
        (&["diff", "node/n1"], "--file names knows no control plane"),
    ] {
        let ran = ask(args);
        assert_eq!(ran.code, 1, "{args:?} {}", ran.out);
        assert!(ran.error.contains(says), "{args:?}: {}", ran.error);
    }
    assert_eq!(ask(&["diff", "n1"]).code, 2);
}

#[test]
fn wrong_usage_returns_2_and_help_0() {
    assert_eq!(ask(&["get", "everything"]).code, 2);
    assert_eq!(weft(&[], "").code, 2);
    let help = weft(&["--help"], "");
    assert_eq!(help.code, 0);
    assert!(help.out.contains("Exit codes"), "{}", help.out);
}

#[test]
fn status_counts_and_names_what_is_wrong() {
    let (code, status) = json(&["status"]);
    assert_eq!(code, 0, "{status}");
    assert_eq!(status["workloads"], 4);
    assert_eq!(status["connections"], 1);
    let bad = DUMP
        .replace("\"Available\"", "\"Unavailable: the CA refused\"")
        .replace("\"node\": \"n1\"", "\"authorizationPolicies\": [\"shop/gone\"]");
    let ran = weft(&["--file", "-", "status"], &bad);
    assert_eq!(ran.code, 3, "{}", ran.error);
    assert!(ran.out.contains("is not available: Unavailable: the CA refused"), "{}", ran.out);
    assert!(ran.out.contains("shop/client lists policy shop/gone"), "{}", ran.out);
}

#[test]
fn validate_returns_3_where_the_control_plane_would_complain() {
    let dir = tempfile::tempdir().unwrap();
    let check = |path: &Path| weft(&["validate", path.to_str().unwrap()], "");
    std::fs::write(
        dir.path().join("good.yaml"),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
    )
    .unwrap();
    let ran = check(dir.path());
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.error);
    assert!(ran.out.contains("no problems"), "{}", ran.out);
    std::fs::write(dir.path().join("bad.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: [").unwrap();
    let ran = check(dir.path());
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.error);
    assert!(ran.out.contains("bad.yaml"), "{}", ran.out);
}

#[test]
fn analyze_of_files_is_of_the_namespace_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.yaml");
    let policy = |namespace: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: typo, namespace: {namespace}}}\nspec: {{rules: [{{form: []}}]}}\n"
        )
    };
    std::fs::write(&file, [policy("shop"), policy("zoo")].join("---\n")).unwrap();
    for (namespace, code, says) in [("shop", 3, "1 problem in"), ("farm", 0, "no problems in")] {
        let ran = weft(&["analyze", "-f", file.to_str().unwrap(), "-n", namespace], "");
        assert_eq!(ran.code, code, "{namespace}: {}{}", ran.out, ran.error);
        assert!(ran.out.contains(says) && !ran.out.contains("zoo"), "{namespace}: {}", ran.out);
    }
    assert!(weft(&["analyze", "-f", file.to_str().unwrap()], "").out.contains("2 problems in"));
}

#[test]
fn without_a_cluster_it_is_said_which_kubeconfig_was_looked_for() {
    let ran = Command::new(env!("CARGO_BIN_EXE_weft"))
        .arg("check")
        .env("KUBECONFIG", "/nowhere/config")
        .output()
        .unwrap();
    let error = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{error}");
    assert!(error.contains("no cluster is configured") && error.contains("/nowhere"), "{error}");
}

#[test]
fn a_name_from_outside_cannot_move_the_terminals_cursor() {
    let bad = DUMP.replace("\"node\": \"n1\"", "\"node\": \"n\\u001b[2J\"");
    let ran = weft(&["--file", "-", "get", "workloads"], &bad);
    assert_eq!(ran.code, 0, "{}", ran.error);
    assert!(!ran.out.contains('\u{1b}'), "{:?}", ran.out);
}

#[test]
fn the_version_is_known_without_a_cluster() {
    let ran = weft(&["version", "--client"], "");
    assert_eq!((ran.code, ran.out.as_str()), (0, "weft: 0.1.0\n"));
    let ran = weft(&["version", "--kubeconfig", "/nowhere/config"], "");
    assert_eq!(ran.code, 0, "{}", ran.error);
    assert!(
        ran.out.contains("not known: cannot use the kubeconfig /nowhere/config"),
        "{}",
        ran.out
    );
}

#[test]
fn each_shell_is_given_all_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = weft(&["completion", shell], "");
        assert_eq!(ran.code, 0, "{shell}: {}", ran.error);
        for word in ["unenroll", "validate", "kubeconfig"] {
            assert!(ran.out.contains(word), "{shell} does not know {word}");
        }
    }
    assert_eq!(weft(&["completion", "tcsh"], "").code, 2);
}

#[test]
fn a_wide_table_has_more_columns() {
    let ran = ask(&["get", "workloads", "-o", "wide"]);
    assert!(ran.out.contains("Kubernetes//Pod/shop/web-0"), "{}", ran.out);
    let ran = ask(&["get", "services", "-o", "wide"]);
    assert!(ran.out.contains("Kubernetes//Pod/shop/web-1"), "{}", ran.out);
}

#[test]
fn what_is_watched_is_said_again_when_it_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump.json");
    std::fs::write(&file, DUMP).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(["--file", file.to_str().unwrap(), "get", "workloads", "-w"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (tell, told) = mpsc::channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
    });
    let until = |word: &str| {
        let mut lines = 0;
        while !told.recv_timeout(Duration::from_mins(1)).unwrap().contains(word) {
            lines += 1;
        }
        lines
    };
    assert_eq!(until("web-1"), 4);
    let next = folder.path().join("next");
    std::fs::write(&next, DUMP.replace("web-1", "web-9")).unwrap();
    std::fs::rename(&next, &file).unwrap();
    // An empty line, and all of it once.
    assert_eq!(until("web-9"), 5);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap().ok();
}
