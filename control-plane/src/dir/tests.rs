use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

struct Scene {
    dir: tempfile::TempDir,
    folder: Folder,
}

impl Scene {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path());
        let scene = Self { dir, folder };
        for (name, text) in files {
            scene.write(name, text);
        }
        scene
    }

    /// As after a start, with what was kept.
    fn restarted(&mut self) {
        let kept = LastGood::open(&self.dir.path().join(".last-good")).unwrap();
        self.folder = Folder::new(self.dir.path()).remembering(kept);
    }

    fn kept(&self) -> Vec<(u32, String)> {
        let kept = fs::read_dir(self.dir.path().join(".last-good")).unwrap();
        let mut kept: Vec<_> = kept
            .map(|entry| {
                let path = entry.unwrap().path();
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
                (mode, fs::read_to_string(path).unwrap())
            })
            .collect();
        kept.sort();
        kept
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&mut self) -> (Vec<String>, Vec<String>) {
        let difference = self.folder.read().unwrap();
        let apply = difference.apply.iter().map(|o| o.key().to_string()).collect();
        (apply, difference.delete.iter().map(ToString::to_string).collect())
    }

    fn problems(&self) -> Vec<String> {
        self.folder.problems().iter().map(ToString::to_string).collect()
    }
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: web-0
  namespace: shop
spec:
  nodeName: a
";

#[test]
fn documents_lists_and_json_are_read_from_a_tree_of_folders() {
    let mut scene = Scene::new(&[
        (
            "a.yaml",
            &format!("---\n# nothing\n---\n{POD}---\napiVersion: apps/v1\nkind: Deployment\n"),
        ),
        (
            "deep/b.yml",
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: shop}\n",
        ),
        (
            "deep/c.json",
            "{\n\t\"apiVersion\": \"v1\", \"kind\": \"ServiceList\",\n\t\"items\": [{\"metadata\": {\"name\": \"web\"}}]\n}",
        ),
        (".hidden/d.yaml", "not: read"),
        ("notes.txt", "not read"),
    ]);
    let (apply, delete) = scene.read();
    assert_eq!(apply, ["Namespace shop", "Service default/web", "Pod shop/web-0"]);
    assert_eq!(delete, Vec::<String>::new());
    assert_eq!(scene.problems(), Vec::<String>::new());
    assert_eq!(scene.read(), (vec![], vec![]), "nothing changed");
}

#[test]
fn a_mistake_names_its_file_line_field_and_value() {
    let bad = POD.replace("nodeName: a", "nodeName: a\n  hostNetwork: perhaps");
    let mut scene = Scene::new(&[("pods/web.yaml", &format!("{POD}---\n{bad}"))]);
    scene.read();
    assert_eq!(
        scene.problems(),
        [
            "pods/web.yaml:16: Pod shop/web-0: spec.hostNetwork: invalid type: string \"perhaps\", expected a boolean (`perhaps`)"
        ]
    );
}

#[test]
fn a_whole_cluster_fits_in_one_file() {
    let pod = |n: usize| POD.replace("web-0", &format!("web-{n}")) + "\n---\n";
    let many: String = (0..10_000).map(pod).collect();
    let (applied, _) = Scene::new(&[("all.yaml", &many)]).read();
    assert_eq!(applied.len(), 10_000);
}

#[test]
fn bad_syntax_names_its_line() {
    let mut scene = Scene::new(&[("a.yaml", "apiVersion: v1\nkind: [Pod\n")]);
    scene.read();
    let problems = scene.folder.problems();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].line.is_some(), "{problems:?}");
}

#[test]
fn a_file_that_turns_bad_keeps_its_last_good_objects_until_it_is_good_again() {
    let mut scene = Scene::new(&[("web.yaml", POD)]);
    assert_eq!(scene.read().0, ["Pod shop/web-0"]);
    scene.write("web.yaml", &POD.replace("nodeName: a", "nodeName: [a"));
    assert_eq!(scene.read(), (vec![], vec![]));
    assert_eq!(scene.problems().len(), 1);
    scene.write("web.yaml", &POD.replace("web-0", "web-1"));
    assert_eq!(scene.read(), (vec!["Pod shop/web-1".into()], vec!["Pod shop/web-0".into()]));
    assert_eq!(scene.problems(), Vec::<String>::new());
}

#[test]
fn a_file_that_is_broken_at_the_start_is_served_as_it_last_was_good() {
    let mut scene = Scene::new(&[("deep/web.yaml", POD)]);
    scene.restarted();
    scene.read();
    assert_eq!(scene.kept(), [(0o600, POD.to_owned())]);

    scene.write("deep/web.yaml", &POD.replace("nodeName: a", "nodeName: [a"));
    scene.restarted();
    assert_eq!(scene.read().0, ["Pod shop/web-0"]);
    let problems = scene.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!(problems[0], "deep/web.yaml: is served as it last was good, before the start");
    assert_eq!(scene.kept(), [(0o600, POD.to_owned())], "what is broken is not kept");

    scene.write("deep/web.yaml", &POD.replace("web-0", "web-1"));
    assert_eq!(scene.read(), (vec!["Pod shop/web-1".into()], vec!["Pod shop/web-0".into()]));
    assert_eq!(scene.problems(), Vec::<String>::new());
    assert_eq!(scene.kept(), [(0o600, POD.replace("web-0", "web-1"))]);
}

#[test]
fn what_was_kept_of_a_file_goes_with_it() {
    let mut scene = Scene::new(&[("web.yaml", POD)]);
    scene.restarted();
    scene.read();
    fs::remove_file(scene.dir.path().join("web.yaml")).unwrap();
    scene.restarted();
    assert_eq!(scene.read(), (vec![], vec![]));
    assert_eq!(scene.kept(), []);
}

#[test]
fn a_file_that_never_was_good_has_nothing_to_keep_and_says_so() {
    let mut scene =
        Scene::new(&[("a.yaml", "kind: [Pod\n"), ("b.yaml", &format!("{POD}---\nkind: Pod\n"))]);
    scene.restarted();
    assert_eq!(scene.read().0, ["Pod shop/web-0"]);
    let problems = scene.problems();
    let never = |problem: &&String| problem.contains("never was good");
    assert_eq!(
        problems.iter().filter(never).collect::<Vec<_>>(),
        [
            "a.yaml: never was good: nothing of it is served, so none of its policies is in force",
            "b.yaml: never was good: only what can be read of it is served",
        ]
    );
    assert_eq!(scene.kept(), []);
}

#[test]
fn a_good_text_that_cannot_be_kept_is_reported_and_tried_again() {
    let mut scene = Scene::new(&[("web.yaml", POD)]);
    scene.restarted();
    let folder = scene.dir.path().join(".last-good");
    fs::remove_dir(&folder).unwrap();
    assert_eq!(scene.read().0, ["Pod shop/web-0"]);
    assert!(scene.problems()[0].contains("web.yaml: cannot be kept in "), "{:?}", scene.problems());
    fs::create_dir(&folder).unwrap();
    assert_eq!(scene.read(), (vec![], vec![]));
    assert_eq!(scene.problems(), Vec::<String>::new());
    assert_eq!(scene.kept(), [(0o600, POD.to_owned())]);
}

#[test]
fn a_file_that_is_gone_takes_its_objects_with_it() {
    let mut scene = Scene::new(&[("web.yaml", POD)]);
    scene.read();
    fs::remove_file(scene.dir.path().join("web.yaml")).unwrap();
    assert_eq!(scene.read(), (vec![], vec!["Pod shop/web-0".into()]));
}

#[test]
fn an_object_in_two_files_is_taken_from_the_first_and_reported() {
    let mut scene = Scene::new(&[("a.yaml", POD), ("b.yaml", &format!("---\n{POD}"))]);
    assert_eq!(scene.read().0, ["Pod shop/web-0"]);
    assert_eq!(scene.problems(), ["b.yaml:2: Pod shop/web-0: is also in a.yaml, which is used"]);
}

#[test]
fn an_unreadable_policy_of_a_file_that_never_was_good_is_applied_all_the_same() {
    let policy = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  rules:
  - from:
    - source: {principles: [x]}
";
    let mut scene = Scene::new(&[("p.yaml", policy)]);
    assert_eq!(scene.read().0, ["AuthorizationPolicy shop/p"]);
    let problem = &scene.folder.problems()[0];
    assert_eq!(
        (problem.line, &*problem.field),
        (Some(7), "spec.rules[0].from[0].source.principles")
    );
}

#[test]
fn a_problem_found_later_is_located_by_its_field() {
    let mut scene = Scene::new(&[("web.yaml", POD)]);
    scene.read();
    let key = scene.folder.applied.keys().next().unwrap().clone();
    let problem = scene.folder.locate(FieldProblem {
        object: key,
        field: "spec.nodeName".into(),
        value: "a".into(),
        message: "is not known".into(),
    });
    assert_eq!(
        problem.to_string(),
        "web.yaml:7: Pod shop/web-0: spec.nodeName: is not known (`a`)"
    );
}

#[tokio::test]
async fn a_change_wakes_the_watcher() {
    let scene = Scene::new(&[]);
    let mut watcher = Watcher::new(scene.dir.path()).unwrap();
    scene.write("web.yaml", POD);
    tokio::time::timeout(std::time::Duration::from_secs(5), watcher.changed()).await.unwrap();
}
