//! Why something failed, as far as an operator can act on it.

/// The last cause, such as "Connection refused".
pub(crate) fn last(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => last(cause),
        None => error.to_string(),
    }
}
