//! What is in the images of this project: as their `Dockerfile` says, out of the workspace's own build.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::lab::binary;

const DOCKERFILE: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/images/Dockerfile"));
/// Where the build stage leaves what it has built.
const BUILT: &str = "/out/";

/// An image of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// Program and arguments of `ENTRYPOINT`.
    pub(super) entry_point: Vec<String>,
    /// Programs of this workspace, by their names; all are in the top folder.
    pub(super) programs: Vec<String>,
}

impl Image {
    /// The image that a container names, unless it is none of ours.
    pub(super) fn of(reference: &str) -> Option<Self> {
        let name = reference.rsplit('/').next()?.split(['@', ':']).next()?;
        let stage = DOCKERFILE.split("\nFROM ").find(|stage| {
            stage.lines().next().is_some_and(|from| from.ends_with(&format!(" AS {name}")))
        })?;
        let words = |instruction: &'static str| {
            let lines = stage.lines().filter_map(move |line| line.strip_prefix(instruction));
            lines.flat_map(str::split_whitespace)
        };
        let programs = words("COPY ").filter_map(|word| word.strip_prefix(BUILT));
        let entry_point = stage.lines().find_map(|line| line.strip_prefix("ENTRYPOINT "))?;
        let entry_point = serde_json::from_str(entry_point).ok()?;
        Some(Self { entry_point, programs: programs.map(str::to_owned).collect() })
    }

    /// Each program: where it is on this machine, and where in a container.
    pub(super) fn files(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let files = self.programs.iter().map(|name| {
            let built = binary(name).with_context(|| format!("an image holds {name}"))?;
            Ok((built, PathBuf::from("/").join(name)))
        });
        files.collect()
    }
}
