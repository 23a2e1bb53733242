use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn authority(folder: &Path) -> Result<String, DataError> {
    let data = Data::open(folder)?;
    data.authority(&TrustDomain::default(), now()).map(|authority| authority.bundle().to_pem())
}

#[test]
fn a_root_is_made_once_with_a_key_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let first = authority(dir.path()).unwrap();
    assert_eq!(authority(dir.path()).unwrap(), first);
    let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(ROOT_KEY), mode(ROOT_CERTIFICATE)), (0o600, 0o644));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left over");
}

#[test]
fn a_missing_half_is_an_error_that_says_what_to_do_and_nothing_is_replaced() {
    for (gone, kept) in [(ROOT_KEY, ROOT_CERTIFICATE), (ROOT_CERTIFICATE, ROOT_KEY)] {
        let dir = tempfile::tempdir().unwrap();
        authority(dir.path()).unwrap();
        let before = fs::read(dir.path().join(kept)).unwrap();
        fs::remove_file(dir.path().join(gone)).unwrap();
        let error = authority(dir.path()).unwrap_err().to_string();
        assert!(error.contains(gone) && error.contains("Restore the file"), "{error}");
        assert!(!dir.path().join(gone).exists());
        assert_eq!(fs::read(dir.path().join(kept)).unwrap(), before);
    }
}

/// Each step of making a root, as the folder looks when the process is killed after it.
#[test]
fn a_process_killed_while_it_makes_the_root_leaves_what_the_next_start_finishes() {
    let made = tempfile::tempdir().unwrap();
    let root = authority(made.path()).unwrap();
    let key = fs::read_to_string(made.path().join(ROOT_KEY)).unwrap();
    let torn = &key[..key.len() / 2];
    let (new_key, new_root) = ("ca-key.pem.new", "root-cert.pem.new");
    let unfinished: [&[(&str, &str)]; 4] = [
        &[(new_root, &root[..root.len() / 2])],
        &[(new_root, &root)],
        &[(new_root, &root), (new_key, torn)],
        &[(new_root, &root), (new_key, &key)],
    ];
    let finished: [&[(&str, &str)]; 3] = [
        &[(new_root, &root), (new_key, &key), (ROOT_KEY, &key)],
        &[(new_root, &root), (ROOT_KEY, &key)],
        &[(new_root, &root), (ROOT_KEY, &key), (ROOT_CERTIFICATE, &root)],
    ];
    let start = |files: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        }
        let served = authority(dir.path()).unwrap();
        assert_eq!(authority(dir.path()).unwrap(), served);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{files:?}: left over");
        served
    };
    for files in unfinished {
        assert_ne!(start(files), root, "nobody has seen that root: a new one is made");
    }
    for files in finished {
        assert_eq!(start(files), root);
    }
}

#[test]
fn a_certificate_of_another_key_finishes_no_root() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    authority(one.path()).unwrap();
    let other = authority(two.path()).unwrap();
    fs::remove_file(one.path().join(ROOT_CERTIFICATE)).unwrap();
    fs::write(one.path().join("root-cert.pem.new"), other).unwrap();
    assert!(matches!(authority(one.path()), Err(DataError::HalfARoot { .. })));
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path()).unwrap();
    let key = dir.path().join(ROOT_KEY);
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(authority(dir.path()), Err(DataError::Exposed { mode: 0o640, .. })));
}

#[test]
fn a_key_of_another_root_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    authority(one.path()).unwrap();
    authority(two.path()).unwrap();
    fs::copy(one.path().join(ROOT_CERTIFICATE), two.path().join(ROOT_CERTIFICATE)).unwrap();
    assert!(matches!(authority(two.path()), Err(DataError::Root { .. })));
}

#[test]
fn the_token_key_is_the_same_for_every_process() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = || Data::open(dir.path()).unwrap().tokens().unwrap();
    let token = tokens().issue("n", Duration::from_mins(1), now()).unwrap();
    assert_eq!(tokens().verify(&token, now()).unwrap().node, "n".into());
}
