//! The nodes of the tree: the file, directory or member of each inode.

use std::{
    fs::File,
    path::Path,
    sync::{Arc, Weak},
};

use super::{
    attr::{FileId, Kind},
    containers::Weight,
};
use crate::{
    archive::{DirId, Format, MemberId, Timestamp},
    serve::OpenContainer,
    sync::Mutex,
};

/// The file, directory or member of an inode. Paths are relative to the source.
#[derive(Debug)]
pub(super) enum Node {
    /// A file of the source, shown as it is.
    Source(SourceNode),
    /// The root of a mount of a single archive: always the newest generation of the archive.
    ArchiveRoot,
    /// The archive as a file, with its members decoded.
    DecodedArchive(Arc<Version>),
    /// A directory in an archive, which may be the root of the archive.
    ArchiveDir(Arc<Version>, DirId),
    /// A member of an archive, or a member that is shown in the place of its container.
    Member(Arc<Version>, MemberId),
}

/// Identifies an inode; all inodes of an archive share one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A file or directory that has one path only. A rename changes the path but not the key.
    Source(FileId),
    /// A file or directory, under one path, that may have other paths too.
    SourceAt(Arc<Path>, FileId),
    /// An archive, with its number of directories and its number of members.
    Archive(Arc<VersionKey>, (u32, u32)),
    /// The member that is shown in the place of its container.
    OnlyMember(Arc<VersionKey>),
}

/// Identifies a generation of a container under a path. Does not include the ctime, because a
/// rename changes it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct VersionKey {
    pub path: Arc<Path>,
    pub id: FileId,
    pub size: u64,
    pub mtime: Timestamp,
    /// A checksum of the start and the end of the file (`SourceFile::fingerprint`).
    pub fingerprint: u64,
}

/// A file of the source, shown as it is.
#[derive(Debug)]
pub(super) struct SourceNode {
    /// The path at the last lookup; the file may have been renamed since then.
    path: Mutex<Arc<Path>>,
    pub id: FileId,
    pub kind: Kind,
    /// The open file that all handles of this inode share.
    open: Mutex<Weak<File>>,
}

impl SourceNode {
    pub(super) fn new(path: Arc<Path>, id: FileId, kind: Kind) -> Self {
        Self { path: Mutex::new(path), id, kind, open: Mutex::default() }
    }

    /// The path within the source at the last lookup.
    pub(super) fn path(&self) -> Arc<Path> {
        self.path.lock().clone()
    }

    /// Notes that the file was found at `path`.
    pub(super) fn seen_at(&self, path: &Arc<Path>) {
        let mut known = self.path.lock();
        if *known != *path {
            *known = path.clone();
        }
    }

    /// The open file, if a handle has it open.
    pub(super) fn open_file(&self) -> Option<Arc<File>> {
        self.open.lock().upgrade()
    }

    /// Shares `file` among the handles of this inode. If a handle already has the file open,
    /// returns that one instead.
    pub(super) fn share(&self, file: File) -> Arc<File> {
        let mut open = self.open.lock();
        open.upgrade().unwrap_or_else(|| {
            let file = Arc::new(file);
            *open = Arc::downgrade(&file);
            file
        })
    }
}

/// One generation of a container under one path. The container may be closed while no handle holds
/// it; it is then reopened on demand if the file still exists.
#[derive(Debug)]
pub(super) struct Version {
    pub key: Arc<VersionKey>,
    pub format: &'static Format,
    /// What it takes to open the container again.
    weight: Option<Weight>,
    container: Mutex<Weak<OpenContainer>>,
}

impl Version {
    pub(super) fn new(
        key: Arc<VersionKey>,
        format: &'static Format,
        container: &Arc<OpenContainer>,
    ) -> Self {
        let weight = Weight::of(container.container().parsing_memory());
        Self { key, format, weight, container: Mutex::new(Arc::downgrade(container)) }
    }

    /// The weight of the container, if it has one and is closed.
    pub(super) fn weight_to_open(&self) -> Option<Weight> {
        self.weight.filter(|_| self.container.lock().strong_count() == 0)
    }

    /// Returns the container. If it is closed, opens it with `reopen`, which must return a
    /// container of the same generation.
    pub(super) fn open<E>(
        &self,
        reopen: impl FnOnce() -> Result<Arc<OpenContainer>, E>,
    ) -> Result<Arc<OpenContainer>, E> {
        let known = self.container.lock().upgrade();
        if let Some(container) = known {
            return Ok(container);
        }
        let container = reopen()?;
        *self.container.lock() = Arc::downgrade(&container);
        Ok(container)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;
    use crate::archive::Device;

    #[test]
    fn two_who_open_a_file_at_once_share_what_the_first_opened() {
        let id = FileId { dev: Device { major: 0, minor: 1 }, ino: 2, btime: Timestamp::default() };
        let node = SourceNode::new(Path::new("f").into(), id, Kind::RegularFile);
        let open = || tempfile::tempfile().unwrap();
        let (first, second) = (node.share(open()), node.share(open()));
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        assert!(node.open_file().is_none());
    }

    #[test]
    fn one_file_under_many_names_has_keys_with_many_hashes() {
        let hasher = RandomState::new();
        let key = |path| VersionKey {
            path: Path::new(path).into(),
            id: FileId {
                dev: Device { major: 0, minor: 1 },
                ino: 2,
                btime: Timestamp { seconds: 3, nanoseconds: 4 },
            },
            size: 5,
            mtime: Timestamp { seconds: 6, nanoseconds: 7 },
            fingerprint: 8,
        };
        assert_eq!(hasher.hash_one(key("a.npz")), hasher.hash_one(key("a.npz")));
        assert_ne!(hasher.hash_one(key("a.npz")), hasher.hash_one(key("b.npz")));
    }
}
