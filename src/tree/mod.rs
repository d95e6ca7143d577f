//! The file tree the user sees. Needs no /dev/fuse: it can be tested in memory.
#![forbid(unsafe_code)]

use std::{os::fd::OwnedFd, time::Duration};

/// Where archives are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// `foo.npz` itself is the directory.
    #[default]
    Replace,
    /// `foo.npz` stays a file; the directory is `foo.npz.d`.
    Beside,
}

/// What is mounted; opened before the mount covers it.
#[derive(Debug)]
pub enum Source {
    /// A directory.
    Directory(OwnedFd),
    /// One archive, whose members are the root.
    Archive(std::fs::File),
}

/// What a user can set about the tree and how it is served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where archives are shown.
    pub layout: Layout,
    /// How long the kernel may keep names and attributes.
    pub ttl: Duration,
    /// Bytes for decoded spans and indexes.
    pub cache_size: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { layout: Layout::Replace, ttl: Duration::from_secs(1), cache_size: 64 << 20 }
    }
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    /// Settings.
    pub settings: Settings,
    _source: Source,
}

impl Tree {
    /// A tree over `source`.
    ///
    /// # Errors
    /// When a single archive cannot be parsed, or the source cannot be read.
    pub fn new(source: Source, settings: Settings) -> std::io::Result<Self> {
        Ok(Self { settings, _source: source })
    }
}
