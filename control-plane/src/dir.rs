//! Manifests from a folder: what they say, what is wrong with them, and what changed since the last look.
//!
//! A file with a mistake keeps its last good objects, also over a restart. A file that never was good gives what
//! can be read of it, and its unreadable policies deny on their targets.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    path::{Path, PathBuf},
};

use tracing::warn;

use crate::{
    FieldProblem, Problem,
    objects::{Difference, Object, ObjectKey},
};

mod kept;
mod manifest;
mod tree;
mod watch;

pub use kept::LastGood;
use manifest::Manifest;
pub use watch::{WatchError, Watcher};

/// Larger files are refused: nobody writes them by hand, and parsing one costs many times its size.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A folder of manifests, or a single file, at the last time that it was read.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    kept: Option<LastGood>,
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
    /// Why its good text is not on the disk, if it should be.
    unkept: Option<Problem>,
}

impl Folder {
    /// Remembers nothing from before.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            kept: None,
            files: BTreeMap::new(),
            applied: BTreeMap::new(),
            duplicates: Vec::new(),
        }
    }

    /// Remembers what files said when they last were good, and goes on remembering.
    #[must_use]
    pub fn remembering(self, kept: LastGood) -> Self {
        Self { kept: Some(kept), ..self }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads what changed. Only an unreadable root is an error; a file's mistakes are in [`Self::problems`].
    /// Blocks on the disk.
    pub fn read(&mut self) -> std::io::Result<Difference> {
        let mut paths = Vec::new();
        let mut root = self.root.clone();
        if root.is_file() {
            paths.push(root.clone());
            root.pop();
        } else {
            list(&root, &mut paths)?;
        }
        paths.sort();
        let relative = |path: &Path| path.strip_prefix(&root).unwrap_or(path).to_owned();
        let present: Vec<PathBuf> = paths.iter().map(|path| relative(path)).collect();
        self.files.retain(|path, _| present.binary_search(path).is_ok());
        if let Some(Err(error)) = self.kept.as_ref().map(|kept| kept.retain(&present)) {
            // Only files that come back under the same name and broken would be served what they once said.
            warn!(error = %error, "last good text of files that are gone cannot be removed");
        }
        for (path, name) in paths.iter().zip(&present) {
            self.read_file(name, read_bounded(path));
        }
        Ok(self.difference())
    }

    fn read_file(&mut self, name: &Path, text: Result<Vec<u8>, String>) {
        let kept = self.kept.as_ref();
        if let Some(file) = self.files.get_mut(name)
            && file.text == text
        {
            if file.unkept.is_some() {
                file.unkept = unkept(kept, name, file);
            }
            return;
        }
        let (manifest, problems) = match &text {
            Ok(text) => manifest::read(name, text),
            Err(reason) => (Manifest::default(), vec![whole_file(name, reason)]),
        };
        let file = match self.files.entry(name.to_owned()) {
            Entry::Vacant(slot) => {
                let (good, problems) = first(kept, name, manifest, problems);
                slot.insert(File { text, good, problems, unkept: None })
            }
            Entry::Occupied(slot) => {
                let file = slot.into_mut();
                // A file that was bad from the start is replaced by its next reading, good or bad: a policy
                // that is broken in it must keep denying, and what it says meanwhile is the better guess.
                if problems.is_empty() || !file.good.complete {
                    file.good = manifest;
                }
                file.text = text;
                file.problems = problems;
                file
            }
        };
        file.unkept = unkept(kept, name, file);
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
        let mut all: Vec<Problem> = self.files.values().flat_map(File::problems).collect();
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

impl File {
    fn problems(&self) -> impl Iterator<Item = Problem> {
        self.problems.iter().chain(&self.unkept).cloned()
    }
}

/// What is in force of a file that was not known before, and what is wrong with it.
fn first(
    kept: Option<&LastGood>,
    name: &Path,
    manifest: Manifest,
    mut problems: Vec<Problem>,
) -> (Manifest, Vec<Problem>) {
    let Some(kept) = kept.filter(|_| !problems.is_empty()) else { return (manifest, problems) };
    let last = kept.text(name).map(|text| manifest::read(name, &text).0);
    if let Some(last) = last.filter(|last| last.complete) {
        problems.push(whole_file(name, "is served as it last was good, before the start"));
        return (last, problems);
    }
    let message = if manifest.documents.is_empty() {
        "never was good: nothing of it is served, so none of its policies is in force"
    } else {
        "never was good: only what can be read of it is served"
    };
    problems.push(whole_file(name, message));
    (manifest, problems)
}

/// Keeps a good text. `Some`: it could not be kept.
fn unkept(kept: Option<&LastGood>, name: &Path, file: &File) -> Option<Problem> {
    let (kept, text) = (kept?, file.text.as_ref().ok()?);
    if !file.problems.is_empty() {
        return None;
    }
    let error = kept.keep(name, text).err()?;
    let path = kept.path(name);
    let message =
        format!("cannot be kept in {}, so a restart may not serve it: {error}", path.display());
    Some(whole_file(name, &message))
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
