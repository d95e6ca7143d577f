//! Archives and other containers: parses them and decodes their members.
//!
//! Knows nothing of FUSE and starts no threads. Every read checks that the file is still the
//! generation that was opened.
#![forbid(unsafe_code)]

mod central;
mod container;
mod cp437;
mod decode;
mod decoded_archive;
mod dir;
mod error;
mod format;
mod generation;
mod gzip;
mod identity;
mod lzma;
mod member;
mod name;
pub mod npy;
mod source;
mod zip;
mod zip_headers;

pub use central::Grow;
pub use container::{Container, MAX_DICTIONARY};
pub use decoded_archive::{DecodedArchive, Part};
pub use dir::{Dir, DirId, Entry};
pub use error::{Error, plain};
pub use format::{Format, NPY_GZ, NPZ};
pub use generation::{Device, Generation, Timestamp};
pub use identity::Identity;
pub use member::{Member, MemberId, Method};
pub use source::{SameFile, SourceFile, read_up_to};

#[cfg(test)]
mod random_tests;
#[cfg(test)]
pub(crate) mod testing;
