//! One rule a test: manifests in, resources out.

use std::sync::Arc;

use serde_json::Value;
use weft_model::{Authorization, Change, Service, ServiceName, TrustDomain, Workload, WorkloadUid};

use super::Mesh;
use crate::{
    index::Index,
    objects::{Kind, Object, Parsed, parse},
};

mod authorization;
mod endpoints;
mod peer_authentication;
mod pods;
mod service_entries;
mod services;

pub(crate) fn mesh() -> Mesh {
    Mesh::new("Kubernetes", TrustDomain::new("prod.example").unwrap())
}

pub(crate) fn objects(yaml: &str) -> Vec<Object> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    let object = |value: Value| {
        let text = |key: &str| value[key].as_str().unwrap().to_owned();
        let kind = Kind::of(&text("apiVersion"), &text("kind")).unwrap();
        match parse(kind, value).unwrap() {
            Parsed::Object(object) | Parsed::Unreadable(object, _) => object,
        }
    };
    documents.into_iter().map(object).collect()
}

/// What a folder's worth of manifests comes to.
pub(crate) struct Outcome(pub(crate) Index);

pub(crate) fn compiled(yaml: &str) -> Outcome {
    let mut index = Index::new(mesh());
    for object in &objects(yaml) {
        index.apply(object);
    }
    index.flush();
    Outcome(index)
}

impl Outcome {
    /// What it comes to when these come, too.
    fn apply(&mut self, yaml: &str) {
        for object in &objects(yaml) {
            self.0.apply(object);
        }
        self.0.flush();
    }

    pub(crate) fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        let uid = WorkloadUid::new(uid).unwrap();
        self.0.resources().find_map(|change| match change {
            Change::Workload(w) if w.uid == uid => Some(w.clone()),
            _ => None,
        })
    }

    fn pod(&self, name: &str) -> Arc<Workload> {
        self.workload(&format!("Kubernetes//Pod/shop/{name}")).unwrap()
    }

    fn service(&self, name: &str) -> Arc<Service> {
        let name: ServiceName = name.parse().unwrap();
        let found = self.0.resources().find_map(|change| match change {
            Change::Service(s) if s.key() == name => Some(s.clone()),
            _ => None,
        });
        found.unwrap()
    }

    fn policies(&self) -> Vec<Arc<Authorization>> {
        let policy = |change: &Change| match change {
            Change::Policy(p) => Some(p.clone()),
            _ => None,
        };
        self.0.resources().filter_map(policy).collect()
    }

    fn policy(&self) -> Arc<Authorization> {
        let all = self.policies();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    fn problems(&self) -> Vec<String> {
        let problems = self.0.problems();
        problems.iter().map(|p| format!("{} {}: {}", p.object, p.field, p.message)).collect()
    }
}

fn listed(workload: &Workload) -> Vec<String> {
    workload.policies.iter().map(ToString::to_string).collect()
}

/// `svc:target` pairs, by service.
fn endpoints(workload: &Workload) -> Vec<String> {
    let ports = |ports: &weft_model::Ports| {
        ports.iter().map(|(s, t)| format!("{s}:{t}")).collect::<Vec<_>>().join(",")
    };
    workload.services.iter().map(|(name, p)| format!("{name} {}", ports(p))).collect()
}
