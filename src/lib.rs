//! npzfs mounts a data directory so that every `.npz` is a directory of `.npy` files.
//!
//! Layers use those below them, never those above:
//!
//! ```text
//! main -> cli -> daemon -> fuse -> tree -> serve -> saved -> archive -> seekable-deflate
//! ```
//!
//! This library is not for other programs. It is split from the binary so that the fuzz targets can
//! reach the parsers of files that others write: [`archive`] and [`saved`] are public for them, and
//! [`cli`] and [`malloc`] for `main`. Everything else is private, so that the compiler finds what
//! nobody calls.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![cfg_attr(fuzzing, allow(dead_code))] // the layers that use it are not there

pub mod archive;
pub mod saved;
pub(crate) mod sync;

// Not for the fuzz targets, which reach none of these: with a sanitizer they compile for minutes.
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
pub(crate) mod serve;
#[cfg(not(fuzzing))]
pub(crate) mod tree;
