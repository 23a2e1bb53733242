//! What a configuration field can hold: how it is written, read, and bounded.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use tracing_subscriber::filter::{LevelFilter, Targets};
use weft_model::{Network, TrustDomain};

/// A type of field. Every field is read from text, whether it came from YAML or from the environment.
pub(super) trait Value: Sized {
    const UNIT: &'static str;
    fn parse(text: &str) -> Result<Self, String>;
    fn text(&self) -> String;
}

/// Which values are accepted.
pub(super) enum Range<T> {
    Between(T, T),
    /// Whatever its type parses, in words.
    Any(&'static str),
}

impl<T: Value + PartialOrd> Range<T> {
    pub(super) fn check(&self, value: &T) -> Result<(), String> {
        match self {
            Self::Between(low, high) if value < low || value > high => {
                Err("out of range".to_owned())
            }
            Self::Between(..) | Self::Any(_) => Ok(()),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Between(low, high) => format!("{} to {}", low.text(), high.text()),
            Self::Any(words) => (*words).to_owned(),
        }
    }
}

/// A number of bytes, written `64KiB`, `4MiB`, `1GiB` or plain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteSize(pub u64);

impl ByteSize {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// Saturates where the platform or protocol takes fewer bits.
    pub fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// Saturates where the platform or protocol takes fewer bits.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
            .into_iter()
            .find(|(bits, _)| self.0 > 0 && self.0.trailing_zeros() >= *bits);
        match exact {
            Some((bits, unit)) => write!(f, "{}{unit}", self.0 >> bits),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Value for ByteSize {
    const UNIT: &'static str = "bytes";

    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let bits = match text.get(digits.len()..).unwrap_or_default().trim() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            other => return Err(format!("`{other}` is not KiB, MiB or GiB")),
        };
        let n: u64 = digits.parse().map_err(|_| "not a whole number of bytes".to_owned())?;
        n.checked_mul(1 << bits).map(Self).ok_or_else(|| "too large".to_owned())
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for Duration {
    const UNIT: &'static str = "time";

    /// As Go writes durations (`1h30m`, `500ms`), since Istio's settings are written so.
    fn parse(text: &str) -> Result<Self, String> {
        let mut total = Self::ZERO;
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err("empty".to_owned());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let nanos: u64 = match unit {
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return Err("a duration is written like 500ms, 30s, 5m or 1h30m".to_owned()),
            };
            let number: u64 =
                number.parse().map_err(|_| "a duration starts with a whole number".to_owned())?;
            let part = number.checked_mul(nanos).ok_or_else(|| "too long".to_owned())?;
            total =
                total.checked_add(Self::from_nanos(part)).ok_or_else(|| "too long".to_owned())?;
            rest = tail;
        }
        Ok(total)
    }

    fn text(&self) -> String {
        let ms = self.as_millis();
        let exact = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")]
            .into_iter()
            .find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
        match exact {
            Some((unit, name)) => format!("{}{name}", ms / unit),
            None => format!("{ms}ms"),
        }
    }
}

macro_rules! by_from_str {
    ($($ty:ty, $unit:literal);* $(;)?) => {$(
        impl Value for $ty {
            const UNIT: &'static str = $unit;
            fn parse(text: &str) -> Result<Self, String> {
                Self::from_str(text.trim()).map_err(|e| e.to_string())
            }
            fn text(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
by_from_str! {
    u16, "count";
    u32, "count";
    usize, "count";
    String, "text";
    IpAddr, "address";
    SocketAddr, "address";
    TrustDomain, "name";
}

impl Value for Network {
    const UNIT: &'static str = "name";

    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|e| e.to_string())
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    const UNIT: &'static str = "path";

    fn parse(text: &str) -> Result<Self, String> {
        let path = Self::from(text);
        if path.is_absolute() { Ok(path) } else { Err("not an absolute path".to_owned()) }
    }

    fn text(&self) -> String {
        self.display().to_string()
    }
}

/// Empty text means none.
impl<T: Value> Value for Option<T> {
    const UNIT: &'static str = T::UNIT;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }

    fn text(&self) -> String {
        self.as_ref().map(T::text).unwrap_or_default()
    }
}

/// Separated by commas.
impl<T: Value> Value for Vec<T> {
    const UNIT: &'static str = T::UNIT;

    fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(T::parse).collect()
    }

    fn text(&self) -> String {
        self.iter().map(T::text).collect::<Vec<_>>().join(",")
    }
}

/// Where a server of the control plane is: `https://host:port`, and nothing else.
#[derive(Clone, PartialEq, Eq, PartialOrd, Debug)]
pub struct ServerUrl(String);

impl ServerUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for ServerUrl {
    const UNIT: &'static str = "URL";

    fn parse(text: &str) -> Result<Self, String> {
        // Istio accepts an address without a scheme and means https.
        let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let uri: http::Uri = whole.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
        let authority = uri.authority().ok_or_else(|| "no host".to_owned())?;
        if uri.scheme_str() != Some("https") {
            return Err("the scheme must be https".to_owned());
        }
        // `/config` shows every field, so no field may hold a secret.
        if authority.as_str().contains('@') {
            return Err("a user or password does not belong here".to_owned());
        }
        if uri.path_and_query().is_some_and(|p| p.as_str() != "/") {
            return Err("a path does not belong here".to_owned());
        }
        Ok(Self(whole))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

/// Which events are logged, for example `info` or `info,ztunnel::dns=debug`.
#[derive(Clone, PartialEq, Debug)]
pub struct LogFilter(Targets);

impl LogFilter {
    pub fn targets(&self) -> &Targets {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self(Targets::new().with_default(LevelFilter::INFO))
    }
}

/// Filters have no order; a range of them is never asked for.
impl PartialOrd for LogFilter {
    fn partial_cmp(&self, _: &Self) -> Option<std::cmp::Ordering> {
        None
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Targets::from_str(text).map(Self).map_err(|e| e.to_string())
    }
}

impl Value for LogFilter {
    const UNIT: &'static str = "filter";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal $(| $also:literal)*),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl Value for $name {
            const UNIT: &'static str = "choice";

            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($text $(| $also)* => Ok(Self::$variant),)+
                    _ => Err("not one of the choices".to_owned()),
                }
            }

            fn text(&self) -> String {
                match self { $(Self::$variant => $text.to_owned()),+ }
            }
        }
    };
}

choice! {
    /// How log lines are written.
    LogFormat { Text = "text" | "plain", Json = "json" }
}
choice! {
    /// Whether a feature is used.
    Switch { On = "on" | "true", Off = "off" | "false" }
}
