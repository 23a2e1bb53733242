//! How the configuration stands: where it came from, how old it is, what is not understood.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use weft_xds::delta::Refused;

/// What admin shows and readiness is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub control_plane: ControlPlane,
    pub local_file: LocalFile,
    /// How current the configuration in use is.
    pub current: Current,
    /// Resources whose newest form was not taken; of each the form before, if any, is in use.
    pub refused: Vec<Refused>,
    /// The generation of the View that is on disk for the next start.
    pub kept: Option<u64>,
}

/// The stream that configuration comes over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlPlane {
    NotConfigured,
    /// Dialling, or waiting for its first answers.
    Connecting,
    /// It has answered for every type.
    Subscribed,
    /// The last stream ended, or none could be opened.
    Lost {
        reason: String,
    },
}

/// The file that configuration is read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LocalFile {
    NotConfigured,
    NotRead,
    Read,
    /// Its newest form was not taken; the form before stays.
    Refused {
        reason: String,
    },
}

/// Until when the configuration in use is known to have been the newest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Current {
    /// There is none yet.
    Never,
    /// It is the newest.
    Now,
    /// It was, then; the control plane has not been heard since.
    Until(SystemTime),
}

impl Current {
    /// How long the configuration has been without confirmation; `None` when there is none.
    pub fn age(self, now: SystemTime) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Now => Some(Duration::ZERO),
            // A clock that was set back makes it look younger, never an error.
            Self::Until(then) => Some(now.duration_since(then).unwrap_or_default()),
        }
    }
}

/// Whether there is a whole configuration to serve by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Readiness {
    Ready,
    /// What is waited for.
    Pending(&'static str),
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Pending(what) => f.write_str(what),
        }
    }
}

impl Status {
    /// Ready from the first whole configuration on, however old it becomes.
    pub fn readiness(&self) -> Readiness {
        match self.current {
            Current::Now | Current::Until(_) => Readiness::Ready,
            Current::Never => match self.control_plane {
                ControlPlane::NotConfigured => Readiness::Pending("local configuration file"),
                _ => Readiness::Pending("configuration from the control plane"),
            },
        }
    }
}
