//! What is wrong with a folder of manifests, without serving it.

use std::path::Path;

use crate::{Problem, dir::Folder};

/// Everything wrong with the manifests in a folder, in the order of files and lines; empty when all is well.
/// Blocks on the disk.
pub fn validate(folder: &Path) -> Vec<Problem> {
    let mut read = Folder::new(folder);
    match read.read() {
        Ok(_) => read.problems(),
        Err(error) => vec![Problem {
            file: folder.to_owned(),
            line: None,
            object: None,
            field: String::new(),
            value: String::new(),
            message: format!("cannot be read: {error}"),
        }],
    }
}
