//! The mesh between network namespaces, with the real binaries: one module a promise. Needs root.

mod the_lab_itself;
