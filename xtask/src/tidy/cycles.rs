//! No crate has a cycle among its modules.
//!
//! A module and its children may use each other; two children of one module, with all that is below them, may
//! not. A name that the parent only passes on counts as a use of the child that it comes from.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{Finding, Sources};

/// A module by its names from the crate's root.
type Module = Vec<String>;

/// Which sibling uses which, and a file in which that stands.
type Edges = BTreeMap<(String, String), PathBuf>;

#[derive(Debug, Default)]
struct Facts {
    /// Paths that begin with crate, self or super, and those of `use`, as they are written.
    uses: Vec<Vec<String>>,
    file: PathBuf,
    /// What each name that was imported here stands for.
    imported: BTreeMap<String, Vec<String>>,
}

pub(super) fn check(sources: &Sources) -> Vec<Finding> {
    let roots = sources.files().filter(|source| {
        let path = &source.path;
        path.ends_with("src/lib.rs") || path.ends_with("src/main.rs")
    });
    roots.flat_map(|root| cycles_of(sources, &root.path)).collect()
}

fn cycles_of(sources: &Sources, root: &Path) -> Vec<Finding> {
    let mut modules = BTreeMap::new();
    collect(sources, root, &Vec::new(), &mut modules);
    let mut edges: BTreeMap<Module, Edges> = BTreeMap::new();
    for (module, facts) in &modules {
        for path in &facts.uses {
            let Some(target) = resolve(&modules, module, path, 0) else { continue };
            let common = module.iter().zip(&target).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (module.get(common), target.get(common)) {
                let parent = module.iter().take(common).cloned().collect();
                let edge = (from.clone(), to.clone());
                edges.entry(parent).or_default().entry(edge).or_insert(facts.file.clone());
            }
        }
    }
    let finding = |(parent, edges): (&Module, &Edges)| {
        let place = format!("{} {}", root.display(), parent.join("::"));
        let cycle = cycle(edges)?;
        let files = cycle.windows(2).filter_map(|pair| {
            let [from, to] = pair else { return None };
            edges.get(&((*from).to_owned(), (*to).to_owned()))
        });
        let files: Vec<_> = files.map(|file| file.display().to_string()).collect();
        let what = format!("modules in a cycle: {} ({})", cycle.join(" -> "), files.join(", "));
        Some(Finding::new(place.trim(), what))
    };
    edges.iter().filter_map(finding).collect()
}

/// Reads a file's facts and those of the modules that it declares, tests apart.
fn collect(sources: &Sources, file: &Path, name: &Module, into: &mut BTreeMap<Module, Facts>) {
    let Some(source) = sources.at(file) else { return };
    let mut facts = Facts { file: file.to_owned(), ..Facts::default() };
    let mut for_tests = false;
    for line in source.code.lines().map(str::trim) {
        let declared = line.rsplit_once("mod ").and_then(|(_, rest)| rest.strip_suffix(';'));
        if let Some(child) = declared.filter(|_| !for_tests) {
            let child_name: Module = name.iter().cloned().chain([child.to_owned()]).collect();
            for path in files_of(file, child) {
                collect(sources, &path, &child_name, into);
            }
        }
        for_tests = line.starts_with("#[cfg(test)]");
    }
    let code = before_tests(&source.code);
    for (at, _) in code.match_indices("use ") {
        if code.get(..at).is_some_and(|before| {
            before.trim_end_matches([' ', '\t']).ends_with(['\n', ';', '{', ')'])
                || before.trim_end().ends_with("pub")
        }) {
            for (path, alias) in tree(code.get(at + 4..).unwrap_or_default()) {
                facts.imported.insert(alias, path.clone());
                facts.uses.push(path);
            }
        }
    }
    for word in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(word) {
            if !code
                .get(..at)
                .is_some_and(|b| b.ends_with(|c: char| c == ':' || c == '_' || c.is_alphanumeric()))
            {
                let found = tree(code.get(at..).unwrap_or_default());
                facts.uses.extend(found.into_iter().map(|(path, _)| path));
            }
        }
    }
    into.insert(name.clone(), facts);
}

fn before_tests(code: &str) -> &str {
    code.find("#[cfg(test)]\nmod tests {").and_then(|at| code.get(..at)).unwrap_or(code)
}

/// Where the source of a child module of this file may be.
fn files_of(file: &Path, child: &str) -> Vec<PathBuf> {
    let dir = file.parent().unwrap_or(Path::new(""));
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let dir = if matches!(stem, "lib" | "main" | "mod") { dir.to_owned() } else { dir.join(stem) };
    vec![dir.join(format!("{child}.rs")), dir.join(child).join("mod.rs")]
}

/// The module in which a path's last name is defined, or which it names, if it is of this crate.
fn resolve(
    modules: &BTreeMap<Module, Facts>,
    from: &Module,
    path: &[String],
    depth: usize,
) -> Option<Module> {
    let mut names = path.iter().peekable();
    let mut at = match names.peek()?.as_str() {
        "crate" => Module::new(),
        "self" | "super" => from.clone(),
        child if modules.contains_key(&join(from, child)) => from.clone(),
        _ => return None,
    };
    for name in names {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => {
                at.pop()?;
            }
            name if modules.contains_key(&join(&at, name)) => at.push(name.to_owned()),
            name => {
                // Re-exported: what the importing module says of it, eight steps at most.
                let origin = modules.get(&at)?.imported.get(name).filter(|_| depth < 8);
                let origin = origin.and_then(|path| resolve(modules, &at, path, depth + 1));
                return Some(origin.unwrap_or(at));
            }
        }
    }
    Some(at)
}

fn join(module: &Module, child: &str) -> Module {
    module.iter().cloned().chain([child.to_owned()]).collect()
}

/// The paths of a use tree at the start of the text, each with the name by which it is known then.
fn tree(text: &str) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    branch(text, &[], &mut found);
    found
}

/// Reads one branch and returns what follows it.
fn branch<'a>(text: &'a str, above: &[String], found: &mut Vec<(Vec<String>, String)>) -> &'a str {
    let mut path = above.to_vec();
    let mut rest = text.trim_start();
    loop {
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner.trim_start();
            while !rest.starts_with('}') && !rest.is_empty() {
                let after = branch(rest, &path, found).trim_start();
                // No progress: this was no use tree but a block.
                if after.len() == rest.len() {
                    return rest;
                }
                rest = after.strip_prefix(',').unwrap_or(after).trim_start();
            }
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if !name.is_empty() && (name != "self" || path.is_empty()) {
            path.push(name.to_owned());
        }
        if let Some(more) = after.strip_prefix("::") {
            rest = more;
            continue;
        }
        let alias = after.trim_start().strip_prefix("as ").map(str::trim_start);
        let (alias, after) = match alias {
            Some(text) => {
                let end =
                    text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len());
                text.split_at(end)
            }
            None => (path.last().map_or("", String::as_str), after),
        };
        let alias = alias.to_owned();
        if !path.is_empty() {
            found.push((path, alias));
        }
        return after.strip_prefix('*').unwrap_or(after);
    }
}

/// One cycle among the edges, its first module repeated at the end.
fn cycle(edges: &Edges) -> Option<Vec<&str>> {
    let starts: BTreeSet<&str> = edges.keys().map(|(from, _)| from.as_str()).collect();
    let mut done = BTreeSet::new();
    starts.into_iter().find_map(|start| walk(edges, start, &mut Vec::new(), &mut done))
}

fn walk<'a>(
    edges: &'a Edges,
    at: &'a str,
    path: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<&'a str>> {
    if let Some(start) = path.iter().position(|name| *name == at) {
        return Some(path.iter().skip(start).copied().chain([at]).collect());
    }
    if !done.insert(at) {
        return None;
    }
    path.push(at);
    let next = edges.keys().filter(|(from, to)| from == at && to != at);
    let found = next.map(|(_, to)| to.as_str()).find_map(|to| walk(edges, to, path, done));
    path.pop();
    found
}

#[cfg(test)]
mod tests;
