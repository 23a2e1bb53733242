//! What is wrong with a folder of manifests, without serving it.

use std::path::Path;

use weft_model::TrustDomain;

use crate::{Problem, compile::Mesh, dir::Folder, index::Index};

/// Everything wrong with the manifests in a folder, in the order of files and lines; empty when all is well.
/// They are compiled too, for a mesh with default names. Blocks on the disk.
pub fn validate(folder: &Path) -> Vec<Problem> {
    let mut read = Folder::new(folder);
    let difference = match read.read() {
        Ok(difference) => difference,
        Err(error) => {
            return vec![Problem {
                file: folder.to_owned(),
                line: None,
                object: None,
                field: String::new(),
                value: String::new(),
                message: format!("cannot be read: {error}"),
            }];
        }
    };
    let mut index = Index::new(Mesh::new("Kubernetes", TrustDomain::default()));
    difference.apply.iter().for_each(|object| index.apply(object));
    index.flush();
    problems(&read, &index)
}

/// What is wrong with the files, and with what they mean.
pub(crate) fn problems(folder: &Folder, index: &Index) -> Vec<Problem> {
    let compiled = index.problems().into_iter().map(|problem| folder.locate(problem));
    let mut all: Vec<Problem> = folder.problems().into_iter().chain(compiled).collect();
    all.sort();
    all.dedup();
    all
}
