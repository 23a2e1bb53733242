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
    let identity = netns_identity(&ours).unwrap();
    let found = oldest(Path::new("/proc"), |process| {
        process == ours && netns_identity(process) == Some(identity)
    });
    assert_eq!(found.unwrap(), Some(ours));
}
