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
    assert_eq!(tokens().verify(&token, now()).unwrap().node, "n");
}
