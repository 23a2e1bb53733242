use std::fs;
use std::path::Path;

use super::folder::{Folder, PodFile};
use super::wanted::Status;
use crate::pod::PodUid;

const WHOLE: &str = r#"{"uid":"u1","namespace":"shop","name":"web","serviceAccount":"web",
    "netns":"/run/netns/web"}"#;

fn folder(path: &Path) -> Folder {
    Folder::open(path).unwrap()
}

#[tokio::test]
async fn a_pod_is_read_from_its_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("u1.json"), WHOLE).unwrap();
    let (pods, bad) = folder(dir.path()).read().unwrap();
    let expected = PodFile {
        uid: "u1".into(),
        namespace: "shop".into(),
        name: "web".into(),
        service_account: "web".into(),
        netns: "/run/netns/web".into(),
        dns_capture: true,
        addresses: Vec::new(),
    };
    assert_eq!(pods.into_iter().collect::<Vec<_>>(), [(PodUid::parse("u1").unwrap(), expected)]);
    assert!(bad.is_empty(), "{bad:?}");
}

#[tokio::test]
async fn a_bad_file_is_named_and_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("u1.json"), WHOLE).unwrap();
    fs::write(dir.path().join("u2.json"), WHOLE).unwrap();
    fs::write(dir.path().join("u3.json"), "{").unwrap();
    let unknown = WHOLE.replace("u1", "u4").replace("netns\"", "netNs\"");
    fs::write(dir.path().join("u4.json"), unknown).unwrap();
    fs::write(dir.path().join("u5.x.json"), WHOLE.replace("u1", "u5.x")).unwrap();
    // What is not for us is no bad file.
    fs::write(dir.path().join("u1.status.json"), "{}").unwrap();
    fs::write(dir.path().join(".u6.json"), "half").unwrap();
    fs::write(dir.path().join("notes.txt"), "").unwrap();
    let (pods, bad) = folder(dir.path()).read().unwrap();
    assert_eq!(pods.len(), 1);
    let mut said: Vec<String> = bad.iter().map(|error| super::chain(error)).collect();
    said.sort();
    let at = |file: &str| format!("pod file {}", dir.path().join(file).display());
    assert_eq!(said.len(), 4, "{said:?}");
    assert_eq!(said[0], format!("{} is for uid \"u1\", which is not its name", at("u2.json")));
    assert!(said[1].starts_with(&at("u3.json")), "{said:?}");
    assert!(said[2].starts_with(&at("u4.json")) && said[2].contains("netNs"), "{said:?}");
    assert!(said[3].starts_with(&at("u5.x.json")) && said[3].contains("'-' or '_'"), "{said:?}");
}

#[tokio::test]
async fn the_status_is_written_whole_and_is_no_news() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let uid = PodUid::parse("u1").unwrap();
    folder.write_status(&uid, &Status::Failed { error: Some("no address".into()) }).unwrap();
    let text = fs::read_to_string(dir.path().join("u1.status.json")).unwrap();
    assert_eq!(text, r#"{"state":"failed","error":"no address"}"#);
    folder.remove_status(&uid).unwrap();
    folder.remove_status(&uid).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    // All of that woke nobody; a pod does.
    let quiet = tokio::time::timeout(std::time::Duration::from_millis(50), folder.changed());
    assert!(quiet.await.is_err());
    fs::write(dir.path().join("u1.json"), WHOLE).unwrap();
    folder.changed().await.unwrap();
}

#[test]
fn statuses_have_the_names_that_others_wait_for() {
    let name = |status| serde_json::to_value(&status).unwrap()["state"].as_str().map(str::to_owned);
    let names = [
        name(Status::Captured { error: None }),
        name(Status::Ready { error: None }),
        name(Status::Draining { error: None }),
        name(Status::Failed { error: None }),
        name(Status::Kept { error: None }),
    ];
    let expected = ["captured", "ready", "draining", "failed", "kept"];
    assert_eq!(names, expected.map(|name| Some(name.to_owned())));
}
