//! `weft why`: names in, the proxy's own reasoning out.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::Result;
use weft_model::{
    Hostname, NameError, Namespace, OriginalDst, Service, View, Workload, dump::Dump,
};
use ztunnel_core::{Answer, Effect, Encryption, Explanation, PolicyStep, Route};

use crate::{End, args::Format, output::write};

/// Why a question cannot be put. Each says what to ask instead.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no workload is called {text}; `weft get workloads` lists them")]
    NoWorkload { text: String },
    #[error("{text} needs a namespace; write <namespace>/{text} or add -n <namespace>")]
    NoNamespace { text: String },
    #[error("no workload has address {ip}; `weft get workloads` lists them")]
    NoSuchAddress { ip: IpAddr },
    #[error("{text} has no port; write it as {text}:<port>")]
    NoPort { text: String },
    #[error(
        "nothing in the mesh is called {text}; `weft get services` and `weft get workloads` list the names"
    )]
    NoDestination { text: String },
    #[error("{what} has no address in network `{network}`; ask for one of its pods instead")]
    NoAddress { what: String, network: String },
    #[error("{text} is no name")]
    Name { text: String, source: NameError },
}

/// Puts the question to the proxy's code. `namespace` is for names without one.
pub fn explain(
    view: &View,
    src: &str,
    dst: &str,
    namespace: Option<&str>,
) -> Result<Explanation, AskError> {
    let source = client(view, src, namespace)?;
    let dst = destination(view, source, dst)?;
    Ok(ztunnel_core::why(view, source, dst))
}

/// The node whose proxy decides: that of the destination, where there is one.
pub(crate) fn decider(dump: Dump, src: &str, dst: &str, namespace: Option<&str>) -> Option<String> {
    let view = crate::source::view(dump).ok()?;
    let explanation = explain(&view, src, dst, namespace).ok()?;
    let ends = explanation.routes.iter().filter_map(|route| route.workload.as_ref());
    let mut nodes =
        ends.filter_map(|uid| view.workload(uid)).map(|workload| workload.node.to_string());
    nodes.find(|node| !node.is_empty())
}

fn client<'v>(
    view: &'v View,
    text: &str,
    namespace: Option<&str>,
) -> Result<&'v Arc<Workload>, AskError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        let mut owners = view.workloads().filter(|w| w.addresses.contains(&ip.to_canonical()));
        let first = owners.next().ok_or(AskError::NoSuchAddress { ip })?;
        // The same choice as the mesh makes, where an address is being reused.
        let address = weft_model::NetworkAddress::new(first.network.clone(), ip);
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

fn destination(view: &View, source: &Workload, text: &str) -> Result<OriginalDst, AskError> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(OriginalDst::new(address));
    }
    let no_port = || AskError::NoPort { text: text.to_owned() };
    let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(no_port)?;
    let (what, own) = if let Some(service) = service(view, source, host) {
        let vips = service.vips.iter().filter(|vip| vip.network == source.network);
        (service.key().to_string(), vips.map(weft_model::NetworkAddress::address).collect())
    } else {
        let pod = client(view, host, Some(source.namespace.as_str()))
            .map_err(|_| AskError::NoDestination { text: host.to_owned() })?;
        let near = pod.network == source.network;
        (pod.uid.to_string(), if near { pod.addresses.clone() } else { Vec::<IpAddr>::new() })
    };
    let network = || source.network.to_string();
    let ip = own
        .iter()
        .min_by_key(|ip| !ip.is_ipv4())
        .ok_or_else(|| AskError::NoAddress { what, network: network() })?;
    Ok(OriginalDst::new(SocketAddr::new(*ip, port)))
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

/// Writes the explanation; a refusal anywhere is found something.
pub(crate) fn show(explanation: &Explanation, format: Format, out: &mut impl Write) -> Result<End> {
    write(explanation, format, out, |out| told(explanation, out))?;
    Ok(match explanation.answer {
        Answer::Allowed { .. } => End::Fine,
        Answer::Refused { .. } | Answer::Mixed { .. } => End::Found,
    })
}

fn told(e: &Explanation, out: &mut impl Write) -> Result<()> {
    match &e.source_identity {
        Some(identity) => writeln!(out, "{} proves to be {identity}", e.source)?,
        None => writeln!(out, "{} has no proxy, so it proves nothing", e.source)?,
    }
    match &e.service {
        Some(service) => writeln!(out, "and calls {}, which is service {service}", e.destination)?,
        None => writeln!(out, "and calls {}", e.destination)?,
    }
    for route in &e.routes {
        told_route(route, out)?;
    }
    for skipped in &e.left_out {
        writeln!(out, "\n-- {}\n   left out: {}", skipped.workload, skipped.reason)?;
    }
    writeln!(out, "\n{}", verdict(&e.answer))?;
    Ok(())
}

fn told_route(route: &Route, out: &mut impl Write) -> Result<()> {
    match &route.workload {
        Some(workload) => writeln!(out, "\n-> {workload}")?,
        None => writeln!(out, "\n-> outside of the mesh")?,
    }
    let encryption = match route.encryption {
        Encryption::MutualTls => "mutual TLS",
        Encryption::None => "in the clear",
    };
    writeln!(out, "   path: {}; {encryption}", route.path)?;
    for identity in &route.expects {
        writeln!(out, "   must prove to be {identity}")?;
    }
    for step in &route.policies {
        writeln!(out, "   policy {}", told_step(step))?;
    }
    if let Some(dry_run) = &route.dry_run {
        writeln!(out, "   dry run would refuse: {dry_run}")?;
    }
    writeln!(out, "   {}", verdict(&route.answer))?;
    Ok(())
}

fn told_step(step: &PolicyStep) -> String {
    let effect = match step.effect {
        Effect::Allow => "ALLOW",
        Effect::Deny => "DENY",
        Effect::DryRunAllow => "ALLOW, dry run",
        Effect::DryRunDeny => "DENY, dry run",
        Effect::Unknown => return format!("{} (not known, denies)", step.policy),
    };
    match step.rule {
        Some(rule) => format!("{} ({effect}): rule {rule} matches", step.policy),
        None => format!("{} ({effect}): no rule matches", step.policy),
    }
}

fn verdict(answer: &Answer) -> String {
    match answer {
        Answer::Allowed { because } => format!("ALLOWED: {because}"),
        Answer::Refused { because, .. } => format!("REFUSED: {because}"),
        Answer::Mixed { allowed, refused } => {
            format!("MIXED: {allowed} of {} endpoints allow it", allowed + refused)
        }
    }
}
