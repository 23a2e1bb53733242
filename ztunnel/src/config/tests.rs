use std::collections::BTreeSet;

use super::*;

fn load(yaml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ztunnel.yaml");
    std::fs::write(&file, yaml).unwrap();
    let least = [("NODE_NAME", "n1"), ("XDS_ADDRESS", "https://weft:15012")];
    let env = least.iter().chain(env).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::load(Some(&file), env)
}

fn refusal(yaml: &str, env: &[(&str, &str)]) -> String {
    load(yaml, env).unwrap_err().to_string()
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.h2, H2::default());
    assert_eq!(config.node.name, "n1");
    assert_eq!(config.xds.address.unwrap().as_str(), "https://weft:15012");
}

#[test]
fn yaml_sets_fields_of_every_kind() {
    let config = load(
        "node: {name: a, workers: 4, network: net-1}\n\
         h2: {stream_window: 1MiB, ping_interval: 1m}\n\
         timeouts:\n  drain: 1m30s\n\
         dns:\n  proxy: off\n  upstreams: ['10.0.0.10:53', '[fd00::1]:53']\n\
         xds: {local_path: /etc/weft/dump.yaml}\n\
         log: {format: json, level: 'info,h2=warn'}\n",
        &[("NODE_NAME", "from-env")],
    )
    .unwrap();
    assert_eq!(config.node.name, "from-env", "the environment is over the file");
    assert_eq!(config.node.workers, 4);
    assert_eq!(config.h2.stream_window, ByteSize::mib(1));
    assert_eq!(config.h2.ping_interval, secs(60));
    assert_eq!(config.timeouts.drain, secs(90));
    assert_eq!(config.dns.proxy, Switch::Off);
    assert_eq!(
        config.dns.upstreams,
        ["10.0.0.10:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]
    );
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.xds.local_path, Some("/etc/weft/dump.yaml".into()));
}

#[test]
fn an_unknown_key_is_an_error_that_says_what_was_meant() {
    let text = refusal("limits: {pod_conections: 5}", &[]);
    assert!(text.starts_with("unknown field `limits.pod_conections` in "), "{text}");
    assert!(text.ends_with("did you mean `limits.pod_connections`?"), "{text}");
    assert!(refusal("lmits: {pod_connections: 5}", &[]).contains("`limits.pod_connections`"));
}

#[test]
fn a_bad_value_is_named_with_its_field_and_its_range() {
    let text = refusal("h2: {frame: 1KiB}", &[]);
    assert!(text.starts_with("`h2.frame` = `1KiB` in "), "{text}");
    assert!(text.ends_with("out of range; it takes 16KiB to 16777215"), "{text}");
    assert_eq!(
        refusal("", &[("ZTUNNEL_WORKER_THREADS", "many\n")]),
        "`node.workers` = `many\\n` in environment variable ZTUNNEL_WORKER_THREADS: \
         invalid digit found in string; it takes 0 to 256"
    );
    for (yaml, field) in [
        ("timeouts: {drain: 5}", "timeouts.drain"),
        ("timeouts: {drain: 1d}", "timeouts.drain"),
        ("timeouts: {drain: 99999999999999h}", "timeouts.drain"),
        ("xds: {root: relative.pem}", "xds.root"),
        ("log: {level: 'ztunnel=loud'}", "log.level"),
        ("log: {format: xml}", "log.format"),
        ("limits: {memory: 3GB}", "limits.memory"),
        ("listen: {admin: '0.0.0.0:15000'}", "listen.admin"),
        ("ca: {address: 'http://ca:1'}", "ca.address"),
        ("ca: {address: 'https://ca:1/x'}", "ca.address"),
        ("node: {trust_domain: 'UPPER'}", "node.trust_domain"),
        ("dns: {upstreams: [10.0.0.1]}", "dns.upstreams"),
        ("limits: {pod_connections: 100000}", "limits.pod_connections"),
    ] {
        let text = refusal(yaml, &[]);
        assert!(text.starts_with(&format!("`{field}` = `")), "{yaml}: {text}");
    }
}

#[test]
fn what_is_not_sections_of_fields_is_refused_and_so_is_a_key_given_twice() {
    for yaml in ["- a", "node: 5", "node: {name: {a: b}}", "h2: {frame: 1MiB, frame: 2MiB}", "a: ["]
    {
        assert!(matches!(load(yaml, &[]), Err(ConfigError::NotYaml { .. })), "{yaml}");
    }
}

#[test]
fn a_node_without_name_or_source_of_configuration_does_not_start() {
    let none: [(String, String); 0] = [];
    assert!(matches!(
        Config::load(None, none),
        Err(ConfigError::Missing { path: "node.name", .. })
    ));
    let named = [("NODE_NAME".to_owned(), "n".to_owned())];
    assert!(matches!(
        Config::load(None, named),
        Err(ConfigError::Missing { path: "xds.address", .. })
    ));
}

#[test]
fn istios_grace_period_leaves_time_to_end() {
    let drain = |s| load("", &[("TERMINATION_GRACE_PERIOD_SECONDS", s)]).unwrap().timeouts.drain;
    assert_eq!(drain("30"), secs(25));
    assert_eq!(drain("10"), secs(9));
}

#[test]
fn every_default_is_in_its_range_and_reads_back_as_itself() {
    let mut config = Config::default();
    for field in Config::default().fields() {
        let set = config.set(field.section, field.name, &field.default);
        assert!(set.is_ok(), "{}.{} = {}: {set:?}", field.section, field.name, field.default);
    }
    assert_eq!(config, Config::default());
}

#[test]
fn no_environment_variable_means_two_fields() {
    let names: Vec<_> = Config::default().fields().into_iter().filter_map(|f| f.env).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

#[test]
fn what_is_shown_holds_no_credential() {
    let text = refusal("", &[("XDS_ADDRESS", "https://user:hunter2@weft:1")]);
    assert!(text.contains("does not belong here"), "{text}");
    let shown = load("node: {workers: 3}", &[]).unwrap().to_json();
    assert_eq!(shown["node"]["workers"], "3");
    assert_eq!(shown["h2"]["stream_window"], "4MiB");
}
