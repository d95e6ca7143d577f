//! Files that only npzfs writes, kept from one mount to the next: saved indexes, decoded copies.
//!
//! These files may vanish or be damaged at any time, and are then rebuilt. A file that is
//! missing or found to be unfit costs only time: the bytes that a reader gets stay right. This
//! module knows nothing of reads, handles or FUSE.
#![forbid(unsafe_code)]

mod copies;
mod directory;
mod error;
mod index_file;
mod indexes;

pub use copies::{Copies, CopyKey};
pub use directory::{Directory, Draft};
pub use error::Error;
pub use index_file::{IndexFile, StreamKey, Trust, WriteIndex};
pub use indexes::Indexes;
