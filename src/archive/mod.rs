//! What an archive is: members that can be read at an offset.
//!
//! Knows nothing of FUSE and starts no threads. Every read of the file is checked against the
//! generation it was opened with.
#![forbid(unsafe_code)]

mod archive;
mod error;
mod generation;
mod gzip;
mod member;
pub mod npy;
mod source;

pub use archive::{Archive, Dir, DirId, Entry};
pub use error::Error;
pub use generation::Generation;
pub use gzip::NpyGz;
pub use member::{Member, MemberId, Method};
pub use source::SourceFile;
