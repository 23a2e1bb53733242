//! `weft why`: names in, the proxy's own reasoning out.

use std::io::Write;

use anyhow::Result;
use weft_model::{View, dump::Dump};
use ztunnel_core::{Answer, Effect, Encryption, Explanation, PolicyStep, Route};

pub use crate::ends::AskError;
use crate::{
    End,
    args::Format,
    ends::{client, destination},
    output::write,
};

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
