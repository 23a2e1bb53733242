//! What a request asks for.

use std::collections::BTreeMap;

use prost_types::{Value, value::Kind};
use weft_xds::proto::auth::IstioCertificateRequest;

use super::Denied;

/// On whose behalf a node asks, as Istio's nodes say it.
const IDENTITY: &str = "ImpersonatedIdentity";
/// The uids of the pods for which it asks. Our nodes say them; Istio's do not.
const PODS: &str = "WeftPodUids";
/// The fingerprint of the roots that a node trusts. Our nodes say it; Istio's do not.
const BUNDLE: &str = "WeftTrustBundle";
/// More pods than any node has.
const PODS_MAX: usize = 1024;

/// Whose certificate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// The caller's own.
    Node,
    /// A workload's. `pods` is empty where the node does not say for which.
    Workload { identity: &'a str, pods: Vec<&'a str> },
}

/// Which roots the node says to trust.
pub(super) fn trusted(request: &IstioCertificateRequest) -> Result<Option<&str>, Denied> {
    let legal =
        |text: &&str| (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    fields(request)
        .get(BUNDLE)
        .map(|value| text(value).filter(legal).ok_or(Denied::Metadata { field: BUNDLE }))
        .transpose()
}

fn fields(request: &IstioCertificateRequest) -> &BTreeMap<String, Value> {
    static NOTHING: BTreeMap<String, Value> = BTreeMap::new();
    request.metadata.as_ref().map_or(&NOTHING, |metadata| &metadata.fields)
}

pub(super) fn asked(request: &IstioCertificateRequest) -> Result<Asked<'_>, Denied> {
    let fields = fields(request);
    let Some(value) = fields.get(IDENTITY) else { return Ok(Asked::Node) };
    let identity = text(value).ok_or(Denied::Metadata { field: IDENTITY })?;
    let malformed = || Denied::Metadata { field: PODS };
    let pods = match fields.get(PODS).map(|value| value.kind.as_ref()) {
        None => Vec::new(),
        Some(Some(Kind::ListValue(list))) if list.values.len() <= PODS_MAX => {
            list.values.iter().map(text).collect::<Option<_>>().ok_or_else(malformed)?
        }
        Some(_) => return Err(malformed()),
    };
    Ok(Asked::Workload { identity, pods })
}

fn text(value: &Value) -> Option<&str> {
    match value.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        Kind::NullValue(_)
        | Kind::NumberValue(_)
        | Kind::BoolValue(_)
        | Kind::StructValue(_)
        | Kind::ListValue(_) => None,
    }
}
