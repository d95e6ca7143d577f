//! Windows: the decoded bytes before a checkpoint, in several forms.
//!
//! A first pass copies a window as it is (`Raw`). If the pass knows that the bytes after the
//! checkpoint refer to little of the window, it keeps only that part (`sparse`). Otherwise the
//! window is packed later (`packed`), without its unneeded bytes. To find these, the 32 KiB after
//! the checkpoint are decoded again (`trace`).

mod packed;
mod sparse;
mod trace;

use std::sync::Arc;

pub(crate) use packed::{Packed, Packer};
pub(crate) use sparse::{Reach, Sparse};
pub(crate) use trace::TraceStart;

use crate::saved::SavedWindow;

/// Up to 32 KiB of decoded bytes before a checkpoint. Matches after the checkpoint can refer to no
/// earlier byte. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Window {
    /// The bytes as they were decoded.
    Raw(Arc<[u8]>),
    /// Only the bytes that are referred to, if there are few.
    Sparse(Arc<Sparse>),
    /// Deflated, in memory.
    Packed(Arc<Packed>),
    /// Deflated, in a saved index.
    Saved(SavedWindow),
}

impl Default for Window {
    fn default() -> Self {
        Self::Raw(Arc::default())
    }
}

impl From<&[u8]> for Window {
    fn from(bytes: &[u8]) -> Self {
        Self::Raw(bytes.into())
    }
}

impl From<Vec<u8>> for Window {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Raw(bytes.into())
    }
}

impl Window {
    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> u64 {
        match self {
            Self::Raw(bytes) => bytes.len() as u64,
            Self::Sparse(sparse) => sparse.memory() as u64,
            Self::Packed(packed) => (packed.deflated.len() + size_of::<Packed>()) as u64,
            Self::Saved(_) => 0,
        }
    }

    /// Whether this and `same` are the same window, in a form that is not packed.
    pub(crate) fn is_unpacked(&self, same: &Self) -> bool {
        match (self, same) {
            (Self::Raw(one), Self::Raw(other)) => Arc::ptr_eq(one, other),
            (Self::Sparse(one), Self::Sparse(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// The bytes of the window. Those that nothing refers to may be zeros. `None` if the window is
    /// damaged or cannot be read.
    pub(crate) fn unpack(&self) -> Option<Vec<u8>> {
        match self {
            Self::Raw(bytes) => Some(bytes.to_vec()),
            Self::Sparse(sparse) => Some(sparse.unpack()),
            Self::Packed(packed) => packed::inflate(&packed.deflated, packed.len),
            Self::Saved(saved) => {
                let (record, deflated) = saved.packed()?;
                packed::inflate(&deflated, record.len.into())
            }
        }
    }
}
