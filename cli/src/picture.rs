//! What proxies know, from wherever it was asked for.

use weft_model::dump::Dump;

use crate::{
    args::{Access, Source},
    cluster::{Cluster, ClusterError},
    forward,
    source::{SourceError, fetch, from_file},
};

const ADMIN: &str = "http://127.0.0.1:15000";

/// What each of some proxies knows.
#[derive(Debug)]
pub(crate) enum Picture {
    /// Of the one that was meant.
    One(Dump),
    /// By node, in the order of their names; and those of which it could not be had.
    Nodes { known: Vec<(String, Dump)>, silent: Vec<(String, SourceError)> },
}

/// How much has to be asked, where nobody says which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breadth {
    /// What any proxy knows of the mesh.
    Mesh,
    /// What each knows of itself alone.
    EachProxy,
}

/// Where to ask.
enum Place<'a> {
    Here(Dump),
    Node(Cluster, &'a str),
    /// Whichever node fits.
    Cluster(Cluster),
}

impl Picture {
    /// With the name of the node, where several are meant.
    pub(crate) fn dumps(&self) -> Vec<(&str, &Dump)> {
        match self {
            Self::One(dump) => vec![("", dump)],
            Self::Nodes { known, .. } => {
                known.iter().map(|(node, dump)| (node.as_str(), dump)).collect()
            }
        }
    }

    /// Errors: not all that were asked have answered.
    pub(crate) fn refuse_silence(mut self) -> Result<(), SourceError> {
        let of = self.dumps().len() + self.silent().len();
        let Self::Nodes { silent, .. } = &mut self else { return Ok(()) };
        let count = silent.len();
        let Some((first, error)) = silent.drain(..).next() else { return Ok(()) };
        Err(SourceError::Silent { count, of, first, source: Box::new(error) })
    }

    /// The nodes whose proxies did not answer, and why.
    pub(crate) fn silent(&self) -> &[(String, SourceError)] {
        match self {
            Self::One(_) => &[],
            Self::Nodes { silent, .. } => silent,
        }
    }
}

impl Source {
    pub(crate) async fn load(
        &self,
        access: &Access,
        breadth: Breadth,
    ) -> Result<Picture, SourceError> {
        let breadth = if self.all_nodes { Breadth::EachProxy } else { breadth };
        Ok(match (self.place(access).await?, breadth) {
            (Place::Here(dump), _) => Picture::One(dump),
            (Place::Node(cluster, node), _) => {
                Picture::One(forward::of_node(&cluster, node).await?)
            }
            (Place::Cluster(cluster), Breadth::Mesh) => {
                Picture::One(forward::of_any(&cluster).await?.1)
            }
            (Place::Cluster(cluster), Breadth::EachProxy) => {
                let (mut known, mut silent) = (Vec::new(), Vec::new());
                for (node, answer) in forward::all(&cluster).await? {
                    match answer {
                        Ok(dump) => known.push((node, dump)),
                        Err(error) => silent.push((node, error)),
                    }
                }
                Picture::Nodes { known, silent }
            }
        })
    }

    /// What the proxy knows that decides: of a cluster, the one of the node that `decides` finds in what any knows.
    pub(crate) async fn load_where(
        &self,
        access: &Access,
        decides: impl Fn(Dump) -> Option<String>,
    ) -> Result<Dump, SourceError> {
        match self.place(access).await? {
            Place::Here(dump) => Ok(dump),
            Place::Node(cluster, node) => forward::of_node(&cluster, node).await,
            Place::Cluster(cluster) => {
                let (asked, dump) = forward::of_any(&cluster).await?;
                match decides(dump.clone()) {
                    Some(node) if node != asked => forward::of_node(&cluster, &node).await,
                    Some(_) | None => Ok(dump),
                }
            }
        }
    }

    async fn place(&self, access: &Access) -> Result<Place<'_>, SourceError> {
        if let Some(path) = &self.file {
            return from_file(path).map(Place::Here);
        }
        if let Some(admin) = &self.admin {
            return fetch(admin).await.map(Place::Here);
        }
        if let Some(node) = &self.node {
            return Ok(Place::Node(access.connect().await?, node));
        }
        if self.all_nodes || access.is_named() {
            return Ok(Place::Cluster(access.connect().await?));
        }
        match fetch(ADMIN).await {
            Ok(dump) => Ok(Place::Here(dump)),
            Err(SourceError::Unreachable { url, reason }) => match access.connect().await {
                Ok(cluster) => Ok(Place::Cluster(cluster)),
                Err(error @ ClusterError::NotFound { .. }) => {
                    Err(SourceError::Nowhere { url, reason, cluster: error.to_string() })
                }
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error),
        }
    }
}
