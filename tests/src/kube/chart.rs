//! The chart of `manifests/weft`, by the real Helm.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Cluster, assets::asset};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/weft");
const RELEASE: &str = "weft";

/// What a release consists of, in the order in which Helm installs it.
#[derive(Debug, Clone)]
pub struct Chart {
    objects: Vec<Value>,
}

/// How a container is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
}

impl Chart {
    /// Renders it with these values over its own. Errors: what Helm complains of, as of a value that the schema
    /// does not know.
    pub fn render(namespace: &str, values: &Value) -> Result<Self> {
        let text = helm(&["template", RELEASE, CHART, "--namespace", namespace], Some(values))?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).context("read a manifest")?;
        // A template that says nothing for these values leaves an empty document.
        let objects = objects.into_iter().filter(|object| !object.is_null()).collect();
        Ok(Self { objects })
    }

    /// The definitions of kinds among its objects, where a cluster has none of them.
    pub fn definitions() -> Result<Vec<Value>> {
        let is_one = |object: &Value| text(object, "/kind") == Some("CustomResourceDefinition");
        let objects = Self::render("default", &Value::Null)?.objects;
        Ok(objects.into_iter().filter(is_one).collect())
    }

    /// What Helm finds wrong with it, also if it only recommends something else.
    pub fn lint(namespace: &str, values: &Value) -> Result<()> {
        helm(&["lint", "--strict", CHART, "--namespace", namespace], Some(values)).map(drop)
    }

    /// The values that are in force without any others.
    pub fn values() -> Result<Value> {
        let path = Path::new(CHART).join("values.yaml");
        let text = std::fs::read_to_string(&path);
        let text = text.with_context(|| format!("read {}", path.display()))?;
        serde_saphyr::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    /// All of it.
    pub fn objects(&self) -> &[Value] {
        &self.objects
    }

    /// Its service accounts and what they may.
    pub fn rights(&self) -> Vec<Value> {
        let is_one = |object: &&Value| {
            text(object, "/kind") == Some("ServiceAccount")
                || text(object, "/apiVersion") == Some("rbac.authorization.k8s.io/v1")
        };
        self.objects.iter().filter(is_one).cloned().collect()
    }

    /// One object. Errors: it is not there.
    pub fn object(&self, kind: &str, name: &str) -> Result<&Value> {
        let is_it = |object: &&Value| {
            text(object, "/kind") == Some(kind) && text(object, "/metadata/name") == Some(name)
        };
        self.objects.iter().find(is_it).with_context(|| format!("the chart has no {kind} {name}"))
    }

    /// How a container of a pod template is started where these are the pod's fields, such as `spec.nodeName`.
    /// Errors: it is not there, or it wants another field.
    pub fn container(
        &self,
        workload: (&str, &str),
        name: &str,
        fields: &[(&str, &str)],
    ) -> Result<Container> {
        let object = self.object(workload.0, workload.1)?;
        let mut all = ["initContainers", "containers"].into_iter().flat_map(|field| {
            let path = format!("/spec/template/spec/{field}");
            object.pointer(&path).and_then(Value::as_array).into_iter().flatten()
        });
        let found = all.find(|container| text(container, "/name") == Some(name));
        let found = found.with_context(|| format!("{workload:?} has no container {name}"))?;
        let mut env = BTreeMap::new();
        for variable in found.get("env").and_then(Value::as_array).into_iter().flatten() {
            let name = text(variable, "/name").context("a variable without a name")?;
            env.insert(name.to_owned(), value_of(variable, fields)?);
        }
        let args = found.get("args").and_then(Value::as_array);
        let args = args.context("a container without arguments")?;
        let args = args.iter().map(|arg| Ok(expanded(arg.as_str().context("no text")?, &env)));
        Ok(Container { args: args.collect::<Result<_>>()?, env })
    }
}

fn text<'a>(object: &'a Value, path: &str) -> Option<&'a str> {
    object.pointer(path)?.as_str()
}

fn value_of(variable: &Value, fields: &[(&str, &str)]) -> Result<String> {
    if let Some(value) = text(variable, "/value") {
        return Ok(value.to_owned());
    }
    let path = text(variable, "/valueFrom/fieldRef/fieldPath");
    let path = path.with_context(|| format!("{variable} is neither a value nor a field"))?;
    let found = fields.iter().find(|(field, _)| *field == path);
    Ok(found.with_context(|| format!("which {path}?"))?.1.to_owned())
}

/// As the kubelet does it; what is not known stays.
fn expanded(arg: &str, env: &BTreeMap<String, String>) -> String {
    let replace =
        |arg: String, (name, value): (&String, &String)| arg.replace(&format!("$({name})"), value);
    env.iter().fold(arg.to_owned(), replace)
}

impl Cluster {
    /// Installs the chart with Helm, or changes what is installed to these values over those that it has.
    pub fn helm_install(&self, namespace: &str, values: &Value) -> Result<()> {
        let more = ["--install", "--create-namespace", "--reset-then-reuse-values"];
        self.helm(&[&["upgrade", RELEASE, CHART][..], &more].concat(), namespace, Some(values))
    }

    /// Has Helm take away what it installed.
    pub fn helm_uninstall(&self, namespace: &str) -> Result<()> {
        self.helm(&["uninstall", RELEASE], namespace, None)
    }

    fn helm(&self, args: &[&str], namespace: &str, values: Option<&Value>) -> Result<()> {
        let kubeconfig = self.kubeconfig().to_string_lossy();
        let at = ["--namespace", namespace, "--kubeconfig", &kubeconfig];
        helm(&[args, &at].concat(), values).map(drop)
    }
}

fn helm(args: &[&str], values: Option<&Value>) -> Result<String> {
    let mut command = Command::new(asset("helm")?);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if values.is_some() {
        command.args(["--values", "-"]);
    }
    let mut child = command.spawn().context("start helm")?;
    let input = values.filter(|values| !values.is_null()).map_or("{}".to_owned(), Value::to_string);
    child.stdin.take().context("helm has an input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output().context("wait for helm")?;
    let (said, error) =
        (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "helm {}: {error}{said}", args.join(" "));
    Ok(said)
}
