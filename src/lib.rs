//! npzfs mounts a data directory so that every `.npz` is a directory of `.npy` files.
//!
//! Each layer uses only layers to its right in this list:
//!
//! ```text
//! main -> cli -> daemon -> fuse -> tree -> serve -> saved -> archive -> seekable-deflate
//! ```
//!
//! This library is not meant for other programs. It is separate from the binary so that the fuzz
//! targets can reach the parsers of files that others write: [`archive`] and [`saved`] are public
//! for the fuzz targets, [`cli`] and [`malloc`] for `main`. Everything else is private, so that the
//! compiler reports unused code.
#![deny(unreachable_pub)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![cfg_attr(fuzzing, allow(dead_code, unused_imports))] // the layers that use this code are left out

pub mod archive;
pub mod saved;
pub(crate) mod sync;

// Fuzz targets do not use these modules, which take minutes to compile with a sanitizer.
#[cfg(not(fuzzing))]
pub mod cli;
#[cfg(not(fuzzing))]
pub(crate) mod daemon;
#[cfg(not(fuzzing))]
pub(crate) mod fuse;
#[cfg(not(fuzzing))]
pub mod malloc;
#[cfg(not(fuzzing))]
pub(crate) mod mounts;
#[cfg(not(fuzzing))]
pub(crate) mod offline;
#[cfg(not(fuzzing))]
pub(crate) mod serve;
#[cfg(not(fuzzing))]
pub(crate) mod tree;
