//! The file tree the user sees: which names there are, what they stand for, what they hold.
//!
//! The promises are in docs/semantics.md. Needs no /dev/fuse: all of it can be called from a test.
#![forbid(unsafe_code)]

mod ahead;
mod attr;
mod block;
mod crowd;
mod error;
mod handle;
mod inode;
mod listing;
mod node;
mod number;
mod opened;
mod present;
mod resolve;
mod source;
mod sweep;
#[expect(clippy::module_inception, reason = "the type this folder is named for")]
mod tree;
mod xattr;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    saved::{Copies, Indexes},
    serve::Verify,
};

pub use attr::{Attr, Kind, Timestamp};
pub use error::FsError;
pub use handle::{Handle, HandleId, Held};
pub use inode::Ino;
pub use listing::Listed;
pub use source::{PlainFile, Source};
pub use tree::{Backing, Opened, Opening, Tree};
pub use xattr::Xattr;

/// Where archives are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// `foo.npz` itself is the directory.
    #[default]
    Replace,
    /// `foo.npz` stays a file; the directory is `foo.npz.d`.
    Beside,
}

/// What a user can set about the tree and how it is served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where archives are shown.
    pub layout: Layout,
    /// How long the kernel may keep names and attributes.
    pub ttl: Duration,
    /// Bytes that the process may take.
    pub memory_limit: u64,
    /// Bytes of them for decoded spans and indexes.
    pub cache_size: u64,
    /// Archives that are kept open at most, each with a file descriptor, and as many `.npy.gz`; no
    /// more than a quarter of the descriptors the process may have.
    pub open_archives: u64,
    /// Threads that decode.
    pub threads: usize,
    /// Whether those do all else, too, because few threads are allowed.
    pub few_threads: bool,
    /// Where members that can only be decoded whole are decoded to.
    pub temporary: PathBuf,
    /// Bytes that they may take there; `None` for a tenth of what is free.
    pub scratch_size: Option<u64>,
    /// Where indexes are saved, if anywhere.
    pub indexes: Option<Arc<Indexes>>,
    /// Where decoded copies of members are kept, if anywhere.
    pub copies: Option<Arc<Copies>>,
    /// When members are compared with their CRC-32.
    pub verify: Verify,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            layout: Layout::Replace,
            ttl: Duration::from_secs(1),
            memory_limit: 256 << 20,
            cache_size: 64 << 20,
            // So many that a walk over thousands does not drop their indexes.
            open_archives: 16 << 10,
            // Two at least: one may be at a long first pass while the other serves rows.
            threads: std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 16)),
            few_threads: false,
            temporary: std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from),
            scratch_size: None,
            indexes: None,
            copies: None,
            verify: Verify::default(),
        }
    }
}
