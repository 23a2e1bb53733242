use super::*;

#[test]
fn of_what_earlier_agents_left_only_what_is_there_is_inherited() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for there in ["ours", "theirs"] {
        std::fs::create_dir(path(there)).unwrap();
    }
    // Our own may be made later.
    let own = vec![path("ours"), path("later")];
    let inherited = vec![path("gone"), path("theirs"), path("ours"), path("theirs")];
    let all = with_inherited(own, inherited);
    assert_eq!(all, [path("ours"), path("later"), path("theirs")]);
}
