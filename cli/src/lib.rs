//! `weft` inspects a proxy, explains its decisions, and checks manifests.
//!
//! ```text
//!   args ──> picture ─┬─> source  (a proxy's /config_dump, or a file of it) ─┬─> Dump ──> get, status           as it is
//!                     └─> forward (that of a node, by the API server)       ─┘      └──> View ──> why, resolve  by ztunnel-core
//!   args ──> control (pages of the control plane, by the API server) ──> get nodes, diff, ca
//!   args ──> validate, analyze (files of manifests, or a cluster's objects, by weft-control)
//!        └─> cluster (an API server) ──> enroll, check, analyze, ca, version
//! ```
//!
//! It decides nothing itself: what it says is what the proxy's own code says about the same View.
//! Exit codes: 0 fine, 1 error, 2 wrong usage, 3 found something (a refusal, a problem).

#![forbid(unsafe_code)]

use std::{io::Write, process::ExitCode};

use anyhow::Result;

mod again;
mod analyze;
mod args;
mod ca;
mod causes;
mod check;
mod cluster;
mod completion;
mod control;
mod diff;
mod ends;
mod enroll;
mod forward;
mod get;
mod kinds;
mod nodes;
mod output;
mod picture;
mod pods;
mod resolve;
mod roots;
mod select;
mod source;
mod status;
mod validate;
mod version;
pub mod why;

pub use args::Cli;
use args::{Access, Ca, Command, Format, Source, What};
use check::When;
pub use cluster::ClusterError;
use enroll::Direction;
use get::Wanted;
use picture::Breadth;
use resolve::Question;
use select::{Rows, Selected};
pub use source::{SourceError, read};

/// How it ended, as scripts see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Fine,
    Error,
    Usage,
    /// The answer is no, or something is wrong.
    Found,
}

impl End {
    /// Help and version were asked for, and are no error.
    pub fn of_usage(error: &clap::Error) -> Self {
        if error.use_stderr() { Self::Usage } else { Self::Fine }
    }
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Fine => 0,
            End::Error => 1,
            End::Usage => 2,
            End::Found => 3,
        })
    }
}

/// Does what was asked and writes to `out`.
pub async fn run(cli: Cli, out: &mut impl Write) -> Result<End> {
    let Cli { source, access, within, output: format, command } = cli;
    let namespace = within.namespace.as_deref();
    match command {
        Command::Validate { dir } => return validate::validate(&dir, format, out),
        Command::Get { what, selector, again } => {
            let selector = selector.as_deref();
            return again::whenever_changed(again, out, async |out| {
                get(&source, &access, what, (namespace, selector), format, out).await
            })
            .await;
        }
        Command::Status(again) => {
            return again::whenever_changed(again, out, async |out| {
                let picture = source.load(&access, Breadth::EachProxy).await?;
                status::status(&picture, format, out)
            })
            .await;
        }
        Command::Why { src, dst } => {
            let decides = |dump| why::decider(dump, &src, &dst, namespace);
            let view = source::view(source.load_where(&access, decides).await?)?;
            let explanation = why::explain(&view, &src, &dst, namespace)?;
            return why::show(&explanation, format, out);
        }
        Command::Resolve { name, from, cluster_domain } => {
            let (text, from, cluster_domain) = (&*name, from.as_deref(), &*cluster_domain);
            let decides = |dump| resolve::decider(dump, from, namespace);
            let view = source::view(source.load_where(&access, decides).await?)?;
            let question = Question { text, from, namespace, cluster_domain };
            return resolve::show(&resolve::resolve(&view, &question)?, format, out);
        }
        Command::Enroll(asked) => {
            let target = enroll::Target::of(&asked, namespace)?;
            enroll::enroll(&access.connect().await?, Direction::In, &target, format, out).await?;
        }
        Command::Unenroll(asked) => {
            let target = enroll::Target::of(&asked, namespace)?;
            enroll::enroll(&access.connect().await?, Direction::Out, &target, format, out).await?;
        }
        Command::Check { pre } => {
            let when = if pre { When::BeforeInstallation } else { When::Installed };
            return check::check(&access.connect().await?, when, namespace, format, out).await;
        }
        Command::Analyze { filename: Some(path) } => {
            return analyze::files(&path, namespace, format, out);
        }
        Command::Analyze { filename: None } => {
            return analyze::cluster(&access.connect().await?, namespace, format, out).await;
        }
        Command::Diff { node } => {
            source.refuse_alone("control plane")?;
            return diff::diff(&access.connect().await?, &node, namespace, format, out).await;
        }
        Command::Ca(Ca::Status) => ca::status(&access.connect().await?, format, out).await?,
        Command::Ca(Ca::Rotate) => ca::rotate(&access.connect().await?, out).await?,
        Command::Version { client } => {
            version::version((!client).then_some(&access), format, out).await?;
        }
        Command::Completion { shell } => completion::completion(shell, out)?,
    }
    Ok(End::Fine)
}

async fn get(
    source: &Source,
    access: &Access,
    what: What,
    (namespace, selector): (Option<&str>, Option<&str>),
    format: Format,
    out: &mut impl Write,
) -> Result<End> {
    let Some(rows) = Rows::of(what) else {
        source.refuse_alone("nodes")?;
        nodes::nodes(&access.connect().await?, selector, format, out).await?;
        return Ok(End::Fine);
    };
    let (picture, selected) = match selector {
        Some(selector) => {
            source.refuse_alone("labels")?;
            let cluster = access.connect().await?;
            let selected = Selected::of(&cluster, rows, selector).await?;
            (source.load_of(cluster, get::breadth(rows)).await?, Some(selected))
        }
        None => (source.load(access, get::breadth(rows)).await?, None),
    };
    get::get(&picture, rows, &Wanted { namespace, selected }, format, out)?;
    picture.refuse_silence()?;
    Ok(End::Fine)
}
