//! A pod's UID, as it is used in file names.

use std::fmt;

/// Why a string is no pod UID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pod uid {0:?} is not 1 to 128 letters, digits, '-' or '_'")]
pub struct UidError(String);

/// The UID of a pod: a name that is safe in a path. A BPF file system allows no dots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(String);

impl PodUid {
    /// Refuses what cannot be a file's name.
    pub fn parse(uid: &str) -> Result<Self, UidError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if uid.is_empty() || uid.len() > 128 || !uid.bytes().all(fits) {
            return Err(UidError(uid.to_owned()));
        }
        Ok(Self(uid.to_owned()))
    }

    /// The UID as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
