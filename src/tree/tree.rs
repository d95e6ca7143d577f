//! The operations on inodes and files. Operations on names are in `resolve`, on lists in `listing`,
//! on extended attributes in `xattr`.

use std::{
    ffi::OsString, io, num::NonZeroUsize, path::Path, sync::Arc, time::Duration, time::Instant,
};

use rustix::{fs::StatVfs, process::Resource};

use super::{
    Attr, FsError, Handle, HandleId, Ino, Kind, Settings, Source,
    attr::Stat,
    containers::{Containers, Weight},
    handle::Handles,
    inode::Inodes,
    listing::Listings,
    node::{Key, Node, SourceNode, Version},
    resolve::{of_version, stat_of},
    source,
};
use crate::{
    archive::{self, DirId, MemberId},
    serve::{
        self, ArchiveFile, Backing, Content, Failure, MemberOpening, OpenContainer, OpenFile,
        Repeats, Reports, Server,
    },
    sync::Mutex,
};

/// Memory budget for all parsed archives, in bytes. A single archive may exceed it.
const OPEN_MEMORY: u64 = 64 << 20;

/// The largest member, in bytes, whose whole content is put into the kernel's cache when it is
/// first opened: a program that reads a small member most likely reads all of it. The gain was
/// measured at 1 and 8 KiB.
const GIVEN_AT_OPEN: u64 = 32 << 10;

/// Time between two searches for containers whose files were removed. A search asks for the link
/// count of all open containers.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// The tree. All its operations may be called from many threads at once.
pub(crate) struct Tree {
    pub(super) source: Source,
    pub(super) settings: Settings,
    pub(super) server: Arc<Server>,
    pub(super) containers: Arc<Containers>,
    /// When containers whose files were removed were last closed.
    swept: Mutex<Instant>,
    /// The failures of the source that have been logged.
    reports: Reports,
    /// stat of the source's directory.
    pub(super) root: Stat,
    pub(super) inodes: Inodes<Key, Node>,
    handles: Handles,
    pub(super) listings: Listings,
}

/// An open file, and what the kernel may read in its place.
#[derive(Debug)]
pub(crate) struct Opened {
    pub id: HandleId,
    /// The file that kernel passthrough may read instead, if any.
    pub backing: Backing,
}

/// The result of an open.
pub(crate) enum Opening {
    /// The file is open.
    Done(Opened),
    /// The member must be [verified](Content::verify) before it can be opened.
    Verify(Arc<Content>),
}

impl Tree {
    /// A tree over `source`.
    ///
    /// # Errors
    /// When a single archive cannot be parsed, or threads cannot be started.
    pub(crate) fn new(source: Source, settings: Settings) -> io::Result<Self> {
        let server = Server::new(settings.serve.clone())?;
        let directory = source.stat(Path::new(""))?;
        let root = match source.archive() {
            Some(_) => Node::ArchiveRoot,
            None => {
                let path: Arc<Path> = Path::new("").into();
                Node::Source(SourceNode::new(path, directory.id(), Kind::Directory))
            }
        };
        // Containers get at most a quarter of the descriptors. The rest is for files that are read.
        let descriptors = rustix::process::getrlimit(Resource::Nofile).current;
        let open = settings.open_archives.min(descriptors.map_or(u64::MAX, |limit| limit / 4));
        let open = NonZeroUsize::new(open as usize).unwrap_or(NonZeroUsize::MIN);
        let is_decoding = settings.layout.is_decoding();
        let tree = Self {
            source,
            settings,
            server: Arc::new(server),
            containers: Arc::new(Containers::new(open, OPEN_MEMORY, is_decoding)),
            swept: Mutex::new(Instant::now()),
            reports: Reports::default(),
            root: directory,
            inodes: Inodes::new(root),
            handles: Handles::new(descriptors.unwrap_or(u64::MAX)),
            listings: Listings::default(),
        };
        let (server, containers) = (tree.server.clone(), tree.containers.clone());
        tree.source.on_shortage(move || server.give_up_descriptor() || containers.close_oldest());
        // A strong reference would be a cycle: an open container refers to the server.
        let containers = Arc::downgrade(&tree.containers);
        tree.server.on_memory_shortage(move |bytes| {
            if let Some(containers) = containers.upgrade() {
                containers.give_up(bytes);
            }
        });
        if tree.source.archive().is_some() {
            tree.root_archive(true).map_err(|error| {
                // A file that the command line names must be complete.
                let why = match &error {
                    FsError::NotAnArchive(error)
                        if matches!(**error, archive::Error::Pending(_)) =>
                    {
                        format!("not a zip archive, or not a complete one: {}", error.reason())
                    }
                    error => error.to_string(),
                };
                io::Error::new(io::ErrorKind::InvalidData, why)
            })?;
        }
        Ok(tree)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs `task` on a thread that may wait for decoding.
    pub(crate) fn spawn(&self, task: impl FnOnce() + Send + 'static) {
        self.server.spawn(task);
    }

    /// Runs `task` on a thread that may wait for archives of this weight.
    pub(crate) fn spawn_heavy(&self, weight: Weight, task: impl FnOnce() + Send + 'static) {
        match weight {
            Weight::Large => self.server.spawn_large(task),
            Weight::Huge => self.server.spawn_huge(task),
        }
    }

    /// Adds threads to the pools whose threads are stuck in reads of the source. Now and then
    /// closes containers whose files were removed: while they are open, their bytes stay on the
    /// disk. Call this repeatedly while there are requests.
    pub(crate) fn relieve(&self) {
        self.server.relieve();
        let mut swept = self.swept.lock();
        if swept.elapsed() >= SWEEP_EVERY {
            *swept = Instant::now();
            let containers = self.containers.clone();
            self.spawn(move || containers.close_removed());
        }
    }

    /// Saves the indexes that have grown, also those of members that are not decoded to their ends.
    pub(crate) fn save_indexes(&self) {
        self.containers.for_each(OpenContainer::save_indexes);
    }

    // -- names and attributes

    /// The kernel drops `count` references to `ino`.
    pub(crate) fn forget(&self, ino: Ino, count: u64) {
        self.inodes.forget(ino, count);
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// `NoInode`, `Stale`, or an error of the source.
    pub(crate) fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        self.attr_of(ino).map(|attr| self.shown(attr))
    }

    /// The attributes that the kernel gets for `attr`: without write bits, unless an overlay takes
    /// the writes.
    pub(super) fn shown(&self, attr: Attr) -> Attr {
        let attr = if self.settings.write_bits { attr } else { attr.read_only() };
        let (uid, gid) = self.settings.owner.unwrap_or((attr.uid, attr.gid));
        Attr { uid, gid, ..attr }
    }

    fn attr_of(&self, ino: Ino) -> Result<Attr, FsError> {
        match &*self.node(ino)? {
            Node::Source(node) => self.source_attr(node),
            Node::ArchiveRoot => {
                let path = Path::new(self.source.archive().unwrap_or_default());
                // If the archive was removed, the root has the attributes of the archive's
                // directory: the mount stays.
                let stat = self.source.stat(path).or_else(|_| self.source.stat(Path::new("")))?;
                let archive = self.root_archive(true).ok();
                let entries = archive
                    .map_or(0, |(_, archive)| archive.container().dir(DirId::ROOT).entries().len());
                Ok(stat.archive_dir(entries))
            }
            Node::ArchiveDir(version, id) => {
                let archive = self.open_container(version)?;
                let archive = archive.container();
                let entries = archive.dir(*id).entries().len();
                Ok(of_version(&version.key, stat_of(archive.source())?.archive_dir(entries)))
            }
            Node::DecodedArchive(version) => {
                let archive = self.open_container(version)?;
                let archive = archive.container();
                let size = archive.decoded().ok_or(FsError::Stale)?.size();
                Ok(of_version(&version.key, stat_of(archive.source())?.decoded_archive(size)))
            }
            Node::Member(version, id) => {
                let archive = self.open_container(version)?;
                let member = archive.container().member(*id);
                let stat = stat_of(archive.container().source())?;
                Ok(of_version(&version.key, stat.member(member.size, member.encoded_size)))
            }
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `NotASymlink`, or an error of the source.
    pub(crate) fn read_link(&self, ino: Ino) -> Result<OsString, FsError> {
        match &*self.node(ino)? {
            Node::Source(node) if node.kind == Kind::Symlink => {
                Ok(self.source.read_link(&node.path())?)
            }
            _ => Err(FsError::NotASymlink),
        }
    }

    /// Whether the user of this mount may read, write, or execute (search) an inode. The kernel
    /// does not ask if it checks modes itself (`default_permissions`).
    ///
    /// # Errors
    /// `ReadOnly`, `NotPermitted`, `NoInode`, `Stale`, or an error of the source.
    pub(crate) fn access(
        &self,
        ino: Ino,
        read: bool,
        write: bool,
        execute: bool,
    ) -> Result<(), FsError> {
        if write {
            return Err(FsError::ReadOnly);
        }
        if let Node::Source(node) = &*self.node(ino)? {
            return Ok(self.source.access(&node.path(), read, execute)?);
        }
        // Read permission is not checked: archives were readable when they were looked up.
        if execute && self.getattr(ino)?.mode & 0o111 == 0 {
            return Err(FsError::NotPermitted);
        }
        Ok(())
    }

    /// The result of statvfs(2) for the source.
    ///
    /// # Errors
    /// An error of the source.
    pub(crate) fn stat_vfs(&self) -> Result<StatVfs, FsError> {
        Ok(self.source.stat_vfs()?)
    }

    // -- files

    /// Opens a file for `user`.
    ///
    /// # Errors
    /// `IsADirectory`; `Stale` when the name must be looked up again; `Content` if it is known that
    /// the member cannot be read; or an error of the source.
    pub(crate) fn open(&self, ino: Ino, user: u32) -> Result<Opening, FsError> {
        self.server.check_memory()?;
        match &*self.node(ino)? {
            Node::Source(node) if node.kind == Kind::RegularFile => {
                let file = match node.open_file() {
                    Some(file) => file,
                    None => {
                        let (file, stat) = self.source.open_file(&node.path())?;
                        if stat.id() != node.id {
                            return Err(FsError::Stale);
                        }
                        node.share(file)
                    }
                };
                let id = self.handles.insert(Handle::Plain(file.clone()), user)?;
                Ok(Opening::Done(Opened { id, backing: Backing::File(file) }))
            }
            Node::Member(version, id) => {
                let open = self.open_container(version)?;
                open.container().source().check().map_err(|_| FsError::Stale)?;
                match open.content(*id) {
                    Ok(content) => self.open_content(ino, user, content, open),
                    Err(serve::Error::Overwritten) => Err(FsError::Stale),
                    Err(error) => Err(FsError::Content(open.refusal("open", *id, error))),
                }
            }
            Node::DecodedArchive(version) => {
                let open = self.open_container(version)?;
                let archive = open.container();
                archive.source().check().map_err(|_| FsError::Stale)?;
                // The number of the decoded archive follows those of the members.
                let first_member = ino.0 - u64::from(archive.counts().1);
                let file = ArchiveFile::open(open, ino.0, first_member).ok_or(FsError::Stale)?;
                let id = self.handles.insert(Handle::DecodedArchive(file), user)?;
                Ok(Opening::Done(Opened { id, backing: Backing::Never }))
            }
            _ => Err(FsError::IsADirectory),
        }
    }

    fn open_content(
        &self,
        ino: Ino,
        user: u32,
        content: Arc<Content>,
        container: Arc<OpenContainer>,
    ) -> Result<Opening, FsError> {
        match OpenFile::open(content, container, ino.0).map_err(FsError::Content)? {
            MemberOpening::Open(file, backing) => {
                let id = self.handles.insert(Handle::Member(file), user)?;
                Ok(Opening::Done(Opened { id, backing }))
            }
            MemberOpening::Unverified(content) => Ok(Opening::Verify(content)),
        }
    }

    /// Sets the function that is called with each inode whose pages in the kernel's cache may be
    /// wrong, and with the reason if it is to be logged. Call this once, before serving.
    pub(crate) fn on_condemned(
        &self,
        listener: impl Fn(Ino, Option<&serve::Error>) + Send + Sync + 'static,
    ) {
        self.server.on_condemned(move |ino, error| listener(Ino(ino), error));
    }

    /// The whole content of the member or decoded archive that was just opened as `id`, for
    /// [`at_first_open`](Self::at_first_open). `None` if it is not small, cannot be read, or its
    /// inode was opened before. May wait for the source.
    pub(crate) fn first_content(&self, ino: Ino, id: HandleId) -> Option<Vec<u8>> {
        let handle = self.handle(id).ok().filter(|_| self.inodes.was_never_opened(ino))?;
        match &*handle {
            Handle::DecodedArchive(file) if file.is_little(GIVEN_AT_OPEN) => {
                file.whole(GIVEN_AT_OPEN)
            }
            Handle::Member(file) if file.content().is_little(GIVEN_AT_OPEN) => {
                let content = file.content();
                // Most likely the file was overwritten meanwhile. The next read reports it.
                let note = |error| log::debug!("open {}: {error}", self.describe(ino));
                content.head(content.size()).map_err(note).ok()
            }
            _ => None,
        }
    }

    /// Calls `work` if `ino`, which was just opened, was never opened before. Other opens of the
    /// inode wait until `work` returns, so `work` must not wait for the source.
    pub(crate) fn at_first_open(&self, ino: Ino, work: impl FnOnce()) {
        self.inodes.at_first_open(ino, work);
    }

    /// The open file with this number.
    ///
    /// # Errors
    /// `NoHandle`.
    pub(crate) fn handle(&self, id: HandleId) -> Result<Arc<Handle>, FsError> {
        self.handles.get(id).ok_or(FsError::NoHandle)
    }

    /// Closes a file.
    pub(crate) fn release(&self, id: HandleId) {
        self.handles.remove(id);
    }

    /// The number of repeats to log with a failure of `operation` with `error`; `None` if the
    /// failure is not to be logged now.
    pub(crate) fn repeats(&self, operation: &'static str, error: &FsError) -> Option<Repeats> {
        match error {
            FsError::Content(failure) => failure.repeats,
            error if error.is_of_source() => self.reports.repeats(operation, error.errno().into()),
            _ => None,
        }
    }

    // -- for the log, and for this layer

    /// Describes the cause of the `error` of an inode for the log. If a member of a decoded archive
    /// is the cause, describes that member.
    pub(crate) fn describe_cause(&self, ino: Ino, error: &FsError) -> String {
        let FsError::Content(Failure { member: Some(member), .. }) = error else {
            return self.describe(ino);
        };
        match self.inodes.known(ino).as_deref() {
            Some(Node::DecodedArchive(version)) => self.describe_member(version, MemberId(*member)),
            _ => self.describe(ino),
        }
    }

    /// Describes an inode for the log: by its path if that is known, else by a number.
    pub(crate) fn describe(&self, ino: Ino) -> String {
        let Some(node) = self.inodes.known(ino) else { return format!("inode {}", ino.0) };
        let in_archive =
            |version: &Version, what: String| format!("{}: {what}", version.key.path.display());
        match &*node {
            Node::Source(node) if node.path().as_os_str().is_empty() => "/".to_owned(),
            Node::Source(node) => node.path().display().to_string(),
            Node::ArchiveRoot => "/".to_owned(),
            Node::ArchiveDir(version, DirId(number)) => {
                in_archive(version, format!("directory {number}"))
            }
            Node::DecodedArchive(version) => version.key.path.display().to_string(),
            Node::Member(version, _) if !version.format.is_directory() => {
                version.key.path.display().to_string()
            }
            Node::Member(version, id) => self.describe_member(version, *id),
        }
    }

    fn describe_member(&self, version: &Version, id: MemberId) -> String {
        let name = self.open_container(version).ok().map(|archive| {
            let name = archive.container().path_of(id);
            name.escape_ascii().to_string()
        });
        let name = name.unwrap_or_else(|| format!("member {}", id.0));
        format!("{}: {name}", version.key.path.display())
    }

    /// About how many bytes of memory all inodes take.
    #[cfg(test)]
    pub(crate) fn inode_memory(&self) -> u64 {
        self.inodes.memory()
    }

    /// The number of inodes that the kernel refers to, the sum of their lookup counts, and the
    /// number of open handles.
    #[cfg(test)]
    pub(crate) fn references(&self) -> (usize, u64, usize) {
        let (inodes, lookups) = self.inodes.count();
        (inodes, lookups, self.handles.count())
    }

    pub(super) fn node(&self, ino: Ino) -> Result<Arc<Node>, FsError> {
        self.inodes.get(ino).ok_or(FsError::NoInode)
    }

    fn source_attr(&self, node: &SourceNode) -> Result<Attr, FsError> {
        match self.source.stat(&node.path()) {
            Ok(stat) if stat.id() == node.id => Ok(stat.attr()),
            // The file was deleted or replaced, but may still be open.
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
}
