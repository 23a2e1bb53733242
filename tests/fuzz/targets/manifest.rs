//! Any text is manifests that compile, or refused with the place of each mistake.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;

/// In memory, and of this process alone.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(format!("/dev/shm/weft-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for one manifest");
    folder
});

fuzz_target!(|text: &[u8]| {
    fs::write(FOLDER.join("fuzz.yaml"), text).expect("write the manifest");
    for problem in weft_control::validate(&FOLDER) {
        assert!(!problem.message.is_empty(), "a problem says what it is");
    }
});
