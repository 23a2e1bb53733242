//! Instants, as certificates write them.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls_pki_types::UnixTime;
use x509_parser::time::ASN1Time;

/// How far the issuer's clock may be ahead of ours. Of `notBefore` only: an expired certificate is expired.
pub const NOT_BEFORE_SKEW: Duration = Duration::from_mins(1);

/// An instant of a certificate, for people: RFC 3339, whole seconds.
pub(crate) struct At(pub(crate) SystemTime);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(since_epoch(self.0).as_secs()).unwrap_or(i64::MAX);
        let Ok(time) = ASN1Time::from_timestamp(seconds) else {
            return write!(f, "{seconds} s after 1970");
        };
        let t = time.to_datetime();
        let month = u8::from(t.month());
        let (year, day) = (t.year(), t.day());
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
            t.hour(),
            t.minute(),
            t.second()
        )
    }
}

/// Times before 1970 count as 1970: no certificate of ours is that old.
pub(crate) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(crate) fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(since_epoch(time))
}

pub(crate) fn system(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

/// X.509 writes no year after 9999, so this never overflows a `SystemTime`.
pub(crate) fn from_asn1(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
