//! Lists directories.
//!
//! The kernel continues a listing after the cookie of the last entry that it received. A listing
//! needs no handle, so the kernel sends no messages to open and close directories. The entries of
//! an archive never change: the cookie of an entry is its position. In a source directory, a name
//! keeps its cookie while other names come and go: a file that exists throughout a listing is
//! listed exactly once, as readdir(3) promises.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use lru::LruCache;

use super::{
    Attr, FsError, Ino, Kind, Tree,
    attr::Stat,
    containers::{Found, Weight},
    node::{Node, Version},
    resolve::{enter_entry, stat_of},
    source::SourceDir,
};
use crate::{
    archive::{Container, Device, DirId, Entry, Format},
    serve::OpenContainer,
    sync::Mutex,
};

/// One entry of a listing.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    /// Name of the entry.
    pub name: &'a OsStr,
    /// The kind of file. `None` if the name ends in `.npz` and the file has not been opened yet:
    /// only opening it shows whether it is an archive, and so a directory.
    pub kind: Option<Kind>,
    /// The position after this entry. Pass it to `read_directory` to continue there.
    pub cookie: u64,
    /// Its inode number, if the entry is in an archive. In a source directory a lookup finds the
    /// number.
    pub number: Option<Ino>,
    /// Its inode and attributes, if the caller asked for lookups. The kernel then owes one
    /// `forget`.
    pub looked_up: Option<(Ino, Attr)>,
}

/// Takes one entry; returns `false` if the reply has no room for it.
type Show<'a> = dyn FnMut(Listed<'_>) -> bool + 'a;

/// `.` and `..`, and their cookies.
const DOTS: [(&str, u64); 2] = [(".", 1), ("..", 2)];

/// The cookie of `..`, the last entry before the names of the directory.
const FIRST: u64 = 2;

/// How many files are opened together. So at most 64 files are opened in vain if the reply has no
/// room for their entries.
pub(super) const OPENED_TOGETHER: usize = 64;

impl Tree {
    /// Passes the entries of a directory after `cookie` to `show`, until `show` returns `false`.
    /// The first two are `.` and `..`. If `look_up`, each other entry is looked up too. If large
    /// archives must be opened to find the names, opens them only if the caller `waits`.
    ///
    /// # Errors
    /// `NoInode`, `NotADirectory`, `Stale`, an error of the source, or `Heavy` if the caller does
    /// not wait. In all these cases nothing was passed to `show`.
    pub(crate) fn read_directory(
        &self,
        ino: Ino,
        cookie: u64,
        look_up: bool,
        waits: bool,
        show: &mut Show<'_>,
    ) -> Result<(), FsError> {
        // If there is no memory for inodes, names are listed without lookups.
        let look_up = look_up && self.server.check_memory().is_ok();
        // Every step that can fail is done before the first entry is shown: programs take an error
        // after an entry for the end of the directory.
        match &*self.node(ino)? {
            Node::Source(node) if node.kind == Kind::Directory => {
                let path = node.path();
                let mut at = self.source.open_directory(&path)?;
                at.waits = waits;
                let device = node.id.dev;
                let listing = self.listing(ino, &at, device, cookie)?;
                // Only names are waited for: the kind of a large archive stays open.
                at.waits = false;
                if show_dots(cookie, show) {
                    self.show_source(&at, device, &listing, cookie, look_up, show);
                }
            }
            Node::ArchiveRoot => {
                // The directory is empty while the archive is incomplete or missing; the attribute
                // `state` holds the reason.
                let Ok((version, archive)) = self.root_version() else {
                    show_dots(cookie, show);
                    return Ok(());
                };
                let archive = archive.container();
                self.show_archive(&version, archive, DirId::ROOT, cookie, look_up, show)?;
            }
            Node::ArchiveDir(version, id) => {
                let archive = self.open_container(version)?;
                self.show_archive(version, archive.container(), *id, cookie, look_up, show)?;
            }
            _ => return Err(FsError::NotADirectory),
        }
        Ok(())
    }

    fn show_archive(
        &self,
        version: &Arc<Version>,
        archive: &Container,
        directory: DirId,
        cookie: u64,
        look_up: bool,
        show: &mut Show<'_>,
    ) -> Result<(), FsError> {
        // One stat for all entries. Whether the file was overwritten is not checked: if it was, the
        // directory is listed as it was before, and opening an entry fails with ESTALE.
        let stat = look_up.then(|| stat_of(archive.source())).transpose()?;
        let inodes = self.inodes_of(version, archive);
        if !show_dots(cookie, show) {
            return Ok(());
        }
        let seen = usize::try_from(cookie.saturating_sub(FIRST)).unwrap_or(usize::MAX);
        let entries = archive.dir(directory).entries_from(seen);
        for ((name, entry), cookie) in entries.zip(cookie.max(FIRST) + 1..) {
            let name = OsStr::from_bytes(name);
            let looked_up =
                stat.as_ref().map(|stat| enter_entry(&inodes, version, archive, stat, entry));
            let number = Some(inodes.number(match entry {
                Entry::Dir(id) => id.0,
                Entry::Member(id) => archive.counts().0 + id.0,
            }));
            let kind = Some(match entry {
                Entry::Dir(_) => Kind::Directory,
                Entry::Member(_) => Kind::RegularFile,
            });
            if !self.offer(Listed { name, kind, cookie, number, looked_up }, show) {
                break;
            }
        }
        Ok(())
    }

    fn show_source(
        &self,
        at: &SourceDir<'_>,
        device: Device,
        listing: &Arc<Listing>,
        cookie: u64,
        look_up: bool,
        show: &mut Show<'_>,
    ) {
        let mut found = Vec::new().into_iter().peekable();
        let open = look_up || listing.kinds_wanted.load(Ordering::Relaxed);
        let first = listing.names.len() - listing.after(cookie).len();
        for (row, name) in listing.names.iter().enumerate().skip(first) {
            if open && (row - first).is_multiple_of(OPENED_TOGETHER) {
                let rows = row..listing.names.len().min(row + OPENED_TOGETHER);
                found = self.open_unknown_rows(at, device, listing, rows);
            }
            let opened = found.next_if(|(of, ..)| *of == row).map(|(_, found, stat)| (found, stat));
            let Some(listed) = self.listed(at, device, name, opened, look_up, open) else {
                continue;
            };
            if !self.offer(listed, show) {
                return;
            }
        }
    }

    /// The entry of a name in a source directory; `None` if the file no longer exists. `opened` is
    /// the result if the file was opened already. If not, `look_up` and `open` allow this call to
    /// open it.
    fn listed<'a>(
        &self,
        at: &SourceDir<'_>,
        device: Device,
        name: &'a Name,
        opened: Option<(Result<Found, Weight>, Stat)>,
        look_up: bool,
        open: bool,
    ) -> Option<Listed<'a>> {
        let (kind, cookie) = (Some(name.kind), name.cookie);
        let mut listed = Listed { name: &name.name, kind, cookie, number: None, looked_up: None };
        if look_up {
            let looked_up = match opened {
                Some((Ok(found), stat)) => Ok(self.enter_found(at, name, found, stat)),
                Some((Err(weight), _)) => Err(FsError::Heavy(weight)),
                None => self.lookup_at(at, &name.name),
            };
            match looked_up {
                Ok((ino, attr)) => {
                    listed.kind = Some(attr.kind);
                    listed.looked_up = Some((ino, attr));
                }
                // The file exists, and its kind is not known: the mount may show it as a directory.
                Err(error) if error.leaves_open() => {
                    listed.kind = kind.filter(|_| name.archive.is_none());
                }
                // The file was removed since the names were read, or the directory may be listed
                // but not searched. The entry is left out: readdir(3) does not show entries without
                // an inode either.
                Err(_) => return None,
            }
        } else if let Some(format) = name.archive {
            let is_archive = match opened {
                Some((found, _)) => found.ok().map(|found| found.is_ok()),
                None if open || self.containers.remembers(device, name.ino, format) => {
                    self.is_container(at, &name.name, format).ok()
                }
                None => None,
            };
            listed.kind = is_archive.map(|is| if is { Kind::Directory } else { name.kind });
        }
        Some(listed)
    }

    /// Notes that `name` in the source directory `parent` was looked up.
    pub(super) fn note_lookup(&self, parent: Ino, name: &OsStr) {
        if Format::of(name).is_some_and(Format::is_directory)
            && let Some(listing) = self.listings.get(parent)
        {
            listing.kinds_wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Shows an entry. If the reply has no room for the entry, its lookup is undone, because the
    /// kernel does not learn of it.
    fn offer(&self, mut listed: Listed<'_>, show: &mut Show<'_>) -> bool {
        let looked_up = listed.looked_up.map(|(ino, _)| ino);
        listed.looked_up = listed.looked_up.map(|(ino, attr)| (ino, self.shown(attr)));
        let shown = show(listed);
        if let Some(ino) = looked_up
            && !shown
        {
            self.forget(ino, 1);
        }
        shown
    }

    /// Whether the file `name` is a container of `format`.
    ///
    /// # Errors
    /// As [`container_at`](Self::container_at).
    pub(super) fn is_container(
        &self,
        at: &SourceDir<'_>,
        name: &OsStr,
        format: &'static Format,
    ) -> Result<bool, FsError> {
        Ok(self.container_named(at, name, format)?.is_some())
    }

    /// The container in the file `name`; `None` if there is none.
    ///
    /// # Errors
    /// As [`container_at`](Self::container_at).
    pub(super) fn container_named(
        &self,
        at: &SourceDir<'_>,
        name: &OsStr,
        format: &'static Format,
    ) -> Result<Option<Arc<OpenContainer>>, FsError> {
        match at.stat(name) {
            Ok(stat) if stat.kind() == Kind::RegularFile => {
                Ok(self.container_at(at, name, format, stat)?.0.ok())
            }
            _ => Ok(None),
        }
    }

    /// The names of a source directory. They are read again at the start of a listing (`cookie` 0)
    /// and kept for the rest of it.
    fn listing(
        &self,
        ino: Ino,
        at: &SourceDir<'_>,
        device: Device,
        cookie: u64,
    ) -> Result<Arc<Listing>, FsError> {
        let known = self.listings.get(ino);
        match known {
            Some(listing) if cookie > 0 => Ok(listing),
            known => {
                let listing =
                    Arc::new(Listing::new(self.list_source(at, device)?, known.as_deref()));
                self.listings.put(ino, listing.clone());
                Ok(listing)
            }
        }
    }
}

/// Shows `.` and `..` if their cookies are after `cookie`. Returns `false` if there is no room.
fn show_dots(cookie: u64, show: &mut Show<'_>) -> bool {
    DOTS.iter().filter(|dot| dot.1 > cookie).all(|&(name, cookie)| {
        let name = OsStr::new(name);
        show(Listed { name, kind: Some(Kind::Directory), cookie, number: None, looked_up: None })
    })
}

/// A name that the mount shows in a source directory.
#[derive(Debug)]
pub(super) struct Name {
    pub name: OsString,
    pub kind: Kind,
    /// The format that the file's name suggests, if the file may be an archive and so a directory
    /// in the mount.
    pub archive: Option<&'static Format>,
    /// The inode number of the file in the source; 0 for names that the mount adds.
    pub ino: u64,
    pub cookie: u64,
}

impl Name {
    pub(super) fn new(name: OsString, kind: Kind) -> Self {
        Self { name, kind, archive: None, ino: 0, cookie: 0 }
    }
}

/// The names of a source directory in the order of their cookies.
#[derive(Debug)]
pub(super) struct Listing {
    pub names: Vec<Name>,
    /// Whether a file of the directory that may be an archive was looked up. Then the program that
    /// lists the directory probably wants to know the kinds of the other files too, and opening
    /// them together is cheaper.
    kinds_wanted: AtomicBool,
    /// The cookie for the next new name: greater than every cookie given before.
    next: u64,
}

impl Listing {
    /// Makes a listing of `names`. Names that are in `before` keep their cookies; new names get
    /// cookies after all of those.
    fn new(mut names: Vec<Name>, before: Option<&Self>) -> Self {
        let known: HashMap<&OsStr, u64> = before
            .iter()
            .flat_map(|before| &before.names)
            .map(|name| (&*name.name, name.cookie))
            .collect();
        let mut next = before.map_or(FIRST + 1, |before| before.next);
        for name in &mut names {
            name.cookie = known.get(&*name.name).copied().unwrap_or_else(|| {
                next += 1;
                next - 1
            });
        }
        names.sort_by_key(|name| name.cookie);
        Self { names, kinds_wanted: AtomicBool::new(false), next }
    }

    fn after(&self, cookie: u64) -> &[Name] {
        &self.names[self.names.partition_point(|name| name.cookie <= cookie)..]
    }
}

/// How many names the kept listings may have in all. They take some 16 MiB.
const KEPT: usize = 1 << 18;

/// The most recent listings of source directories, by inode, and the number of their names.
#[derive(Debug)]
pub(super) struct Listings(Mutex<(LruCache<Ino, Arc<Listing>>, usize)>);

impl Default for Listings {
    fn default() -> Self {
        Self(Mutex::new((LruCache::unbounded(), 0)))
    }
}

impl Listings {
    fn get(&self, ino: Ino) -> Option<Arc<Listing>> {
        self.0.lock().0.get(&ino).cloned()
    }

    fn put(&self, ino: Ino, listing: Arc<Listing>) {
        let mut kept = self.0.lock();
        let (listings, names) = &mut *kept;
        // Each listing counts as one name more than it has, so that the number of empty listings is
        // bounded too.
        *names += listing.names.len() + 1;
        let mut old = listings.put(ino, listing);
        while old.is_some() || (*names > KEPT && listings.len() > 1) {
            let dropped = old.take().or_else(|| listings.pop_lru().map(|(_, listing)| listing));
            *names -= dropped.map_or(0, |listing| listing.names.len() + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str], before: Option<&Listing>) -> Listing {
        let names = names.iter().map(|name| Name::new(name.into(), Kind::RegularFile)).collect();
        Listing::new(names, before)
    }

    fn after(listing: &Listing, cookie: u64) -> Vec<&str> {
        listing.after(cookie).iter().filter_map(|name| name.name.to_str()).collect()
    }

    #[test]
    fn names_keep_their_cookies_while_others_come_and_go() {
        let first = listing(&["a", "b", "d"], None);
        let b = first.after(0)[1].cookie;
        assert_eq!(after(&first, b), ["d"]);
        let second = listing(&["b", "c", "d"], Some(&first));
        assert_eq!(after(&second, b), ["d", "c"]);
        let third = listing(&["a", "b", "d"], Some(&second));
        assert_eq!(after(&third, b), ["d", "a"], "a cookie is never given to another name");
        assert_eq!(after(&third, 0), ["b", "d", "a"]);
    }

    #[test]
    fn listings_that_were_read_last_are_kept_and_all_others_dropped() {
        let listings = Listings::default();
        let many: Vec<_> =
            (0..KEPT / 4).map(|n| Name::new(n.to_string().into(), Kind::RegularFile)).collect();
        let many = Arc::new(Listing::new(many, None));
        for ino in 1..=5 {
            listings.put(Ino(ino), many.clone());
        }
        listings.put(Ino(5), Arc::new(listing(&[], None)));
        let kept: Vec<_> = (1..=5).filter(|ino| listings.get(Ino(*ino)).is_some()).collect();
        assert_eq!(kept, [3, 4, 5]);
        assert_eq!(listings.0.lock().1, 2 * (KEPT / 4 + 1) + 1);
    }
}
