//! Who calls, and whom: names and addresses as people write them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use weft_model::{
    Hostname, NameError, Namespace, NetworkAddress, OriginalDst, Service, View, Workload,
};

/// Why a question cannot be put. Each says what to ask instead.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no workload is called {text}; `weft get workloads` lists them")]
    NoWorkload { text: String },
    #[error("{text} needs a namespace; write <namespace>/{text} or add -n <namespace>")]
    NoNamespace { text: String },
    #[error("no workload has address {ip}; `weft get workloads` lists them")]
    NoSuchAddress { ip: IpAddr },
    #[error("{text} has no port; write it as {text}:<port>{those}", those = those(ports))]
    NoPort { text: String, ports: Vec<u16> },
    #[error(
        "nothing in the mesh is called {text}; `weft get services` and `weft get workloads` list the names"
    )]
    NoDestination { text: String },
    #[error("{what} has no address in network `{network}`; ask for one of its pods instead")]
    NoAddress { what: String, network: String },
    #[error("{text} is no name")]
    Name { text: String, source: NameError },
}

fn those(ports: &[u16]) -> String {
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    if ports.is_empty() { String::new() } else { format!(", of {}", ports.join(", ")) }
}

pub(crate) fn client<'v>(
    view: &'v View,
    text: &str,
    namespace: Option<&str>,
) -> Result<&'v Arc<Workload>, AskError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        let mut owners = view.workloads().filter(|w| w.addresses.contains(&ip.to_canonical()));
        let first = owners.next().ok_or(AskError::NoSuchAddress { ip })?;
        // The same choice as the mesh makes, where an address is being reused.
        let address = NetworkAddress::new(first.network.clone(), ip);
        return Ok(view.workload_at(&address).unwrap_or(first));
    }
    let missing = || AskError::NoNamespace { text: text.to_owned() };
    let (namespace, name) = match text.split_once('/') {
        Some(both) => both,
        None => (namespace.ok_or_else(missing)?, text),
    };
    let namespace = Namespace::new(namespace)
        .map_err(|source| AskError::Name { text: text.to_owned(), source })?;
    view.pod(&namespace, name).ok_or_else(|| AskError::NoWorkload { text: text.to_owned() })
}

/// Of whom only one port can be meant, none needs to be named.
pub(crate) fn destination(
    view: &View,
    source: &Workload,
    text: &str,
) -> Result<OriginalDst, AskError> {
    let (host, port) = split(text)?;
    let (own, ports) = match host.parse::<IpAddr>() {
        Ok(ip) => (ip, ports_at(view, source, ip)),
        Err(_) => named(view, source, host)?,
    };
    let only = || match ports.as_slice() {
        [only] => Ok(*only),
        ports => Err(AskError::NoPort { text: text.to_owned(), ports: ports.to_vec() }),
    };
    Ok(OriginalDst::new(SocketAddr::new(own, port.map_or_else(only, Ok)?)))
}

/// A name or an address, and the port, if one is written.
pub(crate) fn split(text: &str) -> Result<(&str, Option<u16>), AskError> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, None));
    }
    let Some((host, port)) = text.rsplit_once(':') else { return Ok((text, None)) };
    let port = port.parse::<u16>().ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| AskError::NoPort { text: text.to_owned(), ports: Vec::new() })?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    Ok((bare.unwrap_or(host), Some(port)))
}

/// The address of a service or of a pod, and the ports that it serves.
fn named(view: &View, source: &Workload, host: &str) -> Result<(IpAddr, Vec<u16>), AskError> {
    let (what, own, ports) = if let Some(service) = service(view, source, host) {
        let vips = service.vips.iter().filter(|vip| vip.network == source.network);
        let own = vips.map(NetworkAddress::address).collect();
        (service.key().to_string(), own, ports_of(service))
    } else {
        let pod = client(view, host, Some(source.namespace.as_str()))
            .map_err(|_| AskError::NoDestination { text: host.to_owned() })?;
        let near = pod.network == source.network;
        let own = if near { pod.addresses.clone() } else { Vec::new() };
        (pod.uid.to_string(), own, served_by(view, pod))
    };
    let network = || source.network.to_string();
    let ip = own.iter().min_by_key(|ip| !ip.is_ipv4()).copied();
    let ip = ip.ok_or_else(|| AskError::NoAddress { what, network: network() })?;
    Ok((ip, ports))
}

fn ports_at(view: &View, source: &Workload, ip: IpAddr) -> Vec<u16> {
    let address = NetworkAddress::new(source.network.clone(), ip);
    if let Some(workload) = view.workload_at(&address) {
        return served_by(view, workload);
    }
    view.service_at(&address, &source.namespace).map(|it| ports_of(it)).unwrap_or_default()
}

fn ports_of(service: &Service) -> Vec<u16> {
    service.ports.iter().map(|port| port.service_port).collect()
}

/// The ports by which services call it, as far as they are known.
fn served_by(view: &View, workload: &Workload) -> Vec<u16> {
    let mut all = Vec::new();
    for (name, own) in &workload.services {
        let ports = view.service(name).into_iter().flat_map(|it| &it.ports);
        all.extend(
            ports.map(|port| own.get(&port.service_port).copied().unwrap_or(port.target_port)),
        );
    }
    all.retain(|port| *port != 0);
    all.sort_unstable();
    all.dedup();
    all
}

/// By its whole host name, or as `<name>`, `<name>.<namespace>`, which a resolver would complete.
fn service<'v>(view: &'v View, source: &Workload, host: &str) -> Option<&'v Arc<Service>> {
    let hostname = Hostname::new(host).ok()?;
    let client = &source.namespace;
    let short = || {
        let (name, namespace) = host.split_once('.').unwrap_or((host, client.as_str()));
        let mut all: Vec<_> = view
            .services()
            .filter(|s| *s.name == *name && s.namespace.as_str() == namespace)
            .collect();
        all.sort_by_key(|s| (!s.canonical, s.hostname.clone()));
        all.into_iter().find_map(|s| view.service_named(&s.hostname, client))
    };
    view.service_named(&hostname, client).or_else(short)
}
