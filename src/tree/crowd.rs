//! Names that the kernel is asked to forget, where it refers to so many that they take a quarter of the
//! memory there is.
//!
//! The kernel keeps what was looked up until it needs the memory itself, and so long we have to know
//! what it refers to: 300 bytes a file. Somebody who walks over a million files wants few of them
//! again. Which ones is not known here, so any go, as in a cache that replaces at random; what is open
//! stays open, and has the same inode when it is looked up again.

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{
    Ino, Kind, Layout, Tree,
    node::{Key, Node},
    present,
    resolve::split,
};
use crate::archive::DirId;

/// What an inode takes at most, in bytes, if its path is not long.
const LARGE_INODE: u64 = 1 << 10;

/// Names at a time: some milliseconds, during which directories are locked in turn.
const AT_ONCE: u64 = 1 << 14;

/// A multiplier that spreads numbers over 64 bits (2^64 divided by the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Tree {
    /// Whether inodes take more than a quarter of the memory that all may take.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.too_many().is_some()
    }

    /// The part of them, in 2^32nds, that is to go until they take three sixteenths.
    fn too_many(&self) -> Option<u64> {
        let limit = self.settings.memory_limit;
        let things = self.inodes.things() as u64;
        if things * LARGE_INODE <= limit / 4 {
            return None;
        }
        let memory = self.inodes.memory();
        let too_much = memory.saturating_sub(limit / 16 * 3);
        let part = (too_much << 32) / memory.max(1);
        (memory > limit / 4).then(|| part.min((AT_ONCE << 32) / things))
    }

    /// Names that the kernel may forget, each with its directory: of files that are not open, and of
    /// archives, with which go the names below. Others in each `round`. Asks the source.
    #[must_use]
    pub fn names_to_forget(&self, round: u64) -> Vec<(Ino, OsString)> {
        let Some(part) = self.too_many() else { return Vec::new() };
        let is_meant = |ino: Ino| ((ino.0 ^ round).wrapping_mul(SPREAD) >> 32) < part;
        let mut directories = HashMap::new();
        let named = self.inodes.some(is_meant).into_iter().filter_map(|node| {
            let (path, name) = self.name_of(&node)?;
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
        named.collect()
    }

    /// The path of what may be forgotten, and the name under which it is shown.
    fn name_of(&self, node: &Node) -> Option<(PathBuf, OsString)> {
        let (path, name) = match node {
            Node::Source(node) if node.kind == Kind::File && node.open_file().is_none() => {
                let path = node.path();
                let name = split(&path).1.to_owned();
                (path, name)
            }
            Node::ArchiveDir(version, DirId::ROOT) => {
                let path = version.key.path.clone();
                let name = split(&path).1;
                let name = match self.settings.layout {
                    Layout::Replace => name.to_owned(),
                    Layout::Beside => present::beside(name),
                };
                (path, name)
            }
            Node::NpyGz(version) => {
                let path = version.key.path.clone();
                let name = present::npy_of_gz(split(&path).1)?.to_owned();
                (path, name)
            }
            _ => return None,
        };
        Some((path.to_path_buf(), name))
    }

    /// The inode of a directory of the source, if the kernel refers to it.
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
