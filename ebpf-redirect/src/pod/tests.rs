use super::*;

#[test]
fn a_uid_is_a_name_that_is_safe_in_a_path() {
    let longest = "x".repeat(128);
    for fine in ["8c2b9c1e-7d7e-4c3e-a0a4-6b1f2d3c4e5f", "a", "pod_1", longest.as_str()] {
        assert_eq!(PodUid::parse(fine).unwrap().as_str(), fine);
    }
    for bad in ["", ".", "..", "a/b", "a.b", "a b", "\u{e9}", &"x".repeat(129)] {
        let error = PodUid::parse(bad).unwrap_err().to_string();
        assert!(error.contains(&format!("{bad:?}")), "{error}");
    }
}

#[test]
fn a_pod_speaks_from_its_global_addresses_only() {
    let address = |text: &str, reach| Address { ip: text.parse().unwrap(), reach };
    let surroundings = Surroundings {
        addresses: vec![
            address("fe80::1", Reach::Local),
            address("10.0.0.5", Reach::Global),
            address("fd00::5", Reach::Global),
        ],
        links: Vec::new(),
    };
    let expected: [IpAddr; 2] = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
    assert_eq!(surroundings.sources(), expected);
}

#[test]
fn a_namespace_whose_path_cannot_be_recorded_is_refused() {
    let path = |bytes| PathBuf::from(format!("/{}", "x".repeat(bytes - 1)));
    let longest = path(programs::PATH_MAX);
    assert_eq!(programs::recordable(&longest).unwrap(), longest.as_os_str().as_encoded_bytes());
    let longer = path(programs::PATH_MAX + 1);
    let error = programs::recordable(&longer).unwrap_err().to_string();
    let said = format!("network namespace {} has a path of more than 128 bytes", longer.display());
    assert_eq!(error, said);
}
