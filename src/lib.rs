//! npzfs mounts a data directory so that every `.npz` is a directory of `.npy` files.
//!
//! Layers use those below them, never those above:
//!
//! ```text
//! main -> cli -> daemon -> fuse -> tree -> serve -> saved -> archive -> seekable-deflate
//! ```
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod archive;
pub mod cli;
pub mod daemon;
pub mod fuse;
pub mod malloc;
pub mod mounts;
pub mod saved;
pub mod serve;
pub mod sync;
pub mod tree;
