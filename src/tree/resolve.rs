//! Resolves names to files, members and directories, and gives them inodes.

use std::{ffi::OsStr, io, path::Path, sync::Arc};

use super::{
    Attr, FsError, Ino, Kind, Layout, Tree,
    attr::Stat,
    beside,
    containers::{Found, NotOpened, Weight},
    inode::InBlock,
    listing::Name,
    node::{Key, Node, SourceNode, Version, VersionKey},
    number,
    source::{self, SourceDir},
};
use crate::{
    archive::{Container, DirId, Entry, Format, MemberId, NPZ, SourceFile},
    serve::OpenContainer,
};

/// The file of the source that a name resolves to, with its path. `Container` if it is shown as a
/// directory or as its only member, `DecodedArchive` if it is shown as a file with its members
/// decoded, `Member` if the name is that of a member beside it.
enum Resolved {
    Source(Arc<Path>, Stat),
    Container(Arc<Path>, Stat, &'static Format, Arc<OpenContainer>),
    DecodedArchive(Arc<Path>, Stat, &'static Format, Arc<OpenContainer>),
    Member(Arc<Path>, Stat, Arc<OpenContainer>, MemberId),
}

impl Tree {
    /// Looks up `name` in the directory `parent`. The kernel then owes one `forget`. Opens a large
    /// archive for that only if the caller `waits`.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `Stale`, an error of the source, or `Heavy` if the caller does
    /// not wait.
    pub(crate) fn look_up(
        &self,
        parent: Ino,
        name: &OsStr,
        waits: bool,
    ) -> Result<(Ino, Attr), FsError> {
        let (ino, attr) = self.look_up_in(parent, name, waits)?;
        Ok((ino, self.shown(attr)))
    }

    fn look_up_in(&self, parent: Ino, name: &OsStr, waits: bool) -> Result<(Ino, Attr), FsError> {
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
                self.lookup_in_archive(&version, archive.container(), DirId::ROOT, name)
            }
            Node::ArchiveDir(version, directory) => {
                let archive = self.open_container(version)?;
                self.lookup_in_archive(version, archive.container(), *directory, name)
            }
            _ => Err(FsError::NotADirectory),
        }
    }

    /// Looks up `name` in a directory of the source.
    pub(super) fn lookup_at(
        &self,
        at: &SourceDir<'_>,
        name: &OsStr,
    ) -> Result<(Ino, Attr), FsError> {
        Ok(self.enter(self.resolve(at, name)?))
    }

    /// Gives an inode to a listed file. `found` is its container, or the reason why it has none.
    pub(super) fn enter_found(
        &self,
        at: &SourceDir<'_>,
        name: &Name,
        found: Found,
        stat: Stat,
    ) -> (Ino, Attr) {
        let path = at.path.join(&name.name).into();
        self.enter(match (found, name.archive) {
            (Ok(archive), Some(format)) => Resolved::Container(path, stat, format, archive),
            _ => Resolved::Source(path, stat),
        })
    }

    fn lookup_in_archive(
        &self,
        version: &Arc<Version>,
        archive: &Container,
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

    /// The block of inodes of one generation of an archive, to look up some of them.
    pub(super) fn inodes_of(
        &self,
        version: &Arc<Version>,
        archive: &Container,
    ) -> InBlock<'_, Key, Node> {
        let (dirs, members) = archive.counts();
        let key = Key::Archive(version.key.clone(), (dirs, members));
        let numbers = |_: &Key| number::of_archive(&version.key);
        // The decoded archive has the last number, so that the others are the same in any layout.
        let decoded = u32::from(archive.decoded().is_some());
        self.inodes.block(key, numbers, || {
            let version = version.clone();
            let node = move |place: u32| match place.checked_sub(dirs) {
                None => Node::ArchiveDir(version.clone(), DirId(place)),
                Some(member) if member < members => Node::Member(version.clone(), MemberId(member)),
                Some(_) => Node::DecodedArchive(version.clone()),
            };
            (dirs + members + decoded, Box::new(node))
        })
    }

    fn resolve(&self, at: &SourceDir<'_>, name: &OsStr) -> Result<Resolved, FsError> {
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
        if stat.kind() == Kind::RegularFile
            && self.settings.layout.is_decoding()
            && let Some(format) = Format::of(name).filter(|format| format.is_directory())
            && let (Ok(open), stat) = self.container_at(at, name, format, stat)?
            && open.container().decoded().is_some()
        {
            return Ok(Resolved::DecodedArchive(path(), stat, format, open));
        }
        if stat.kind() == Kind::RegularFile
            && !self.settings.layout.keeps_files()
            && let Some(format) = Format::of(name)
        {
            match format.shown_name(name) {
                None => {
                    if let (Ok(open), stat) = self.container_at(at, name, format, stat)? {
                        return Ok(Resolved::Container(path(), stat, format, open));
                    }
                }
                // The file is not shown, because its member is, unless another file has the
                // member's name.
                Some(member) => {
                    if at.stat(member).is_err()
                        && self.container_at(at, name, format, stat)?.0.is_ok()
                    {
                        return Err(FsError::NotFound);
                    }
                }
            }
        }
        Ok(Resolved::Source(path(), stat))
    }

    /// Resolves a `name` that the source does not have: a directory beside an archive, a member
    /// shown in the place of its container, or a member beside its archive.
    fn resolve_derived(&self, at: &SourceDir<'_>, name: &OsStr) -> Result<Resolved, FsError> {
        let beside = beside::archive_of(name)
            .filter(|_| self.settings.layout.is_beside())
            .map(|(archive, format)| (format, archive.to_owned()));
        for (format, source) in beside.into_iter().chain(Format::sources_of(name)) {
            let stat = match file_at(at, &source) {
                Err(FsError::NotFound) => continue,
                stat => stat?,
            };
            if let (Ok(open), stat) = self.container_at(at, &source, format, stat)? {
                return Ok(Resolved::Container(at.path.join(source).into(), stat, format, open));
            }
        }
        match self.settings.layout {
            Layout::Flat => self.resolve_flat(at, name),
            _ => Err(FsError::NotFound),
        }
    }

    /// Resolves the name of a member beside its archive.
    fn resolve_flat(&self, at: &SourceDir<'_>, name: &OsStr) -> Result<Resolved, FsError> {
        for candidate in self.settings.flat_names.candidates(name) {
            let stat = match file_at(at, &candidate.archive) {
                Err(FsError::NotFound) => continue,
                stat => stat?,
            };
            if let (Ok(open), stat) = self.container_at(at, &candidate.archive, &NPZ, stat)?
                && let Some(member) = candidate.member_of(open.container())
            {
                let path = at.path.join(candidate.archive).into();
                return Ok(Resolved::Member(path, stat, open, member));
            }
        }
        Err(FsError::NotFound)
    }

    /// The container in the file called `name`, or the reason why there is none. A file that cannot
    /// be read is not a container either.
    ///
    /// # Errors
    /// When there is not enough memory to open the file, or opening it would take long and `at`
    /// does not wait.
    pub(super) fn container_at(
        &self,
        at: &SourceDir<'_>,
        name: &OsStr,
        format: &Format,
        stat: Stat,
    ) -> Result<(Found, Stat), FsError> {
        let open = || at.open_file(name);
        let warn = |warning: &str| log::warn!("{}: {warning}", at.path.join(name).display());
        match self.containers.find(stat, format, &self.server, at.waits, open, warn) {
            Ok(found) => Ok(found),
            Err(NotOpened::Heavy(weight)) => Err(FsError::Heavy(weight)),
            Err(NotOpened::Io(error)) if error.kind() == io::ErrorKind::OutOfMemory => {
                let path = at.path.join(name);
                Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())).into())
            }
            Err(NotOpened::Io(error)) => Ok((Err(Arc::new(error.into())), stat)),
        }
    }

    /// The newest generation of the single archive that is mounted. Opens a large one only if the
    /// caller `waits`.
    pub(super) fn root_archive(&self, waits: bool) -> Result<(Stat, Arc<OpenContainer>), FsError> {
        let name = self.source.archive().unwrap_or_default();
        let mut at = self.source.at(Path::new(""));
        at.waits = waits;
        match self.container_at(&at, name, &NPZ, at.stat(name)?)? {
            (Ok(archive), stat) => Ok((stat, archive)),
            (Err(why), _) => Err(FsError::NotAnArchive(why)),
        }
    }

    /// The newest generation of the single archive that is mounted.
    pub(super) fn root_version(&self) -> Result<(Arc<Version>, Arc<OpenContainer>), FsError> {
        let (stat, archive) = self.root_archive(true)?;
        let path = Path::new(self.source.archive().unwrap_or_default());
        let key = version_key(path.into(), &stat, archive.container().source());
        Ok((Arc::new(Version::new(key, &NPZ, &archive)), archive))
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
            Resolved::Container(path, stat, format, open) => {
                let container = open.container();
                let key = version_key(path, &stat, container.source());
                let version = Arc::new(Version::new(key, format, &open));
                if format.is_directory() {
                    let inodes = self.inodes_of(&version, container);
                    let entries = container.dir(DirId::ROOT).entries().len();
                    return (inodes.look_up(DirId::ROOT.0), stat.archive_dir(entries));
                }
                let member = container.member(MemberId::ONLY);
                let attr = stat.member(member.size, member.encoded_size);
                let key = Key::OnlyMember(version.key.clone());
                let numbers = |_: &Key| number::of_only_member(format, &version.key);
                let new = || Node::Member(version.clone(), MemberId::ONLY);
                (self.inodes.look_up(key, numbers, new).0, attr)
            }
            Resolved::DecodedArchive(path, stat, format, open) => {
                let container = open.container();
                let key = version_key(path, &stat, container.source());
                let version = Arc::new(Version::new(key, format, &open));
                let size = container.decoded().map_or(0, |archive| archive.size());
                let (dirs, members) = container.counts();
                let inodes = self.inodes_of(&version, container);
                (inodes.look_up(dirs + members), stat.decoded_archive(size))
            }
            Resolved::Member(path, stat, open, member) => {
                let container = open.container();
                let key = version_key(path, &stat, container.source());
                let version = Arc::new(Version::new(key, &NPZ, &open));
                let inodes = self.inodes_of(&version, container);
                enter_entry(&inodes, &version, container, &stat, Entry::Member(member))
            }
        }
    }

    /// The weight of the archive that must be reopened for a request about `ino`. `None` if there
    /// is no such archive, or if any thread may open it.
    pub(crate) fn weight_to_open(&self, ino: Ino) -> Option<Weight> {
        match self.inodes.get(ino).as_deref()? {
            // The archive may have been replaced by a larger one. This costs one stat.
            Node::ArchiveRoot => match self.root_archive(false) {
                Err(FsError::Heavy(weight)) => Some(weight),
                _ => None,
            },
            Node::ArchiveDir(version, _)
            | Node::Member(version, _)
            | Node::DecodedArchive(version) => version.weight_to_open(),
            _ => None,
        }
    }

    pub(super) fn open_container(&self, version: &Version) -> Result<Arc<OpenContainer>, FsError> {
        version.open(|| self.reopen(version))
    }

    /// Reopens a container that was closed, if its path still holds the same generation.
    fn reopen(&self, version: &Version) -> Result<Arc<OpenContainer>, FsError> {
        let key = &version.key;
        let (directory, name) = split(&key.path);
        let at = self.source.at(directory);
        let stat = file_at(&at, name).map_err(|_| FsError::Stale)?;
        match self.container_at(&at, name, version.format, stat)? {
            (Ok(open), stat)
                if version_key(key.path.clone(), &stat, open.container().source()) == *key =>
            {
                Ok(open)
            }
            _ => Err(FsError::Stale),
        }
    }
}

/// Looks up an entry of an archive. `stat` is that of the archive file.
pub(super) fn enter_entry(
    inodes: &InBlock<'_, Key, Node>,
    version: &Version,
    archive: &Container,
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

/// Splits a path within the source into its directory and its name there.
pub(super) fn split(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default())
}

/// stat of `name`; `NotFound` if it is not a regular file.
fn file_at(at: &SourceDir<'_>, name: &OsStr) -> Result<Stat, FsError> {
    let stat = match at.stat(name) {
        // `name` is longer than the name that the kernel looked up, which does not exist.
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
            return Err(FsError::NotFound);
        }
        stat => stat?,
    };
    if stat.kind() == Kind::RegularFile { Ok(stat) } else { Err(FsError::NotFound) }
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

/// `attr` with the mtime of this generation. If the file has been overwritten, a new mtime on the
/// old inode would make the kernel drop pages that are still right.
pub(super) fn of_version(key: &VersionKey, attr: Attr) -> Attr {
    Attr { mtime: key.mtime, ..attr }
}
