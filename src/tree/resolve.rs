//! What names stand for, and how they get inodes.

use std::{ffi::OsStr, io, path::Path, sync::Arc};

use super::{
    Attr, FsError, Ino, Kind, Layout, Timestamp, Tree,
    attr::Stat,
    inode::InBlock,
    node::{Key, Node, SourceNode, Version, VersionKey},
    number,
    opened::{Container, Containers, Found},
    present,
    source::{self, At},
};
use crate::{
    archive::{Archive, DirId, Entry, MemberId, SourceFile},
    serve::{OpenArchive, OpenNpyGz},
};

/// What a name stands for.
enum Resolved {
    Source(Arc<Path>, Stat),
    Archive(Arc<Path>, Stat, Arc<OpenArchive>),
    NpyGz(Arc<Path>, Stat, Arc<OpenNpyGz>),
}

impl Tree {
    /// What `name` in the directory `parent` stands for. The kernel then owes one `forget`.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `Stale`, or what the source says.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<(Ino, Attr), FsError> {
        self.lookup_now(parent, name, true)
    }

    /// The same; if a large archive has to be opened for it, only if the caller `waits`.
    ///
    /// # Errors
    /// As `lookup`, and `Heavy`.
    pub fn lookup_now(
        &self,
        parent: Ino,
        name: &OsStr,
        waits: bool,
    ) -> Result<(Ino, Attr), FsError> {
        match &*self.node(parent)? {
            Node::Source(directory) if directory.kind == Kind::Directory => {
                self.server.check_memory()?;
                self.note_lookup(parent, name);
                let path = directory.path();
                let mut at = self.source.at(&path);
                at.waits = waits;
                self.lookup_at(&at, name)
            }
            Node::ArchiveRoot => {
                let (version, archive) = self.root_version().map_err(|_| FsError::NotFound)?;
                self.lookup_in_archive(&version, archive.archive(), DirId::ROOT, name)
            }
            Node::ArchiveDir(version, directory) => {
                let archive = self.open_archive_now(version, waits)?;
                self.lookup_in_archive(version, archive.archive(), *directory, name)
            }
            _ => Err(FsError::NotADirectory),
        }
    }

    /// What `name` in a directory of the source stands for.
    pub(super) fn lookup_at(&self, at: &At<'_>, name: &OsStr) -> Result<(Ino, Attr), FsError> {
        Ok(self.enter(self.resolve(at, name)?))
    }

    /// The inode of a file called `name` that turned out to be an archive, or none.
    pub(super) fn enter_found(
        &self,
        at: &At<'_>,
        name: &OsStr,
        found: Found<OpenArchive>,
        stat: Stat,
    ) -> (Ino, Attr) {
        let path = at.path.join(name).into();
        self.enter(match found {
            Ok(archive) => Resolved::Archive(path, stat, archive),
            Err(_) => Resolved::Source(path, stat),
        })
    }

    fn lookup_in_archive(
        &self,
        version: &Arc<Version<OpenArchive>>,
        archive: &Archive,
        directory: DirId,
        name: &OsStr,
    ) -> Result<(Ino, Attr), FsError> {
        self.server.check_memory()?;
        archive.source().check().map_err(|_| FsError::Stale)?;
        let entry = archive.dir(directory).get(name.as_encoded_bytes()).ok_or(FsError::NotFound)?;
        let stat = stat_of(archive.source())?;
        let inodes = self.inodes_of(version, archive);
        Ok(enter_entry(&inodes, version, archive, &stat, entry))
    }

    /// The inodes of a generation of an archive, for entering some of them.
    pub(super) fn inodes_of(
        &self,
        version: &Arc<Version<OpenArchive>>,
        archive: &Archive,
    ) -> InBlock<'_, Key, Node> {
        let (dirs, members) = archive.counts();
        let key = Key::Archive(version.key.clone(), (dirs, members));
        let numbers = |_: &Key| number::of_archive(&version.key);
        self.inodes.block(key, numbers, || {
            let version = version.clone();
            let node = move |place: u32| match place.checked_sub(dirs) {
                None => Node::ArchiveDir(version.clone(), DirId(place)),
                Some(member) => Node::Member(version.clone(), MemberId(member)),
            };
            (dirs + members, Box::new(node))
        })
    }

    fn resolve(&self, at: &At<'_>, name: &OsStr) -> Result<Resolved, FsError> {
        let stat = match at.stat(name) {
            Ok(stat) => stat,
            Err(error) => {
                return match error.into() {
                    FsError::NotFound => self.resolve_derived(at, name),
                    error => Err(error),
                };
            }
        };
        let path = || at.path.join(name).into();
        if stat.kind() == Kind::File && self.settings.layout == Layout::Replace {
            if present::is_npz(name) {
                if let (Ok(archive), stat) = self.archive_at(at, name, stat)? {
                    return Ok(Resolved::Archive(path(), stat, archive));
                }
            } else if let Some(npy) = present::npy_of_gz(name)
                && at.stat(npy).is_err()
                && self.npy_gz_at(at, name, stat)?.0.is_ok()
            {
                return Err(FsError::NotFound);
            }
        }
        Ok(Resolved::Source(path(), stat))
    }

    /// What `name` stands for where the source has no such name.
    fn resolve_derived(&self, at: &At<'_>, name: &OsStr) -> Result<Resolved, FsError> {
        if self.settings.layout == Layout::Beside
            && let Some(archive) = present::archive_beside(name)
        {
            let stat = file_at(at, archive)?;
            if let (Ok(open), stat) = self.archive_at(at, archive, stat)? {
                return Ok(Resolved::Archive(at.path.join(archive).into(), stat, open));
            }
        }
        if let Some(gz) = present::gz_of_npy(name) {
            let stat = file_at(at, &gz)?;
            if let (Ok(npy), stat) = self.npy_gz_at(at, &gz, stat)? {
                return Ok(Resolved::NpyGz(at.path.join(gz).into(), stat, npy));
            }
        }
        Err(FsError::NotFound)
    }

    pub(super) fn archive_at(
        &self,
        at: &At<'_>,
        name: &OsStr,
        stat: Stat,
    ) -> Result<(Found<OpenArchive>, Stat), FsError> {
        self.find(&self.archives, at, name, stat)
    }

    pub(super) fn npy_gz_at(
        &self,
        at: &At<'_>,
        name: &OsStr,
        stat: Stat,
    ) -> Result<(Found<OpenNpyGz>, Stat), FsError> {
        self.find(&self.npy_gzs, at, name, stat)
    }

    /// What the file called `name` turned out to be; one that cannot be read is none. One that there
    /// is no memory for may be either.
    fn find<C: Container>(
        &self,
        containers: &Containers<C>,
        at: &At<'_>,
        name: &OsStr,
        stat: Stat,
    ) -> Result<(Found<C>, Stat), FsError> {
        let open = || at.open_file(name);
        let warn = |warning: &str| log::warn!("{}: {warning}", at.path.join(name).display());
        match containers.find(stat, &self.server, at.waits, open, warn) {
            Ok(found) => Ok(found),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !at.waits => {
                Err(FsError::Heavy)
            }
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                let path = at.path.join(name);
                Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())).into())
            }
            Err(error) => Ok((Err(Arc::new(error.into())), stat)),
        }
    }

    pub(super) fn root_archive(&self) -> Result<(Stat, Arc<OpenArchive>), FsError> {
        let name = self.source.archive().unwrap_or_default();
        let at = self.source.at(Path::new(""));
        match self.archive_at(&at, name, at.stat(name)?)? {
            (Ok(archive), stat) => Ok((stat, archive)),
            (Err(why), _) => Err(FsError::NotAnArchive(why)),
        }
    }

    /// The newest generation of the archive that is mounted alone.
    pub(super) fn root_version(
        &self,
    ) -> Result<(Arc<Version<OpenArchive>>, Arc<OpenArchive>), FsError> {
        let (stat, archive) = self.root_archive()?;
        let path = Path::new(self.source.archive().unwrap_or_default());
        let key = version_key(path.into(), &stat, archive.archive().source());
        Ok((Arc::new(Version::new(key, &archive)), archive))
    }

    fn enter(&self, resolved: Resolved) -> (Ino, Attr) {
        match resolved {
            Resolved::Source(path, stat) => {
                let has_one_path = stat.has_one_path(&self.root);
                let key = match has_one_path {
                    true => Key::Source(stat.id()),
                    false => Key::SourceAt(path.clone(), stat.id()),
                };
                let numbers = |_: &Key| number::of_source(stat.id(), &path, has_one_path);
                let new = || Node::Source(SourceNode::new(path.clone(), stat.id(), stat.kind()));
                let (ino, node) = self.inodes.look_up(key, numbers, new);
                if let Node::Source(node) = &*node {
                    node.seen_at(&path);
                }
                (ino, stat.attr())
            }
            Resolved::Archive(path, stat, archive) => {
                let key = version_key(path, &stat, archive.archive().source());
                let version = Arc::new(Version::new(key, &archive));
                let inodes = self.inodes_of(&version, archive.archive());
                let entries = archive.archive().dir(DirId::ROOT).entries().len();
                (inodes.look_up(DirId::ROOT.0), stat.archive_dir(entries))
            }
            Resolved::NpyGz(path, stat, npy) => {
                let key = version_key(path, &stat, npy.npy().source());
                let attr = stat.member(npy.npy().size(), key.size);
                let numbers = |_: &Key| number::of_npy_gz(&key);
                let new = || Node::NpyGz(Arc::new(Version::new(key.clone(), &npy)));
                (self.inodes.look_up(Key::NpyGz(key.clone()), numbers, new).0, attr)
            }
        }
    }

    pub(super) fn open_archive(
        &self,
        version: &Version<OpenArchive>,
    ) -> Result<Arc<OpenArchive>, FsError> {
        self.open_archive_now(version, true)
    }

    fn open_archive_now(
        &self,
        version: &Version<OpenArchive>,
        waits: bool,
    ) -> Result<Arc<OpenArchive>, FsError> {
        version.open(|| self.reopen(&self.archives, &version.key, waits))
    }

    pub(super) fn open_npy_gz(
        &self,
        version: &Version<OpenNpyGz>,
    ) -> Result<Arc<OpenNpyGz>, FsError> {
        version.open(|| self.reopen(&self.npy_gzs, &version.key, true))
    }

    /// Opens a container again that was closed, if its path still holds that generation.
    fn reopen<C: Container>(
        &self,
        containers: &Containers<C>,
        key: &Arc<VersionKey>,
        waits: bool,
    ) -> Result<Arc<C>, FsError> {
        let (directory, name) = split(&key.path);
        let mut at = self.source.at(directory);
        at.waits = waits;
        let stat = file_at(&at, name).map_err(|_| FsError::Stale)?;
        match self.find(containers, &at, name, stat)? {
            (Ok(container), stat)
                if version_key(key.path.clone(), &stat, container.source()) == *key =>
            {
                Ok(container)
            }
            _ => Err(FsError::Stale),
        }
    }
}

/// The inode and the attributes of an entry of an archive, whose file `stat` is of.
pub(super) fn enter_entry(
    inodes: &InBlock<'_, Key, Node>,
    version: &Version<OpenArchive>,
    archive: &Archive,
    stat: &Stat,
    entry: Entry,
) -> (Ino, Attr) {
    let (ino, attr) = match entry {
        Entry::Dir(id) => {
            let attr = stat.archive_dir(archive.dir(id).entries().len());
            (inodes.look_up(id.0), attr)
        }
        Entry::Member(id) => {
            let member = archive.member(id);
            let attr = stat.member(member.size, member.encoded_size);
            (inodes.look_up(archive.counts().0 + id.0), attr)
        }
    };
    (ino, of_version(&version.key, attr))
}

/// A path within the source as its directory and its name there.
pub(super) fn split(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default())
}

/// stat of the regular file `name`.
fn file_at(at: &At<'_>, name: &OsStr) -> Result<Stat, FsError> {
    let stat = match at.stat(name) {
        // The name that was asked for is shorter than this one, and is not there.
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
            return Err(FsError::NotFound);
        }
        stat => stat?,
    };
    if stat.kind() == Kind::File { Ok(stat) } else { Err(FsError::NotFound) }
}

fn version_key(path: Arc<Path>, stat: &Stat, source: &SourceFile) -> Arc<VersionKey> {
    let generation = source.generation();
    Arc::new(VersionKey {
        path,
        id: stat.id(),
        size: generation.size,
        mtime: generation.mtime,
        fingerprint: source.fingerprint(),
    })
}

pub(super) fn stat_of(source: &SourceFile) -> Result<Stat, FsError> {
    Ok(source::stat_of(source.file())?)
}

/// Attributes as they were for this generation: should the file have been overwritten, a new mtime
/// on the old inode would make the kernel drop pages that are still right.
pub(super) fn of_version(key: &VersionKey, attr: Attr) -> Attr {
    let (seconds, nanoseconds) = key.mtime;
    Attr { mtime: Timestamp { seconds, nanoseconds }, ..attr }
}
