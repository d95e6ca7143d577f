//! Files that only we write, kept from one mount to the next: saved indexes, decoded copies.
//!
//! They may vanish or be damaged at any time; then they are made again. Whatever is wrong with them
//! costs time, never a byte. Knows nothing of reads, handles or FUSE.
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
