//! What directories list.
//!
//! A reader continues after the cookie of the entry that it saw last. It needs no handle, so the
//! kernel sends no messages to open and close directories. The entries of an archive never change:
//! there a cookie is a position. In a source directory a name keeps its cookie while other names come
//! and go: a file that exists throughout a listing is listed exactly once, as readdir(3) promises.

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
    Attr, FsError, Ino, Kind, Layout, Tree,
    attr::Stat,
    beside,
    containers::Found,
    node::{Node, Version},
    resolve::{enter_entry, stat_of},
    source::{NAMES_AT_ONCE, SourceDir, SourceName},
};
use crate::{
    archive::{Container, Device, DirId, Entry, Format},
    sync::Mutex,
};

/// One entry of a listing.
#[derive(Debug)]
pub struct Listed<'a> {
    /// Its name.
    pub name: &'a OsStr,
    /// What it stands for; `None` for a file called `.npz` that nobody has opened yet, and that was
    /// not looked up now.
    pub kind: Option<Kind>,
    /// The position after this entry, where a reader continues.
    pub cookie: u64,
    /// Its inode number, where that is known without looking it up: in archives.
    pub number: Option<Ino>,
    /// Its inode and attributes, if they were asked for. The kernel then owes one `forget`.
    pub looked_up: Option<(Ino, Attr)>,
}

/// Takes one entry, or says that there is no room for it.
type Show<'a> = dyn FnMut(Listed<'_>) -> bool + 'a;

/// `.` and `..`, and their cookies.
const DOTS: [(&str, u64); 2] = [(".", 1), ("..", 2)];

/// The cookie of the last of them.
const FIRST: u64 = 2;

/// Entries whose files are opened together: at most 64 are opened that then find no room in the reply.
const OPENED_TOGETHER: usize = 64;

impl Tree {
    /// Shows the entries of a directory after `cookie` to `show`, until it has no more room: `.` and
    /// `..` first, and each with its inode if `look_up`.
    ///
    /// # Errors
    /// `NoInode`, `NotADirectory`, `Stale`, or what the source says.
    pub fn read_directory(
        &self,
        ino: Ino,
        cookie: u64,
        look_up: bool,
        show: &mut Show<'_>,
    ) -> Result<(), FsError> {
        // Names are listed even when there is no memory for inodes.
        let look_up = look_up && self.server.check_memory().is_ok();
        // Whatever can fail comes before the first entry: a reader takes an error after it for the
        // end of the directory.
        match &*self.node(ino)? {
            Node::Source(node) if node.kind == Kind::Directory => {
                let path = node.path();
                let mut at = self.source.open_directory(&path)?;
                let device = node.id.dev;
                let listing = self.listing(ino, &at, device, cookie)?;
                // A listing does not wait for large archives to be opened.
                at.waits = false;
                if show_dots(cookie, show) {
                    self.show_source(&at, device, &listing, cookie, look_up, show);
                }
            }
            Node::ArchiveRoot => {
                // Empty while the archive is incomplete or missing; the attribute `state` says why.
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
        // One stat for all entries. It is not checked whether the file was overwritten: if so, this is
        // the directory as it was, and opening its entries is ESTALE.
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
                Entry::Member(_) => Kind::File,
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

    /// The entry of a name in a source directory; `None` if there is no such file any more. `opened`
    /// is what the file turned out to be, if that is known. Else it is found out, if `open`.
    fn listed<'a>(
        &self,
        at: &SourceDir<'_>,
        device: Device,
        name: &'a Name,
        opened: Option<(Found, Stat)>,
        look_up: bool,
        open: bool,
    ) -> Option<Listed<'a>> {
        let (kind, cookie) = (Some(name.kind), name.cookie);
        let mut listed = Listed { name: &name.name, kind, cookie, number: None, looked_up: None };
        if look_up {
            let looked_up = match opened {
                Some((found, stat)) => Ok(self.enter_found(at, name, found, stat)),
                None => self.lookup_at(at, &name.name),
            };
            match looked_up {
                Ok((ino, attr)) => {
                    listed.kind = Some(attr.kind);
                    listed.looked_up = Some((ino, attr));
                }
                // The file exists, and may be a directory in the mount.
                Err(error) if error.leaves_open() => {
                    listed.kind = kind.filter(|_| name.archive.is_none());
                }
                // Removed since the names were read, or in a directory that may be listed but not
                // searched: readdir(3) shows no entry without an inode either.
                Err(_) => return None,
            }
        } else if let Some(format) = name.archive {
            let is_archive = match opened {
                Some((found, _)) => Some(found.is_ok()),
                None if open || self.containers.remembers(device, name.ino, format) => {
                    self.is_container(at, &name.name, format).ok()
                }
                None => None,
            };
            listed.kind = is_archive.map(|is| if is { Kind::Directory } else { name.kind });
        }
        Some(listed)
    }

    /// A name in a directory of the source was looked up.
    pub(super) fn note_lookup(&self, parent: Ino, name: &OsStr) {
        if Format::of(name).is_some_and(Format::is_directory)
            && let Some(listing) = self.listings.get(parent)
        {
            listing.kinds_wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Shows an entry. If there is no room for it, its lookup is taken back: the kernel does not know
    /// of it.
    fn offer(&self, listed: Listed<'_>, show: &mut Show<'_>) -> bool {
        let looked_up = listed.looked_up.map(|(ino, _)| ino);
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
    /// When there is no memory to find out.
    fn is_container(
        &self,
        at: &SourceDir<'_>,
        name: &OsStr,
        format: &'static Format,
    ) -> Result<bool, FsError> {
        match at.stat(name) {
            Ok(stat) if stat.kind() == Kind::File => {
                Ok(self.container_at(at, name, format, stat)?.0.is_ok())
            }
            _ => Ok(false),
        }
    }

    /// The names of a source directory: read anew at the start of a listing, the same ones later.
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

    fn list_source(&self, at: &SourceDir<'_>, device: Device) -> Result<Vec<Name>, FsError> {
        let mut reserved = Vec::new();
        let mut names = at.list(|| {
            reserved.push(self.server.reserve_memory(NAMES_AT_ONCE as u64 * NAME_MEMORY)?);
            Ok(())
        })?;
        // In byte order, so that looking one up is a binary search.
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let has = |name: &OsStr| names.binary_search_by(|entry| (*entry.0).cmp(name)).is_ok();
        let beside = self.settings.layout == Layout::Beside;
        self.open_what_decides(at, device, &names);
        let mut shown = Vec::with_capacity(names.len());
        for (name, ino, kind) in &names {
            let kind = match kind {
                Some(kind) => *kind,
                None => match at.stat(name) {
                    Ok(stat) => stat.kind(),
                    // Gone since the directory was read.
                    Err(_) => continue,
                },
            };
            let mut archive = None;
            if kind == Kind::File
                && let Some(format) = Format::of(name)
            {
                let directory = beside::directory_of(name);
                match format.shown_name(name) {
                    None if !beside => archive = Some(format),
                    // One that there is no memory for has many members: it is taken for an archive.
                    None if !has(&directory)
                        && self.is_container(at, name, format).unwrap_or(true) =>
                    {
                        shown.push(Name::new(directory, Kind::Directory));
                    }
                    Some(member)
                        if !has(member) && self.is_container(at, name, format).unwrap_or(false) =>
                    {
                        shown.push(Name::new(member.to_owned(), Kind::File));
                        if !beside {
                            continue;
                        }
                    }
                    _ => {}
                }
            }
            shown.push(Name { archive, ino: *ino, ..Name::new(name.clone(), kind) });
        }
        Ok(shown)
    }

    /// Opens the files on whose content it depends which names are shown, unless it is known. What
    /// they are is remembered.
    fn open_what_decides(&self, at: &SourceDir<'_>, device: Device, names: &[SourceName]) {
        let beside = self.settings.layout == Layout::Beside;
        let unknown = |(name, ino, kind): &SourceName| {
            let format = Format::of(name).filter(|format| beside || !format.is_directory())?;
            let may_be_file = kind.is_none_or(|kind| kind == Kind::File);
            let is_unknown = may_be_file && !self.containers.remembers(device, *ino, format);
            is_unknown.then(|| (name.clone(), format))
        };
        let unknown: Vec<_> = names.iter().filter_map(unknown).collect();
        // Each is open until all of its part are.
        for part in unknown.chunks(OPENED_TOGETHER) {
            let rows = part.iter().enumerate();
            let rows = rows.map(|(row, (name, format))| (row, name.clone(), *format));
            drop(self.open_rows(at, rows.collect()));
        }
    }
}

/// Shows those of `.` and `..` that come after `cookie`.
fn show_dots(cookie: u64, show: &mut Show<'_>) -> bool {
    DOTS.iter().filter(|dot| dot.1 > cookie).all(|&(name, cookie)| {
        let name = OsStr::new(name);
        show(Listed { name, kind: Some(Kind::Directory), cookie, number: None, looked_up: None })
    })
}

/// A name in a source directory as the mount shows it.
#[derive(Debug)]
pub(super) struct Name {
    pub name: OsString,
    kind: Kind,
    /// The format of a file that may turn out to be an archive, and so a directory.
    pub archive: Option<&'static Format>,
    /// The inode number of such a file.
    pub ino: u64,
    cookie: u64,
}

impl Name {
    fn new(name: OsString, kind: Kind) -> Self {
        Self { name, kind, archive: None, ino: 0, cookie: 0 }
    }
}

/// The names of a source directory in the order of their cookies.
#[derive(Debug)]
pub(super) struct Listing {
    pub names: Vec<Name>,
    /// Whether one of its archives was looked up. Then a program that lists the directory probably
    /// wants to know what the other files are, and opening them together is cheaper.
    kinds_wanted: AtomicBool,
    /// The next cookie to give: greater than all that were given.
    next: u64,
}

impl Listing {
    /// Names of `before` keep their cookies; new names come after all of them.
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

/// What a name takes in bytes while a directory is read: 152 if it has 24 bytes at most.
const NAME_MEMORY: u64 = 160;

/// Names that are kept of listings that may be read on: some 16 MiB.
const KEPT: usize = 1 << 18;

/// The listings of the directories that were listed last, by inode.
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
        // Each counts for one at least, so that the number of empty ones is bounded too.
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
        let names = names.iter().map(|name| Name::new(name.into(), Kind::File)).collect();
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
            (0..KEPT / 4).map(|n| Name::new(n.to_string().into(), Kind::File)).collect();
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
