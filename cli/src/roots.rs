//! The roots that the mesh trusts, as the control plane publishes them.

use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use serde::Serialize;
use x509_parser::pem::Pem;

/// The `ConfigMap`, and its field.
pub(crate) const BUNDLE: &str = "weft-trust-bundle";
const FIELD: &str = "root-cert.pem";

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Root {
    pub(crate) name: String,
    pub(crate) serial: String,
    pub(crate) until: Timestamp,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RootError {
    #[error("it has no `{FIELD}`: no control plane has published its roots")]
    Missing,
    #[error("its `{FIELD}` holds no certificate")]
    None,
    #[error("its `{FIELD}` cannot be read: {reason}")]
    Unreadable { reason: String },
}

pub(crate) fn of(map: &ConfigMap) -> Result<Vec<Root>, RootError> {
    let text = map.data.as_ref().and_then(|data| data.get(FIELD)).ok_or(RootError::Missing)?;
    let unreadable = |reason: String| RootError::Unreadable { reason };
    let mut roots = Vec::new();
    for pem in Pem::iter_from_buffer(text.as_bytes()) {
        let pem = pem.map_err(|e| unreadable(e.to_string()))?;
        let certificate = pem.parse_x509().map_err(|e| unreadable(e.to_string()))?;
        let until = certificate.validity().not_after.timestamp();
        roots.push(Root {
            name: certificate.subject().to_string(),
            serial: certificate.raw_serial_as_string(),
            until: Timestamp::from_second(until).map_err(|e| unreadable(e.to_string()))?,
        });
    }
    if roots.is_empty() { Err(RootError::None) } else { Ok(roots) }
}
