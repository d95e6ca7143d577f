//! The file tree that the user sees: its names, the kinds of its files, and their contents.
//!
//! docs/semantics.md describes what the tree guarantees. The tree needs no /dev/fuse: tests can
//! call all of it.
#![forbid(unsafe_code)]

mod attr;
mod beside;
mod block;
mod containers;
mod crowd;
mod error;
mod flat;
mod handle;
mod inode;
mod listing;
mod node;
mod number;
mod open_rows;
mod resolve;
mod shown_names;
mod source;
#[expect(clippy::module_inception, reason = "the type this folder is named for")]
mod tree;
mod xattr;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::serve;

pub(crate) use crate::archive::Timestamp;
pub(crate) use attr::{Attr, Kind};
pub(crate) use containers::Weight;
pub(crate) use error::FsError;
pub(crate) use flat::{FlatName, FlatNames};
pub(crate) use handle::{Handle, HandleId};
pub(crate) use inode::Ino;
pub(crate) use listing::Listed;
pub(crate) use source::Source;
pub(crate) use tree::{Opened, Opening, Tree};
pub(crate) use xattr::Xattr;

/// How archives and their members are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Layout {
    /// `foo.npz` itself is the directory.
    #[default]
    Replace,
    /// `foo.npz` stays a file; the directory is `foo.npz.d`.
    Beside,
    /// As `Beside`, but the file is the archive with its members decoded.
    Stored,
    /// As `Stored`, but instead of the directory, the members stand as files beside the archive.
    Flat,
}

impl Layout {
    /// Whether archives and `.npy.gz` files stay files under their own names.
    fn keeps_files(self) -> bool {
        self != Self::Replace
    }

    /// Whether the directories of archives are shown beside files, not in their place.
    fn is_beside(self) -> bool {
        matches!(self, Self::Beside | Self::Stored)
    }

    /// Whether archives are files with their members decoded.
    fn is_decoding(self) -> bool {
        matches!(self, Self::Stored | Self::Flat)
    }
}

/// Settings of the tree, and of how its contents are served.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How archives and their members are shown.
    pub layout: Layout,
    /// The names of members beside archives, with [`Layout::Flat`].
    pub flat_names: FlatNames,
    /// How long the kernel may use names and attributes without asking again.
    pub ttl: Duration,
    /// Whether modes have the write bits of the source. They have them below an overlay that takes
    /// the writes: overlayfs lets nobody write a file that its lower layer shows without them.
    pub write_bits: bool,
    /// The user and the group to whom everything belongs, instead of its owner. An overlay in a
    /// user namespace needs it: nobody may write what belongs to somebody who has no number there.
    pub owner: Option<(u32, u32)>,
    /// The most containers that are kept open, each with a file descriptor. At most a quarter of
    /// the descriptors that the process may have are used for them.
    pub open_archives: u64,
    pub serve: serve::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            layout: Layout::Replace,
            flat_names: FlatNames::default(),
            ttl: Duration::from_secs(1),
            write_bits: false,
            owner: None,
            // Enough for a walk over thousands of archives without dropping their indexes.
            open_archives: 16 << 10,
            serve: serve::Settings::default(),
        }
    }
}
