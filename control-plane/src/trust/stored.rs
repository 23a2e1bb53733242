//! Roots and issuing CA as Secrets hold them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use weft_certs::IssuingCa;
use zeroize::Zeroizing;

use super::rotation::{Root, Roots, Stage};
use crate::clock::seconds;

/// The Secrets.
pub(super) const ROOT: &str = "weft-root-ca";
pub(super) const ISSUING: &str = "weft-issuing-ca";

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const STAGE: &str = "stage";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const PREVIOUS: &str = "previous.crt";
const CROSS: &str = "cross.crt";
/// Seconds since 1970: when a change began, or when it is over.
const SINCE: &str = "since";
const UNTIL: &str = "until";

const SETTLED: &str = "settled";
const PREPARING: &str = "preparing";
const RETIRING: &str = "retiring";

pub(super) type Data = BTreeMap<String, ByteString>;

/// Why a Secret is not what we wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoredError {
    #[error("it has no `{field}`")]
    Missing { field: &'static str },
    #[error("its `{field}` is not text")]
    NotText { field: &'static str },
    #[error("its `{field}` is `{value}`, which is no stage or no time")]
    Value { field: &'static str, value: String },
}

pub(super) fn data_of(secret: &Secret) -> Data {
    secret.data.clone().unwrap_or_default()
}

pub(super) fn text(data: &Data, field: &'static str) -> Result<String, StoredError> {
    let bytes = &data.get(field).filter(|bytes| !bytes.0.is_empty());
    let bytes = bytes.ok_or(StoredError::Missing { field })?;
    String::from_utf8(bytes.0.clone()).map_err(|_| StoredError::NotText { field })
}

pub(super) fn roots(secret: &Secret) -> Result<Roots, StoredError> {
    let data = data_of(secret);
    let root = |certificate, key| -> Result<Root, StoredError> {
        Ok(Root { certificate: text(&data, certificate)?, key: Zeroizing::new(text(&data, key)?) })
    };
    let stage = text(&data, STAGE)?;
    let stage = match stage.as_str() {
        SETTLED => Stage::Settled,
        PREPARING => Stage::Preparing {
            next: root(NEXT_CERTIFICATE, NEXT_KEY)?,
            cross: text(&data, CROSS)?,
            since: time(&data, SINCE)?,
        },
        RETIRING => Stage::Retiring {
            previous: text(&data, PREVIOUS)?,
            cross: text(&data, CROSS)?,
            until: time(&data, UNTIL)?,
        },
        _ => {
            let value = crate::escape::shown(&stage);
            return Err(StoredError::Value { field: STAGE, value });
        }
    };
    Ok(Roots { active: root(CERTIFICATE, KEY)?, stage })
}

pub(super) fn of_roots(roots: &Roots) -> Data {
    let mut data = of_pair(&roots.active.certificate, &roots.active.key);
    let mut put = |field: &str, text: &str| data.insert(field.to_owned(), bytes(text));
    match &roots.stage {
        Stage::Settled => {
            put(STAGE, SETTLED);
        }
        Stage::Preparing { next, cross, since } => {
            put(STAGE, PREPARING);
            put(NEXT_CERTIFICATE, &next.certificate);
            put(NEXT_KEY, &next.key);
            put(CROSS, cross);
            put(SINCE, &seconds(*since).to_string());
        }
        Stage::Retiring { previous, cross, until } => {
            put(STAGE, RETIRING);
            put(PREVIOUS, previous);
            put(CROSS, cross);
            put(UNTIL, &seconds(*until).to_string());
        }
    }
    data
}

pub(super) fn issuing(secret: &Secret) -> Result<IssuingCa, StoredError> {
    let data = data_of(secret);
    let key = Zeroizing::new(text(&data, KEY)?);
    Ok(IssuingCa { certificate: text(&data, CERTIFICATE)?, key })
}

pub(super) fn of_issuing(ca: &IssuingCa) -> Data {
    of_pair(&ca.certificate, &ca.key)
}

fn of_pair(certificate: &str, key: &str) -> Data {
    Data::from([(CERTIFICATE.to_owned(), bytes(certificate)), (KEY.to_owned(), bytes(key))])
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

fn time(data: &Data, field: &'static str) -> Result<SystemTime, StoredError> {
    let value = text(data, field)?;
    let seconds: u32 = value
        .parse()
        .map_err(|_| StoredError::Value { field, value: crate::escape::shown(&value) })?;
    Ok(UNIX_EPOCH + Duration::from_secs(u64::from(seconds)))
}

#[cfg(test)]
mod tests {
    use weft_model::TrustDomain;

    use super::*;

    #[test]
    fn roots_are_read_from_a_secret_as_they_were_written_in_every_stage() {
        let start = UNIX_EPOCH + Duration::from_hours(490_896);
        let domain = TrustDomain::default();
        let settled = Roots::first(&domain, start).unwrap();
        let preparing = settled.clone().prepared(&domain, start).unwrap();
        let retiring = preparing.clone().activated(start);
        for written in [settled, preparing, retiring] {
            let secret = Secret { data: Some(of_roots(&written)), ..Secret::default() };
            assert_eq!(roots(&secret), Ok(written.clone()));
            for field in of_roots(&written).into_keys() {
                let mut data = of_roots(&written);
                data.remove(&field);
                let secret = Secret { data: Some(data), ..Secret::default() };
                let error = roots(&secret).expect_err(&field).to_string();
                assert_eq!(error, format!("it has no `{field}`"));
            }
        }
    }
}
