//! Why a resource was refused.

use weft_model::NameError;

/// A resource that cannot be taken as it is. Not transient: the same bytes are refused again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {field}: {problem}")]
pub struct DecodeError {
    /// The resource by the name it carries, or its type where it carries none.
    pub resource: String,
    pub field: &'static str,
    pub problem: Problem,
}

/// What is wrong with a field's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("is missing")]
    Missing,
    #[error("not a protobuf message: {0}")]
    NotProtobuf(String),
    #[error("{bytes} bytes are of fields that are not known")]
    UnknownField { bytes: usize },
    #[error("unknown value {0}")]
    UnknownValue(i32),
    #[error("LEGACY_ISTIO_MTLS is not supported")]
    LegacyMtls,
    #[error("address {head:02x?} has {bytes} bytes, not 4 or 16")]
    AddressLength { head: Vec<u8>, bytes: usize },
    #[error("prefix length {length} is more than an address of {max} bits has")]
    PrefixLength { length: u32, max: u8 },
    #[error("port {0} is more than 65535")]
    Port(u32),
    #[error("what it holds is `{0}`")]
    Holds(String),
    #[error(transparent)]
    Name(#[from] NameError),
}

/// A problem and where it is; the resource is added when it is known.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) field: &'static str,
    pub(super) problem: Problem,
}

impl Bad {
    pub(super) fn new(field: &'static str, problem: impl Into<Problem>) -> Self {
        Self { field, problem: problem.into() }
    }

    pub(super) fn of(self, resource: &str) -> DecodeError {
        DecodeError::new(resource, self.field, self.problem)
    }
}

/// A name from the wire may be of any length and content; an error shows so much of it.
const SHOWN_CHARS_MAX: usize = 256;

impl DecodeError {
    pub(crate) fn new(resource: &str, field: &'static str, problem: Problem) -> Self {
        let resource =
            resource.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
        Self { resource, field, problem }
    }

    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    pub(super) fn not_protobuf(error: prost::DecodeError) -> Self {
        Self::new("resource", "body", Problem::NotProtobuf(error.to_string()))
    }
}
