//! Text from outside, made fit for a log.

/// Values come from outside: they are shortened and escaped before they reach a log.
pub(crate) fn shown(value: &str) -> String {
    value.chars().take(128).collect::<String>().escape_debug().to_string()
}
