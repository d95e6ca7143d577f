//! The file tree the user sees: which names there are, what they stand for, what they hold.
//!
//! The promises are in docs/semantics.md. Needs no /dev/fuse: all of it can be called from a test.
#![forbid(unsafe_code)]

mod attr;
mod beside;
mod block;
mod containers;
mod crowd;
mod error;
mod handle;
mod inode;
mod listing;
mod node;
mod number;
mod open_rows;
mod resolve;
mod source;
mod sweep;
#[expect(clippy::module_inception, reason = "the type this folder is named for")]
mod tree;
mod xattr;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::serve;

pub use crate::archive::Timestamp;
pub use attr::{Attr, Kind};
pub use error::FsError;
pub use handle::{Handle, HandleId};
pub use inode::Ino;
pub use listing::Listed;
pub use source::{PlainFile, Source};
pub use tree::{Opened, Opening, Tree};
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
    /// Most containers that are kept open, each with a file descriptor; no more than a quarter of
    /// the descriptors that the process may have.
    pub open_archives: u64,
    /// How contents are served.
    pub serve: serve::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            layout: Layout::Replace,
            ttl: Duration::from_secs(1),
            // So many that a walk over thousands does not drop their indexes.
            open_archives: 16 << 10,
            serve: serve::Settings::default(),
        }
    }
}
