//! The options of a mount, as parsed from the command line.

use std::{ffi::OsString, path::PathBuf};

use crate::tree::Settings;

/// The users who may use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Access {
    /// Only the user who mounts.
    #[default]
    Owner,
    /// The user who mounts, and root.
    OwnerAndRoot,
    /// All users, as far as the modes of the files allow.
    Everybody,
}

/// The options of a mount.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// The directory or archive to show.
    pub source: PathBuf,
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// How the tree looks, and how it is served.
    pub settings: Settings,
    /// The directory for saved indexes, if any, and its limit in bytes; with 0 none are saved.
    pub index_dir: Option<(PathBuf, u64)>,
    /// The directory for decoded copies of members, if any, and its limit in bytes.
    pub disk_cache: Option<(PathBuf, u64)>,
    pub access: Access,
    /// Whether the kernel checks the modes of files. It always does if users other than the owner
    /// have access: otherwise a server that runs as root would let them read files whose modes
    /// forbid that.
    pub default_permissions: bool,
    /// Whether the kernel refuses to run programs from the mount.
    pub noexec: bool,
    /// The file whose locks keep the server running. If `None`, the server needs no lock.
    pub while_locked: Option<PathBuf>,
    /// The name that findmnt(8) shows as the source; by default the path of the source.
    pub fs_name: Option<OsString>,
}

impl Options {
    pub(super) fn kernel_checks_modes(&self) -> bool {
        self.default_permissions || self.access != Access::Owner
    }

    /// Whether to mount with the kernel's `allow_other`. The kernel has no `allow_root`: under that
    /// setting fuser itself refuses everybody but the owner and root.
    pub(super) fn kernel_allows_others(&self) -> bool {
        self.access != Access::Owner
    }
}
