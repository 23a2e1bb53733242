//! What is wrong with a folder or a file of manifests, without serving it.

use std::path::Path;

use serde_json::Value;
use weft_model::TrustDomain;

use crate::{
    FieldProblem, Problem,
    compile::Mesh,
    dir::Folder,
    index::Index,
    objects::{Kind, Name, ObjectKey, ParseError, Parsed, drop_nulls, parse},
};

/// Everything wrong with the manifests in a folder, or in one file, in the order of files and lines; empty when all is well.
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

/// Everything wrong with an API server's objects, each with its kind, as far as they can be judged without what
/// is not among them. They are compiled as [`validate`] does it.
pub fn analyze(mut objects: Vec<(Kind, Value)>) -> Vec<Problem> {
    // Policies before the pods that they guard, as a folder's.
    objects.sort_by_key(|(kind, _)| *kind);
    let mut index = Index::new(Mesh::new("Kubernetes", TrustDomain::default()));
    let mut problems = Vec::new();
    for (kind, mut value) in objects {
        drop_nulls(&mut value);
        let meta = |field| value.get("metadata")?.get(field)?.as_str();
        let text = |field| meta(field).unwrap_or_default();
        let key = ObjectKey { kind, name: Name::new(text("namespace"), text("name")) };
        match parse(kind, value) {
            // Why one is unreadable is among the problems of the index.
            Ok(Parsed::Object(object) | Parsed::Unreadable(object, _)) => index.apply(&object),
            Err(ParseError { field, message }) => {
                let value = String::new();
                problems.push(FieldProblem { object: key, field, value, message });
            }
        }
    }
    index.flush();
    problems.extend(index.problems());
    problems.sort();
    problems.dedup();
    problems.into_iter().map(Problem::in_cluster).collect()
}

/// What is wrong with the files, and with what they mean.
pub(crate) fn problems(folder: &Folder, index: &Index) -> Vec<Problem> {
    let compiled = index.problems().into_iter().map(|problem| folder.locate(problem));
    let mut all: Vec<Problem> = folder.problems().into_iter().chain(compiled).collect();
    all.sort();
    // Of what cannot be read, the reader says why, and the compiler that and what follows.
    all.dedup_by(|later, earlier| {
        if is_more(later, earlier) {
            std::mem::swap(later, earlier);
            return true;
        }
        is_more(earlier, later)
    });
    all
}

/// Whether one says the other and what follows from it. Of two values in one field it never is.
fn is_more(one: &Problem, other: &Problem) -> bool {
    let place = |problem: &Problem| {
        (problem.file.clone(), problem.line, problem.object.clone(), problem.field.clone())
    };
    let same_value = one.value.is_empty() || other.value.is_empty() || one.value == other.value;
    place(one) == place(other) && same_value && one.message.starts_with(&other.message)
}

#[cfg(test)]
mod tests;
