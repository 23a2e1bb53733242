//! What proxies know, from wherever it was asked for.

use weft_model::dump::Dump;

use crate::{
    args::{Access, Source},
    cluster::{Cluster, ClusterError},
    forward::{self, Answer},
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

    /// None where nobody was asked.
    fn of(answers: Vec<Answer>) -> Option<Self> {
        let (mut known, mut silent) = (Vec::new(), Vec::new());
        for answer in answers {
            let node = answer.node().to_owned();
            match answer.said {
                Ok(dump) => known.push((node, dump)),
                Err(error) => silent.push((node, error)),
            }
        }
        (known.len() + silent.len() > 0).then_some(Self::Nodes { known, silent })
    }

    /// Errors: not all that were asked have answered.
    pub(crate) fn refuse_silence(self) -> Result<(), SourceError> {
        match self {
            Self::One(_) => Ok(()),
            Self::Nodes { known, silent } => {
                SourceError::of_silent(known.len() + silent.len(), silent)
            }
        }
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
        self.picture(self.place(access).await?, breadth).await
    }

    /// As [`Self::load`], where the cluster is asked for more than that.
    pub(crate) async fn load_of(
        &self,
        cluster: Cluster,
        breadth: Breadth,
    ) -> Result<Picture, SourceError> {
        let place = match &self.node {
            Some(node) => Place::Node(cluster, node),
            None => Place::Cluster(cluster),
        };
        self.picture(place, breadth).await
    }

    /// Errors: a proxy or a file is named, which knows nothing of `what`.
    pub(crate) fn refuse_alone(&self, what: &'static str) -> Result<(), SourceError> {
        match (&self.file, &self.admin) {
            (None, None) => Ok(()),
            (Some(_), _) => Err(SourceError::KnowsNo { option: "--file", what }),
            (None, Some(_)) => Err(SourceError::KnowsNo { option: "--admin", what }),
        }
    }

    async fn picture(&self, place: Place<'_>, breadth: Breadth) -> Result<Picture, SourceError> {
        let breadth = if self.all_nodes { Breadth::EachProxy } else { breadth };
        Ok(match (place, breadth) {
            (Place::Here(dump), _) => Picture::One(dump),
            (Place::Node(cluster, node), _) => {
                Picture::One(forward::of_node(&cluster, node).await?)
            }
            (Place::Cluster(cluster), Breadth::Mesh) => {
                Picture::One(forward::of_any(&cluster).await?.1)
            }
            (Place::Cluster(cluster), Breadth::EachProxy) => {
                Picture::of(forward::each(&cluster).await?)
                    .ok_or_else(|| SourceError::NoProxy { namespace: cluster.mesh.clone() })?
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
