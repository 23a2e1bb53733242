//! Whether a cluster can have a mesh, or whether the mesh that it has is well.
//!
//! ```text
//!   before   what an installation needs          (--pre)
//!   mesh     control plane, nodes, trust, duties
//!   members  pods that are to be in the mesh, and policies
//! ```
//!
//! Each gathers objects and judges them by plain functions. Nothing is written.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::{
    End,
    args::Format,
    cluster::{Cluster, ClusterError},
    output::{Table, write},
};

mod before;
mod members;
mod mesh;
mod pod_state;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    check: &'static str,
    object: String,
    verdict: Verdict,
    says: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    Fine,
    /// Worth knowing, and no fault.
    Note,
    Problem,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Note => "note",
            Self::Problem => "PROBLEM",
        }
    }
}

impl Line {
    fn new(
        check: &'static str,
        object: impl Into<String>,
        verdict: Verdict,
        says: impl Into<String>,
    ) -> Self {
        Self { check, object: object.into(), verdict, says: says.into() }
    }

    /// What could not even be read is a problem by itself, and the other checks go on.
    fn unread(check: &'static str, error: &ClusterError) -> Self {
        Self::new(check, "", Verdict::Problem, error.to_string())
    }
}

pub(crate) async fn check(
    cluster: &Cluster,
    when: When,
    namespace: Option<&str>,
    format: Format,
    out: &mut impl Write,
) -> Result<End> {
    let lines = match when {
        When::BeforeInstallation => before::lines(cluster).await?,
        When::Installed => {
            let mut lines = mesh::lines(cluster).await?;
            lines.extend(members::lines(cluster, namespace).await);
            lines
        }
    };
    write(&lines, format, out, |out| told(&lines, out))?;
    let problem = lines.iter().any(|line| line.verdict == Verdict::Problem);
    Ok(if problem { End::Found } else { End::Fine })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    BeforeInstallation,
    Installed,
}

fn told(lines: &[Line], out: &mut impl Write) -> Result<()> {
    let mut table = Table::new(&["CHECK", "OBJECT", "VERDICT", ""]);
    for Line { check, object, verdict, says } in lines {
        let verdict = verdict.as_str().to_owned();
        table.row([(*check).to_owned(), object.clone(), verdict, says.clone()]);
    }
    table.write(out)?;
    match lines.iter().filter(|line| line.verdict == Verdict::Problem).count() {
        0 => writeln!(out, "no problems")?,
        1 => writeln!(out, "1 problem")?,
        n => writeln!(out, "{n} problems")?,
    }
    Ok(())
}
