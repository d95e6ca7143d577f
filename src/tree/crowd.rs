//! Chooses names that the kernel is asked to forget, once inodes take a quarter of the memory
//! limit.
//!
//! The kernel keeps each name that was looked up until the kernel itself lacks memory. Until then
//! the tree has to keep the inode: 300 bytes for a file, 700 for an archive. A program that walks
//! over a million files needs few of those inodes again. The tree does not know which, so names are
//! chosen at random. An open file stays open, and its name gets the same inode number at the next
//! lookup.

use std::{collections::HashMap, ffi::OsString, path::Path, sync::Arc};

use super::{
    Ino, Kind, Layout, Tree, beside,
    node::{Key, Node, Version},
    resolve::split,
};
use crate::archive::{DirId, Entry, MemberId};

/// Most names that are chosen at once. To forget them takes some milliseconds.
const AT_ONCE: u64 = 1 << 14;

/// A multiplier that spreads numbers over 64 bits (2^64 divided by the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Tree {
    /// Whether inodes take more than a quarter of the memory limit.
    pub(crate) fn is_crowded(&self) -> bool {
        self.too_many().is_some()
    }

    /// The fraction of all inodes to forget, in units of 2^-32, so that the remaining inodes take
    /// three sixteenths of the memory limit; `None` if inodes take at most a quarter of it.
    fn too_many(&self) -> Option<u64> {
        let limit = self.settings.serve.memory_limit;
        let memory = self.inodes.memory();
        let too_much = memory.saturating_sub(limit / 16 * 3);
        let part = (too_much << 32) / memory.max(1);
        let most = (AT_ONCE << 32) / (self.inodes.things() as u64).max(1);
        (memory > limit / 4).then(|| part.min(most))
    }

    /// Names to forget, each with the inode of its directory. They are names of files that are not
    /// open, and of archives: with the name of an archive the kernel forgets all names in it. With
    /// an archive whose members stand beside it, the names of all its members are chosen. Each
    /// `round` chooses other names. Reads the source.
    pub(crate) fn names_to_forget(&self, round: u64) -> Vec<(Ino, OsString)> {
        let Some(part) = self.too_many() else { return Vec::new() };
        let is_meant = |ino: Ino| ((ino.0 ^ round).wrapping_mul(SPREAD) >> 32) < part;
        let mut directories = HashMap::new();
        let chosen = self.inodes.some(is_meant);
        let named = chosen.iter().flat_map(|node| self.names_of(node));
        let named = named.filter_map(|(path, name)| {
            let directory = path.parent()?;
            let parent = match directories.get(directory) {
                Some(parent) => *parent,
                None => {
                    let parent = self.number_of(directory);
                    directories.insert(directory.to_owned(), parent);
                    parent
                }
            };
            Some((parent?, name))
        });
        // Lazily: closed archives beyond these names are not opened.
        named.take(AT_ONCE as usize).collect()
    }

    /// The path in the source and the name in the mount, if the inode may be forgotten. A member
    /// that stands beside its archive stands for all of them.
    fn names_of(&self, node: &Node) -> Vec<(Arc<Path>, OsString)> {
        let (path, name) = match node {
            Node::Source(node) if node.kind == Kind::RegularFile && node.open_file().is_none() => {
                let path = node.path();
                let name = split(&path).1.to_owned();
                (path, name)
            }
            Node::ArchiveDir(version, DirId::ROOT) => {
                let path = version.key.path.clone();
                let name = split(&path).1;
                let name = match self.settings.layout.is_beside() {
                    false => name.to_owned(),
                    true => beside::directory_of(name),
                };
                (path, name)
            }
            Node::DecodedArchive(version) => {
                let path = version.key.path.clone();
                let name = split(&path).1.to_owned();
                (path, name)
            }
            Node::Member(version, _) => {
                let path = version.key.path.clone();
                match version.format.shown_name(split(&path).1) {
                    Some(name) => {
                        let name = name.to_owned();
                        (path, name)
                    }
                    None => return self.flat_names_of(version),
                }
            }
            _ => return Vec::new(),
        };
        vec![(path, name)]
    }

    /// The paths of the archive and the names of those members beside it to which the kernel
    /// refers.
    fn flat_names_of(&self, version: &Version) -> Vec<(Arc<Path>, OsString)> {
        // A large archive is not opened again for this: it would take long, and much memory.
        if self.settings.layout != Layout::Flat || version.weight_to_open().is_some() {
            return Vec::new();
        }
        let Ok(archive) = self.open_container(version) else { return Vec::new() };
        let archive = archive.container();
        let counts = archive.counts();
        let path = &version.key.path;
        let Some(first) = self.inodes.number_of(&Key::Archive(version.key.clone(), counts)) else {
            return Vec::new();
        };
        let name_of = |(name, entry): (&[u8], Entry)| {
            let Entry::Member(MemberId(id)) = entry else { return None };
            self.inodes.get(Ino(first.0 + u64::from(counts.0 + id)))?;
            let name = self.settings.flat_names.of_member(split(path).1, name)?;
            Some((path.clone(), name))
        };
        archive.dir(DirId::ROOT).entries().filter_map(name_of).collect()
    }

    /// The inode number of a directory of the source, if the kernel has looked it up.
    fn number_of(&self, directory: &Path) -> Option<Ino> {
        if directory.as_os_str().is_empty() {
            return Some(Ino::ROOT);
        }
        let stat = self.source.stat(directory).ok()?;
        self.inodes.number_of(&match stat.has_one_path(&self.root) {
            true => Key::Source(stat.id()),
            false => Key::SourceAt(directory.into(), stat.id()),
        })
    }
}
