//! What directories list.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use super::{DirEntry, FsError, Ino, Kind, Layout, Tree, node::Node, present};
use crate::{
    archive::{DirId, Entry},
    serve::OpenArchive,
};

impl Tree {
    /// The entries of a directory, `.` and `..` first.
    pub(super) fn list(&self, ino: Ino) -> Result<Vec<DirEntry>, FsError> {
        let mut entries = vec![
            DirEntry { name: ".".into(), kind: Kind::Directory },
            DirEntry { name: "..".into(), kind: Kind::Directory },
        ];
        match &*self.node(ino)? {
            Node::Source(node) => self.list_source(&node.path, &mut entries)?,
            // Empty while it is written or gone; its state says why.
            Node::ArchiveRoot => {
                if let Ok((.., archive)) = self.root_archive() {
                    list_archive(&archive, DirId(0), &mut entries);
                }
            }
            Node::ArchiveDir(version, id) => {
                list_archive(&*self.open_archive(version)?, *id, &mut entries);
            }
            Node::Member(..) | Node::NpyGz(_) => return Err(FsError::NotADirectory),
        }
        Ok(entries)
    }

    fn list_source(&self, path: &Path, entries: &mut Vec<DirEntry>) -> Result<(), FsError> {
        let mut names = self.source.list(path)?;
        // In byte order, so that looking one up is a binary search.
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let has = |name: &OsStr| names.binary_search_by(|entry| (*entry.0).cmp(name)).is_ok();
        let beside = self.settings.layout == Layout::Beside;
        for (name, kind) in &names {
            let file = path.join(name);
            let kind = match kind {
                Some(kind) => *kind,
                None => match self.source.stat(&file) {
                    Ok(stat) => stat.kind(),
                    // Gone since the directory was read.
                    Err(_) => continue,
                },
            };
            let mut show = |name: &OsStr, kind| {
                entries.push(DirEntry { name: name.to_owned(), kind });
            };
            let stat = || self.source.stat(&file).ok().filter(|stat| stat.kind() == Kind::File);
            let mut shown_as = kind;
            if kind == Kind::File && present::is_npz(name) {
                let archive = stat().is_some_and(|stat| self.archive_at(&file, stat).0.is_ok());
                let directory = present::beside(name);
                if archive && !beside {
                    shown_as = Kind::Directory;
                } else if archive && !has(&directory) {
                    show(&directory, Kind::Directory);
                }
            } else if kind == Kind::File
                && let Some(npy) = present::npy_of_gz(name)
                && !has(npy)
                && stat().is_some_and(|stat| self.npy_gz_at(&file, stat).0.is_ok())
            {
                show(npy, Kind::File);
                if !beside {
                    continue;
                }
            }
            show(name, shown_as);
        }
        Ok(())
    }
}

fn list_archive(archive: &OpenArchive, id: DirId, entries: &mut Vec<DirEntry>) {
    for (name, entry) in archive.archive().dir(id).entries() {
        let kind = match entry {
            Entry::Dir(_) => Kind::Directory,
            Entry::Member(_) => Kind::File,
        };
        entries.push(DirEntry { name: OsStr::from_bytes(name).to_owned(), kind });
    }
}
