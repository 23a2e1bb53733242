//! Manifests from a folder: what they say, what is wrong with them, and what changed since the last look.
//!
//! A file with a mistake keeps its last good objects. A file that never was good gives what can be read of it,
//! and its unreadable policies deny on their targets.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    path::{Path, PathBuf},
};

use crate::{
    FieldProblem, Problem,
    objects::{Object, ObjectKey},
};

mod manifest;
mod tree;
mod watch;

use manifest::Manifest;
pub use watch::{WatchError, Watcher};

/// Larger files are refused: nobody writes them by hand, and parsing one costs many times its size.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A folder of manifests, at the last time that it was read.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// What was reported as applied, and the file that it came from.
    applied: BTreeMap<ObjectKey, (PathBuf, Object)>,
    duplicates: Vec<Problem>,
}

#[derive(Debug)]
struct File {
    text: Result<Vec<u8>, String>,
    /// In force: the last that was good, or else the first.
    good: Manifest,
    problems: Vec<Problem>,
}

/// What a look at the folder found.
#[derive(Debug, Default, PartialEq)]
pub struct Difference {
    /// In the order of [`crate::objects::Kind`]: policies before the pods that they guard.
    pub apply: Vec<Object>,
    pub delete: Vec<ObjectKey>,
}

impl Folder {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            files: BTreeMap::new(),
            applied: BTreeMap::new(),
            duplicates: Vec::new(),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads what changed. Only an unreadable root is an error; a file's mistakes are in [`Self::problems`].
    /// Blocks on the disk.
    pub fn read(&mut self) -> std::io::Result<Difference> {
        let mut paths = Vec::new();
        list(&self.root, &mut paths)?;
        paths.sort();
        let root = self.root.clone();
        let relative = |path: &Path| path.strip_prefix(&root).unwrap_or(path).to_owned();
        let present: Vec<PathBuf> = paths.iter().map(|path| relative(path)).collect();
        self.files.retain(|path, _| present.binary_search(path).is_ok());
        for (path, name) in paths.iter().zip(&present) {
            self.read_file(name, read_bounded(path));
        }
        Ok(self.difference())
    }

    fn read_file(&mut self, name: &Path, text: Result<Vec<u8>, String>) {
        if self.files.get(name).is_some_and(|file| file.text == text) {
            return;
        }
        let (manifest, problems) = match &text {
            Ok(text) => manifest::read(name, text),
            Err(reason) => (Manifest::default(), vec![whole_file(name, reason)]),
        };
        match self.files.entry(name.to_owned()) {
            Entry::Vacant(slot) => {
                slot.insert(File { text, good: manifest, problems });
            }
            Entry::Occupied(mut slot) => {
                let file = slot.get_mut();
                // A file that was bad from the start is replaced by its next reading, good or bad: a policy
                // that is broken in it must keep denying, and what it says meanwhile is the better guess.
                if problems.is_empty() || !file.good.complete {
                    file.good = manifest;
                }
                file.text = text;
                file.problems = problems;
            }
        }
    }

    fn difference(&mut self) -> Difference {
        let mut union: BTreeMap<ObjectKey, (PathBuf, Object)> = BTreeMap::new();
        self.duplicates.clear();
        for (path, file) in &self.files {
            for document in &file.good.documents {
                let key = document.object.key();
                match union.entry(key.clone()) {
                    Entry::Vacant(slot) => {
                        slot.insert((path.clone(), document.object.clone()));
                    }
                    Entry::Occupied(first) => self.duplicates.push(Problem {
                        file: path.clone(),
                        line: Some(document.tree.line_of("")),
                        message: format!("is also in {}, which is used", first.get().0.display()),
                        object: Some(key),
                        field: String::new(),
                        value: String::new(),
                    }),
                }
            }
        }
        let changed = |(key, (_, object)): &(&ObjectKey, &(PathBuf, Object))| {
            self.applied.get(key).is_none_or(|(_, old)| old != object)
        };
        let apply = union.iter().filter(changed).map(|(_, (_, object))| object.clone()).collect();
        let delete = self.applied.keys().filter(|key| !union.contains_key(key)).cloned().collect();
        self.applied = union;
        Difference { apply, delete }
    }

    /// What is wrong with the files as such, in the order of files and lines.
    pub fn problems(&self) -> Vec<Problem> {
        let mut all: Vec<Problem> = self.files.values().flat_map(|f| f.problems.clone()).collect();
        all.extend(self.duplicates.iter().cloned());
        all.sort();
        all
    }

    /// Says where a problem that was found while compiling is written.
    pub fn locate(&self, problem: FieldProblem) -> Problem {
        let FieldProblem { object, field, value, message } = problem;
        let file = self.applied.get(&object).map(|(path, _)| path.clone()).unwrap_or_default();
        let documents = self.files.get(&file).map(|f| f.good.documents.as_slice());
        let line = documents
            .unwrap_or_default()
            .iter()
            .find(|document| document.object.key() == object)
            .map(|document| document.tree.line_of(&field));
        Problem { file, line, object: Some(object), field, value, message }
    }
}

fn whole_file(file: &Path, message: &str) -> Problem {
    Problem {
        file: file.to_owned(),
        line: None,
        object: None,
        field: String::new(),
        value: String::new(),
        message: message.to_owned(),
    }
}

// Hidden entries are skipped: editors' and Kubernetes' (`..data` of a mounted ConfigMap) would be read twice.
fn list(folder: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Of the entry itself, so that a link to a folder above cannot make a circle.
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            into.push(path);
        }
    }
    Ok(())
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!("is {bytes} bytes long, more than {FILE_BYTES_MAX}"));
    }
    fs::read(path).map_err(|e| format!("cannot be read: {e}"))
}

#[cfg(test)]
mod tests;
