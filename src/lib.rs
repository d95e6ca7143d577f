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

pub mod archive;
pub mod cli;
pub(crate) mod daemon;
pub(crate) mod fuse;
pub mod malloc;
pub(crate) mod mounts;
pub mod saved;
pub(crate) mod serve;
pub(crate) mod sync;
pub(crate) mod tree;
