//! What is wrong with an object, and where it was written.

use std::{fmt, path::PathBuf};

use serde::Serialize;

use crate::objects::ObjectKey;

/// One thing wrong in a manifest. Shown by `weft validate`, logged once per change, listed at `/problems`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Problem {
    /// Relative to the folder that was read; empty where the API server told it.
    pub file: PathBuf,
    /// Counted from 1; `None` where the whole file is meant.
    pub line: Option<u64>,
    /// `None` where the text could not even be read as an object.
    pub object: Option<ObjectKey>,
    /// For example `spec.rules[0].from[1].source.ipBlocks[0]`; empty for the whole object.
    pub field: String,
    /// The value that was refused, shortened; empty where there is none.
    pub value: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.as_os_str().is_empty() {
            write!(f, "{}", self.file.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.value.is_empty() {
            write!(f, " (`{}`)", self.value)?;
        }
        Ok(())
    }
}

impl Problem {
    /// A problem of the cluster's state; it is in no file.
    pub(crate) fn in_cluster(problem: FieldProblem) -> Self {
        let FieldProblem { object, field, value, message } = problem;
        Self { file: PathBuf::new(), line: None, object: Some(object), field, value, message }
    }
}

/// What is wrong with an object as such, before it is known which file and line it came from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FieldProblem {
    pub object: ObjectKey,
    pub field: String,
    pub value: String,
    pub message: String,
}
