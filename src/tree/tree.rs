//! The operations on names and files; those on lists are in `listing`, on attributes in `xattr`.

use std::{
    ffi::{OsStr, OsString},
    io,
    num::NonZeroUsize,
    path::Path,
    sync::{Arc, Mutex},
};

use rustix::{fs::StatVfs, process::Resource};

use super::{
    Attr, DirEntry, FsError, Handle, HandleId, Held, Ino, Kind, Layout, PlainFile, Settings,
    Source,
    attr::Stat,
    handle::{Directory, Handles},
    inode::Inodes,
    node::{Key, Node, SourceNode, Version, VersionKey},
    opened::{Container, Containers},
    present, source,
};
use crate::{
    archive::{DirId, Entry, SourceFile},
    serve::{self, Content, Limits, OpenArchive, OpenNpyGz, Pattern, Server},
};

/// Bytes that parsed archives may take, unless a single one needs more.
const OPEN_MEMORY: u64 = 64 << 20;

/// The tree. All its operations may be called from many threads at once.
#[derive(Debug)]
pub struct Tree {
    pub(super) source: Source,
    pub(super) settings: Settings,
    server: Server,
    pub(super) archives: Containers<OpenArchive>,
    pub(super) npy_gzs: Containers<OpenNpyGz>,
    inodes: Inodes<Key, Node>,
    handles: Handles,
}

/// An opened file.
#[derive(Debug)]
pub struct Opened {
    /// Its handle.
    pub id: HandleId,
    /// The file, if it is one of the source that kernel passthrough may serve.
    pub plain: Option<PlainFile>,
}

/// What a name stands for.
enum Resolved {
    Source(Arc<Path>, Stat),
    Archive(Arc<Path>, Stat, Arc<OpenArchive>),
    NpyGz(Arc<Path>, Stat, Arc<OpenNpyGz>),
}

impl Tree {
    /// A tree over `source`.
    ///
    /// # Errors
    /// When a single archive cannot be parsed, or threads cannot be started.
    pub fn new(source: Source, settings: Settings) -> io::Result<Self> {
        let server = Server::new(Limits {
            memory: settings.cache_size,
            threads: settings.threads,
            temporary: settings.temporary.clone(),
        })?;
        let root = match source.archive() {
            Some(_) => Node::ArchiveRoot,
            None => {
                let path: Arc<Path> = Path::new("").into();
                let stat = source.stat(&path)?;
                Node::Source(SourceNode::new(path, stat.id(), Kind::Directory))
            }
        };
        // The rest of the descriptors is for what is being read.
        let descriptors = rustix::process::getrlimit(Resource::Nofile).current;
        let open = settings.open_archives.min(descriptors.map_or(u64::MAX, |limit| limit / 4));
        let open = NonZeroUsize::new(open as usize).unwrap_or(NonZeroUsize::MIN);
        let tree = Self {
            source,
            settings,
            server,
            archives: Containers::new(open, OPEN_MEMORY),
            npy_gzs: Containers::new(open, OPEN_MEMORY),
            inodes: Inodes::new(root),
            handles: Handles::default(),
        };
        if tree.source.archive().is_some() {
            tree.root_archive()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        }
        Ok(tree)
    }

    /// What was set.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs `task` on a thread that may wait for decoding.
    pub fn spawn(&self, task: impl FnOnce() + Send + 'static) {
        self.server.spawn(task);
    }

    // -- names and attributes

    /// What `name` in the directory `parent` stands for. The kernel then owes one `forget`.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `Stale`, or what the source says.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<(Ino, Attr), FsError> {
        match &*self.node(parent)? {
            Node::Source(directory) if directory.kind == Kind::Directory => {
                self.enter(self.resolve(&directory.path, name)?)
            }
            Node::ArchiveRoot => {
                let (path, stat, archive) = self.root_archive().map_err(|_| FsError::NotFound)?;
                let key = version_key(path, &stat, archive.archive().source());
                self.lookup_in_archive(&Arc::new(Version::new(key, &archive)), DirId(0), name)
            }
            Node::ArchiveDir(version, directory) => {
                self.lookup_in_archive(version, *directory, name)
            }
            _ => Err(FsError::NotADirectory),
        }
    }

    /// The kernel drops `count` lookups of `ino`.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.inodes.forget(ino, count);
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// `NoInode`, `Stale`, or what the source says.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        match &*self.node(ino)? {
            Node::Source(node) => self.source_attr(node),
            Node::ArchiveRoot => {
                let path = Path::new(self.source.archive().unwrap_or_default());
                // Where the archive is gone, its directory speaks for it: the mount stays.
                let stat = self.source.stat(path).or_else(|_| self.source.stat(Path::new("")))?;
                Ok(stat.archive_dir())
            }
            Node::ArchiveDir(version, _) => {
                let archive = self.open_archive(version)?;
                Ok(of_version(&version.key, stat_of(archive.archive().source())?.archive_dir()))
            }
            Node::Member(version, id, _) => {
                let archive = self.open_archive(version)?;
                let member = archive.archive().member(*id);
                let stat = stat_of(archive.archive().source())?;
                Ok(of_version(&version.key, stat.member(member.size, member.encoded_size)))
            }
            Node::NpyGz(version) => {
                let npy = self.open_npy_gz(version)?;
                let stat = stat_of(npy.npy().source())?;
                Ok(of_version(&version.key, stat.member(npy.npy().size(), version.key.size)))
            }
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `NotASymlink`, or what the source says.
    pub fn read_link(&self, ino: Ino) -> Result<OsString, FsError> {
        match &*self.node(ino)? {
            Node::Source(node) if node.kind == Kind::Symlink => {
                Ok(self.source.read_link(&node.path)?)
            }
            _ => Err(FsError::NotASymlink),
        }
    }

    /// Whether the user of this mount may read, write, execute (search) an inode. Not asked where
    /// the kernel checks modes itself (`default_permissions`).
    ///
    /// # Errors
    /// `ReadOnly`, `NotPermitted`, `NoInode`, `Stale`, or what the source says.
    pub fn access(&self, ino: Ino, read: bool, write: bool, execute: bool) -> Result<(), FsError> {
        if write {
            return Err(FsError::ReadOnly);
        }
        if let Node::Source(node) = &*self.node(ino)? {
            return Ok(self.source.access(&node.path, read, execute)?);
        }
        // Archives could be read when they were looked up.
        if execute && self.getattr(ino)?.mode & 0o111 == 0 {
            return Err(FsError::NotPermitted);
        }
        Ok(())
    }

    /// What statvfs(2) says of the source.
    ///
    /// # Errors
    /// What the source says.
    pub fn stat_vfs(&self) -> Result<StatVfs, FsError> {
        Ok(self.source.stat_vfs()?)
    }

    // -- directories

    /// Opens a directory.
    ///
    /// # Errors
    /// `NotADirectory`, `NoInode`.
    pub fn open_directory(&self, ino: Ino) -> Result<HandleId, FsError> {
        match &*self.node(ino)? {
            Node::Source(node) if node.kind != Kind::Directory => Err(FsError::NotADirectory),
            Node::Member(..) | Node::NpyGz(_) => Err(FsError::NotADirectory),
            _ => Ok(self.handles.insert(Handle::Directory(Directory::new(ino)))),
        }
    }

    /// The entries of an open directory, `.` and `..` first. Those from number `cookie` on are
    /// what a reader has not seen; reading from 0 takes them anew.
    ///
    /// # Errors
    /// `NoHandle`, `NotADirectory`, `Stale`, or what the source says.
    pub fn read_directory(&self, id: HandleId, cookie: u64) -> Result<Arc<[DirEntry]>, FsError> {
        match &*self.handle(id)? {
            Handle::Directory(directory) => directory.entries(cookie, || self.list(directory.ino)),
            _ => Err(FsError::NotADirectory),
        }
    }

    // -- files

    /// Opens a file.
    ///
    /// # Errors
    /// `IsADirectory`; `Stale` when the name must be looked up again; bad news about the member as
    /// far as it is known; or what the source says.
    pub fn open(&self, ino: Ino) -> Result<Opened, FsError> {
        match &*self.node(ino)? {
            Node::Source(node) if node.kind == Kind::File => {
                let file = match node.open_file() {
                    Some(file) => file,
                    None => {
                        let (file, stat) = self.source.open_file(&node.path)?;
                        if stat.id() != node.id {
                            return Err(FsError::Stale);
                        }
                        node.share(file)
                    }
                };
                let plain = PlainFile(file);
                let id = self.handles.insert(Handle::Plain(plain.clone()));
                Ok(Opened { id, plain: Some(plain) })
            }
            Node::Member(version, id, _) => {
                let archive = self.open_archive(version)?;
                archive.archive().source().check().map_err(|_| FsError::Stale)?;
                match archive.content(*id) {
                    Ok(content) => self.open_content(content, Held::Archive(archive)),
                    Err(serve::Error::Overwritten) => Err(FsError::Stale),
                    Err(error) if archive.first_refusal(*id) => Err(FsError::Content(error)),
                    Err(error) => Err(FsError::Known(error)),
                }
            }
            Node::NpyGz(version) => {
                let npy = self.open_npy_gz(version)?;
                npy.npy().source().check().map_err(|_| FsError::Stale)?;
                self.open_content(npy.content().clone(), Held::NpyGz(npy))
            }
            _ => Err(FsError::IsADirectory),
        }
    }

    fn open_content(&self, content: Arc<Content>, container: Held) -> Result<Opened, FsError> {
        if let Some(damage) = content.damage() {
            let news = content.damage_logged.first();
            return Err(if news { FsError::Content } else { FsError::Known }(damage));
        }
        let pattern = Mutex::new(Pattern::default());
        let id = self.handles.insert(Handle::Member { content, container, pattern });
        Ok(Opened { id, plain: None })
    }

    /// An open file or directory.
    ///
    /// # Errors
    /// `NoHandle`.
    pub fn handle(&self, id: HandleId) -> Result<Arc<Handle>, FsError> {
        self.handles.get(id).ok_or(FsError::NoHandle)
    }

    /// Closes a file or directory.
    pub fn release(&self, id: HandleId) {
        self.handles.remove(id);
    }

    // -- below

    /// What an inode is, for the log.
    #[must_use]
    pub fn describe(&self, ino: Ino) -> String {
        let Some(node) = self.inodes.get(ino) else { return format!("inode {}", ino.0) };
        let in_archive = |version: &Version<OpenArchive>, what: String| {
            format!("{}: {what}", version.key.path.display())
        };
        match &*node {
            Node::Source(node) if node.path.as_os_str().is_empty() => "/".to_owned(),
            Node::Source(node) => node.path.display().to_string(),
            Node::ArchiveRoot => "/".to_owned(),
            Node::ArchiveDir(version, DirId(number)) => {
                in_archive(version, format!("directory {number}"))
            }
            Node::Member(version, id, _) => {
                let name = self.open_archive(version).ok().map(|archive| {
                    let name = archive.archive().path_of(*id);
                    name.escape_ascii().to_string()
                });
                in_archive(version, name.unwrap_or_else(|| format!("member {}", id.0)))
            }
            Node::NpyGz(version) => version.key.path.display().to_string(),
        }
    }

    /// How many inodes and handles the kernel refers to, and the sum of the lookup counts.
    #[must_use]
    pub fn references(&self) -> (usize, u64, usize) {
        let (inodes, lookups) = self.inodes.count();
        (inodes, lookups, self.handles.count())
    }

    pub(super) fn node(&self, ino: Ino) -> Result<Arc<Node>, FsError> {
        self.inodes.get(ino).ok_or(FsError::NoInode)
    }

    fn source_attr(&self, node: &SourceNode) -> Result<Attr, FsError> {
        match self.source.stat(&node.path) {
            Ok(stat) if stat.id() == node.id => Ok(stat.attr()),
            // Deleted or replaced, but perhaps still open.
            other => match (node.open_file(), other) {
                (Some(file), _) => Ok(source::stat_of(&*file)?.attr()),
                (None, Ok(_)) => Err(FsError::Stale),
                (None, Err(error)) => Err(match error.into() {
                    FsError::NotFound => FsError::Stale,
                    error => error,
                }),
            },
        }
    }

    fn resolve(&self, directory: &Path, name: &OsStr) -> Result<Resolved, FsError> {
        let path = directory.join(name);
        let stat = match self.source.stat(&path) {
            Ok(stat) => stat,
            Err(error) => {
                return match error.into() {
                    FsError::NotFound => self.resolve_derived(directory, name),
                    error => Err(error),
                };
            }
        };
        if stat.kind() == Kind::File && self.settings.layout == Layout::Replace {
            if present::is_npz(name) {
                if let (Ok(archive), stat) = self.archive_at(&path, stat) {
                    return Ok(Resolved::Archive(path.into(), stat, archive));
                }
            } else if let Some(npy) = present::npy_of_gz(name)
                && self.source.stat(&directory.join(npy)).is_err()
                && self.npy_gz_at(&path, stat).0.is_ok()
            {
                return Err(FsError::NotFound);
            }
        }
        Ok(Resolved::Source(path.into(), stat))
    }

    /// What `name` stands for where the source has no such name.
    fn resolve_derived(&self, directory: &Path, name: &OsStr) -> Result<Resolved, FsError> {
        if self.settings.layout == Layout::Beside
            && let Some(archive) = present::archive_beside(name)
        {
            let path = directory.join(archive);
            let stat = self.file_at(&path)?;
            if let (Ok(archive), stat) = self.archive_at(&path, stat) {
                return Ok(Resolved::Archive(path.into(), stat, archive));
            }
        }
        if let Some(gz) = present::gz_of_npy(name) {
            let path = directory.join(gz);
            let stat = self.file_at(&path)?;
            if let (Ok(npy), stat) = self.npy_gz_at(&path, stat) {
                return Ok(Resolved::NpyGz(path.into(), stat, npy));
            }
        }
        Err(FsError::NotFound)
    }

    fn file_at(&self, path: &Path) -> Result<Stat, FsError> {
        let stat = match self.source.stat(path) {
            // The name that was asked for is shorter than this one, and is not there.
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                return Err(FsError::NotFound);
            }
            stat => stat?,
        };
        if stat.kind() == Kind::File { Ok(stat) } else { Err(FsError::NotFound) }
    }

    pub(super) fn archive_at(
        &self,
        path: &Path,
        stat: Stat,
    ) -> (Result<Arc<OpenArchive>, Arc<str>>, Stat) {
        self.find(&self.archives, path, stat)
    }

    pub(super) fn npy_gz_at(
        &self,
        path: &Path,
        stat: Stat,
    ) -> (Result<Arc<OpenNpyGz>, Arc<str>>, Stat) {
        self.find(&self.npy_gzs, path, stat)
    }

    /// What the file at `path` turned out to be; one that cannot be read is none.
    fn find<C: Container>(
        &self,
        containers: &Containers<C>,
        path: &Path,
        stat: Stat,
    ) -> (Result<Arc<C>, Arc<str>>, Stat) {
        let open = || self.source.open_file(path);
        let warn = |warning: &str| log::warn!("{}: {warning}", path.display());
        match containers.find(stat, &self.server, open, warn) {
            Ok(found) => found,
            Err(error) => (Err(format!("unreadable: {error}").into()), stat),
        }
    }

    pub(super) fn root_archive(&self) -> Result<(Arc<Path>, Stat, Arc<OpenArchive>), FsError> {
        let path: Arc<Path> = Path::new(self.source.archive().unwrap_or_default()).into();
        let stat = self.source.stat(&path)?;
        match self.archive_at(&path, stat) {
            (Ok(archive), stat) => Ok((path, stat, archive)),
            (Err(why), _) => Err(serve::Error::Damaged(why).into()),
        }
    }

    fn enter(&self, resolved: Resolved) -> Result<(Ino, Attr), FsError> {
        let (key, attr, node) = match resolved {
            Resolved::Source(path, stat) => {
                let key = Key::Source(path.clone(), stat.id());
                let node = Node::Source(SourceNode::new(path, stat.id(), stat.kind()));
                (key, stat.attr(), node)
            }
            Resolved::Archive(path, stat, archive) => {
                let key = version_key(path, &stat, archive.archive().source());
                let node = Version::new(key.clone(), &archive);
                let key = Key::ArchiveDir(key, DirId(0));
                (key, stat.archive_dir(), Node::ArchiveDir(Arc::new(node), DirId(0)))
            }
            Resolved::NpyGz(path, stat, npy) => {
                let key = version_key(path, &stat, npy.npy().source());
                let attr = stat.member(npy.npy().size(), key.size);
                let node = Version::new(key.clone(), &npy);
                (Key::NpyGz(key), attr, Node::NpyGz(Arc::new(node)))
            }
        };
        let (ino, _) = self.inodes.look_up(key, || node);
        Ok((ino, attr))
    }

    fn lookup_in_archive(
        &self,
        version: &Arc<Version<OpenArchive>>,
        directory: DirId,
        name: &OsStr,
    ) -> Result<(Ino, Attr), FsError> {
        let open = self.open_archive(version)?;
        let archive = open.archive();
        archive.source().check().map_err(|_| FsError::Stale)?;
        let entry = archive.dir(directory).get(name.as_encoded_bytes());
        let stat = stat_of(archive.source())?;
        let key = version.key.clone();
        let (key, attr, node) = match entry.ok_or(FsError::NotFound)? {
            Entry::Dir(id) => {
                let node = Node::ArchiveDir(version.clone(), id);
                (Key::ArchiveDir(key, id), stat.archive_dir(), node)
            }
            Entry::Member(id) => {
                let member = archive.member(id);
                let attr = stat.member(member.size, member.encoded_size);
                let npy = name.as_encoded_bytes().ends_with(b".npy");
                (Key::Member(key, id), attr, Node::Member(version.clone(), id, npy))
            }
        };
        let (ino, _) = self.inodes.look_up(key, || node);
        Ok((ino, of_version(&version.key, attr)))
    }

    pub(super) fn open_archive(
        &self,
        version: &Version<OpenArchive>,
    ) -> Result<Arc<OpenArchive>, FsError> {
        version.open(|| self.reopen(&self.archives, &version.key))
    }

    pub(super) fn open_npy_gz(
        &self,
        version: &Version<OpenNpyGz>,
    ) -> Result<Arc<OpenNpyGz>, FsError> {
        version.open(|| self.reopen(&self.npy_gzs, &version.key))
    }

    /// Opens a container again that was closed, if its path still holds that generation.
    fn reopen<C: Container>(
        &self,
        containers: &Containers<C>,
        key: &VersionKey,
    ) -> Result<Arc<C>, FsError> {
        let stat = self.file_at(&key.path).map_err(|_| FsError::Stale)?;
        match self.find(containers, &key.path, stat) {
            (Ok(container), stat)
                if version_key(key.path.clone(), &stat, container.source()) == *key =>
            {
                Ok(container)
            }
            _ => Err(FsError::Stale),
        }
    }
}

fn version_key(path: Arc<Path>, stat: &Stat, source: &SourceFile) -> VersionKey {
    let generation = source.generation();
    VersionKey {
        path,
        id: stat.id(),
        size: generation.size,
        mtime: generation.mtime,
        fingerprint: source.fingerprint(),
    }
}

fn stat_of(source: &SourceFile) -> Result<Stat, FsError> {
    Ok(source::stat_of(source.file())?)
}

/// Attributes as they were for this generation: should the file have been overwritten, a new mtime
/// on the old inode would make the kernel drop pages that are still right.
fn of_version(key: &VersionKey, attr: Attr) -> Attr {
    let (seconds, nanoseconds) = key.mtime;
    Attr { mtime: super::Timestamp { seconds, nanoseconds }, ..attr }
}
