use super::*;

#[test]
fn folders_of_the_wrong_kind_are_named() {
    let somewhere = PathBuf::from("/proc");
    let machine = Machine {
        cgroup: somewhere.clone(),
        bpffs: somewhere.join("weft"),
        btf: somewhere.join("no-btf"),
    };
    let lacks = machine.lacks();
    let said: Vec<String> = lacks.iter().map(Lack::to_string).collect();
    assert!(
        said.iter().any(|line| line.starts_with("/proc is no cgroup of version 2")),
        "{said:?}"
    );
    let bpffs = "/proc/weft is not in a BPF file system: mount -t bpf bpf /sys/fs/bpf".to_owned();
    assert!(said.contains(&bpffs), "{said:?}");
    let btf = lacks.iter().find(|lack| matches!(lack, Lack::Btf { .. })).unwrap();
    assert_eq!(btf.severity(), Severity::Degraded);
    assert!(btf.to_string().contains("/proc/no-btf"), "{btf}");
}

#[test]
fn each_lack_says_what_would_help() {
    let said = [
        (Lack::Capability("CAP_NET_ADMIN"), "capability CAP_NET_ADMIN is missing: run as root"),
        (
            Lack::Kernel { feature: "sk_lookup programs", since: "5.9", severity: Severity::Fatal },
            "the kernel has no sk_lookup programs (Linux 5.9 does)",
        ),
        (
            Lack::CgroupV2 { path: "/a".into(), mounted: Some("/b".into()) },
            "/a is no cgroup of version 2; one is mounted at /b",
        ),
    ];
    for (lack, text) in said {
        assert_eq!(lack.to_string(), text);
    }
}

/// A thread without capabilities asks; others of this process keep theirs.
#[test]
fn a_process_without_capabilities_is_told_which_are_missing() {
    let lacks = std::thread::spawn(|| {
        let none = rustix::thread::CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none).unwrap();
        missing_capabilities()
    })
    .join()
    .unwrap();
    let expected = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW"].map(Lack::Capability);
    assert_eq!(lacks, expected);
}

#[test]
fn cgroups_of_version_2_are_found_where_they_are_mounted() {
    let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
    assert_eq!(cgroup::mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
    assert_eq!(
        cgroup::mount("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0"),
        Some("/sys/fs/cgroup".into())
    );
    assert_eq!(cgroup::mount("proc /proc proc rw 0 0"), None);
}
