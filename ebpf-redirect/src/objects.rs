//! The eBPF programs as bytes, and what a program of ours needs to be loaded.

use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::{Ebpf, EbpfError, EbpfLoader};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/objects.rs"));
}

/// Why an object cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The crate was built without them. The message is the remedy.
    #[error(
        "this weft-redirect was built without its eBPF programs: run `cargo xtask ebpf`, then build again"
    )]
    NotBuilt,
    /// The kernel refused it, or it is broken.
    #[error("eBPF object {object} cannot be loaded")]
    Load {
        /// Which.
        object: &'static str,
        /// Why.
        source: EbpfError,
    },
    /// A pinned map is of another layout: another build of ours left it.
    #[error(
        "pinned map {path} has keys of {key} and values of {value} bytes, {want_key} and {want_value} \
         were expected: run `weft-redirect cleanup` first"
    )]
    Layout {
        /// The pin.
        path: PathBuf,
        /// What it has.
        key: u32,
        /// What it has.
        value: u32,
        /// What is expected.
        want_key: u32,
        /// What is expected.
        want_value: u32,
    },
}

/// One of our two objects.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Object {
    Node,
    Pod,
}

impl Object {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Pod => "pod",
        }
    }

    fn bytes(self) -> Result<&'static [u8], ObjectError> {
        let bytes = match self {
            Self::Node => embedded::NODE,
            Self::Pod => embedded::POD,
        };
        if bytes.is_empty() { Err(ObjectError::NotBuilt) } else { Ok(bytes) }
    }

    /// Errors when this build has no programs; asked before anything is changed on the machine.
    pub(crate) fn built(self) -> Result<(), ObjectError> {
        self.bytes().map(|_| ())
    }

    /// Creates the object's maps, or takes those that are pinned, and readies its programs.
    ///
    /// `constants` are frozen before any program is verified.
    pub(crate) fn load(
        self,
        pins: &[(&'static str, PathBuf)],
        constants: &[(&'static str, Constant)],
    ) -> Result<Ebpf, ObjectError> {
        let bytes = self.bytes()?;
        let mut loader = EbpfLoader::new();
        // Our programs take no layout from the kernel; to read its types would cost more than all the rest.
        loader.btf(None);
        for (map, pin) in pins {
            loader.map_pin_path(map, pin.as_path());
        }
        for (name, constant) in constants {
            match constant {
                Constant::U32(value) => loader.override_global(name, value, true),
                Constant::U64(value) => loader.override_global(name, value, true),
            };
        }
        loader.load(bytes).map_err(|source| ObjectError::Load { object: self.name(), source })
    }
}

/// A value of a program's read-only data.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Constant {
    U32(u32),
    U64(u64),
}

/// Refuses a pinned map whose layout is not ours, before programs are verified against it.
pub(crate) fn check_layout<K, V>(path: &Path) -> Result<(), ObjectError> {
    let Ok(info) = MapData::from_pin(path).and_then(|map| map.info()) else {
        return Ok(());
    };
    let (want_key, want_value) = (bytes_of::<K>(), bytes_of::<V>());
    if (info.key_size(), info.value_size()) == (want_key, want_value) {
        return Ok(());
    }
    Err(ObjectError::Layout {
        path: path.to_owned(),
        key: info.key_size(),
        value: info.value_size(),
        want_key,
        want_value,
    })
}

fn bytes_of<T>() -> u32 {
    u32::try_from(size_of::<T>()).expect("our layouts are small")
}
