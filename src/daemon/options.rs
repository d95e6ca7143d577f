//! The options of a mount, as the command line gives them.

use std::{ffi::OsString, path::PathBuf};

use crate::tree::Settings;

/// Who may use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Only the user who mounts.
    #[default]
    Owner,
    /// That user, and root.
    OwnerAndRoot,
    /// Everybody, as far as the modes of the files allow.
    Everybody,
}

/// The options of a mount.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The directory or archive to show.
    pub source: PathBuf,
    /// Where to show it.
    pub mountpoint: PathBuf,
    /// How the tree looks and is served.
    pub settings: Settings,
    /// Where indexes are saved, if anywhere, and how many bytes they may take; with 0 none are saved.
    pub index_dir: Option<(PathBuf, u64)>,
    /// Where decoded copies of members are kept, if anywhere, and how many bytes they may take.
    pub disk_cache: Option<(PathBuf, u64)>,
    /// Who may use it.
    pub access: Access,
    /// Whether the kernel checks the modes of files. If others than the owner have access, it always
    /// does: otherwise a server that runs as root would let them read what the modes forbid.
    pub default_permissions: bool,
    /// Whether programs on the mount cannot be run.
    pub noexec: bool,
    /// What findmnt(8) shows as the source; by default the path of the source.
    pub fs_name: Option<OsString>,
}

impl Options {
    pub(super) fn kernel_checks_modes(&self) -> bool {
        self.default_permissions || self.access != Access::Owner
    }

    /// Whether the kernel lets other users in. It has no `allow_root`: for that, fuser refuses all users
    /// but root.
    pub(super) fn kernel_allows_others(&self) -> bool {
        self.access != Access::Owner
    }
}
