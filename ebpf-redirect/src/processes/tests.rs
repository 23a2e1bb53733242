use super::*;

#[test]
fn a_namespace_may_be_a_process_s() {
    let table = [
        ("/proc/17/ns/net", Some("/proc/17")),
        ("/proc/1/root/proc/17/ns/net", Some("/proc/1/root/proc/17")),
        ("/proc/self/ns/net", None),
        ("/proc/17/ns/mnt", None),
        ("/run/netns/17", None),
        ("17/ns/net", Some("17")),
        ("ns/net", None),
    ];
    for (path, process) in table {
        assert_eq!(of_netns(Path::new(path)), process.map(Path::new), "{path}");
    }
}

#[test]
fn our_own_namespace_is_found_by_our_process() {
    let ours = Path::new("/proc").join(std::process::id().to_string());
    let identity = netns_identity(&ours).unwrap().unwrap();
    let found = oldest(Path::new("/proc"), |process| {
        Ok(process == ours && netns_identity(process)? == Some(identity))
    });
    assert_eq!(found.unwrap(), Some(ours));
}

#[test]
fn what_cannot_be_looked_at_is_not_nowhere() {
    let said = |number| io::Error::from_raw_os_error(number);
    for closed in [libc::ENOENT, libc::ESRCH, libc::EACCES] {
        assert_eq!(unless_ended::<()>(Err(said(closed))).unwrap(), None, "{}", said(closed));
    }
    for failed in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
        let error = unless_ended::<()>(Err(said(failed))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(failed));
        let error = oldest(Path::new("/proc"), |_| Err(said(failed))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(failed));
    }
    // What holds its start is no file that can be read.
    let proc = tempfile::tempdir().unwrap();
    fs::create_dir_all(proc.path().join("17/stat")).unwrap();
    oldest(proc.path(), |_| Ok(true)).unwrap_err();
}
