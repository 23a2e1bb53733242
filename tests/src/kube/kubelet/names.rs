//! The names of services, in a file instead of in a DNS server. No `kube-proxy` runs here: each name leads to the
//! endpoints themselves, whose ports must be those of the service.

use std::{collections::BTreeMap, fs, path::PathBuf, pin::pin};

use futures_util::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, Config, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};

const SERVICE: &str = "kubernetes.io/service-name";
const MACHINE: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// Keeps the file as the API server says, for as long as it is awaited.
pub(super) async fn follow(config: Config, path: PathBuf) {
    let client = Client::try_from(config).expect("the cluster's own client was made of it");
    let slices = Api::<EndpointSlice>::all(client);
    let events = watcher(slices, watcher::Config::default()).default_backoff();
    let mut events = pin!(events);
    let mut known = BTreeMap::new();
    let mut next = BTreeMap::new();
    write(&path, &known);
    while let Some(event) = events.next().await {
        let key = |slice: &EndpointSlice| (slice.namespace(), slice.name_any());
        match event {
            Ok(Event::Init) => next.clear(),
            Ok(Event::InitApply(slice)) => drop(next.insert(key(&slice), slice)),
            Ok(Event::InitDone) => known = std::mem::take(&mut next),
            Ok(Event::Apply(slice)) => drop(known.insert(key(&slice), slice)),
            Ok(Event::Delete(slice)) => drop(known.remove(&key(&slice))),
            // It comes back: the API server may be away for a while.
            Err(_) => {}
        }
        write(&path, &known);
    }
}

type Slices = BTreeMap<(Option<String>, String), EndpointSlice>;

/// In place: containers have this very file mounted.
fn write(path: &PathBuf, slices: &Slices) {
    let lines = slices.values().flat_map(lines);
    let text: String = std::iter::once(MACHINE.to_owned()).chain(lines).collect();
    if fs::read_to_string(path).is_ok_and(|is| is == text) {
        return;
    }
    if let Err(error) = fs::write(path, text) {
        eprintln!("cannot write {}: {error}", path.display());
    }
}

fn lines(slice: &EndpointSlice) -> Vec<String> {
    let (Some(service), Some(namespace)) = (slice.labels().get(SERVICE), slice.namespace()) else {
        return Vec::new();
    };
    let name = format!("{service}.{namespace}.svc");
    let endpoints = slice.endpoints.iter().flatten();
    let ready = endpoints.filter(|it| {
        it.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false))
    });
    let addresses = ready.flat_map(|endpoint| &endpoint.addresses);
    addresses.map(|address| format!("{address} {name} {name}.cluster.local\n")).collect()
}
