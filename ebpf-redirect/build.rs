//! Embeds the eBPF objects, where they were built.
//!
//! A build without them is a whole build of everything else, on a machine without the BPF tool chain; the
//! agent then says at run time which command makes them. The folder is in git, so that cargo can watch it.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(std::path::PathBuf::from);
    let objects = manifest.ok_or(io::ErrorKind::NotFound)?.join("objects");
    println!("cargo::rerun-if-changed={}", objects.display());
    let out = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    let embedded = ["node", "pod"]
        .map(|name| {
            format!(
                "pub(crate) const {}: &[u8] = {};\n",
                name.to_uppercase(),
                value(&objects.join(name))
            )
        })
        .concat();
    fs::write(Path::new(&out).join("objects.rs"), embedded)
}

fn value(object: &Path) -> String {
    if object.is_file() {
        format!("::aya::include_bytes_aligned!({:?})", object.display())
    } else {
        "&[]".to_owned()
    }
}
