//! A section of the configuration, declared once: its type, its reference and its reader are made from that.

use super::value::{Range, Value};

/// One field as the reference page and `/config` show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    pub section: &'static str,
    pub name: &'static str,
    pub unit: &'static str,
    pub default: String,
    pub range: String,
    pub reason: String,
    /// The environment variable, by Istio's name, that overrides it.
    pub env: Option<&'static str>,
    pub value: String,
}

/// Why a field was not set.
#[derive(Debug)]
pub(super) enum NotSet {
    Unknown,
    Bad { reason: String, range: String },
}

pub(super) fn set<T: Value + PartialOrd>(
    field: &mut T,
    range: &Range<T>,
    text: &str,
) -> Result<(), NotSet> {
    let bad = |reason| NotSet::Bad { reason, range: range.text() };
    let value = T::parse(text).map_err(bad)?;
    range.check(&value).map_err(bad)?;
    *field = value;
    Ok(())
}

macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident, $section:literal {
        $($(#[doc = $why:literal])+ $field:ident: $ty:ty = $default:expr, $range:expr $(, env $env:literal)?;)+
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, PartialEq, Debug)]
        pub struct $name {
            $($(#[doc = $why])+ pub $field: $ty,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $name {
            fn set(&mut self, field: &str, text: &str) -> Result<(), NotSet> {
                match field {
                    $(stringify!($field) => section::set(&mut self.$field, &$range, text),)+
                    _ => Err(NotSet::Unknown),
                }
            }

            fn fields(&self) -> Vec<Field> {
                let defaults = Self::default();
                vec![$({
                    let range: Range<$ty> = $range;
                    let env: &[&'static str] = &[$($env)?];
                    Field {
                        section: $section,
                        name: stringify!($field),
                        unit: <$ty as Value>::UNIT,
                        default: defaults.$field.text(),
                        range: range.text(),
                        reason: concat!($($why),+).trim().to_owned(),
                        env: env.first().copied(),
                        value: self.$field.text(),
                    }
                }),+]
            }
        }
    };
}
pub(super) use section;
