//! The directory tree of an archive, made from the names of its members.
//!
//! The tree is built once, without recursion, in time nearly linear in the length of all names. It
//! never changes after that.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map},
    iter::Peekable,
    ops::Range,
};

use super::{
    MemberId,
    name::{self, Change},
};

/// How many directories an archive may have. One name of 64 KiB can require 32,000 directories, and
/// each takes far more memory than its two bytes in the name.
const MAX_DIRS: usize = 1 << 18;

/// Index of a directory inside an archive; 0 is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirId(pub u32);

impl DirId {
    /// The root directory of an archive.
    pub const ROOT: Self = Self(0);
}

/// The directory or the member under a name in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A subdirectory.
    Dir(DirId),
    /// A member, shown as a file.
    Member(MemberId),
}

/// A directory inside an archive.
#[derive(Debug)]
pub struct Dir {
    parent: DirId,
    /// All names in the directory, in byte order, without separators.
    names: Box<[u8]>,
    rows: Box<[Row]>,
}

/// A name in a directory, with its directory or member.
#[derive(Debug)]
struct Row {
    /// Where the name ends in `Dir::names`. It starts at the end of the previous name.
    name_end: u32,
    entry: Entry,
}

impl Dir {
    /// The entry with this `name`.
    pub fn get(&self, name: &[u8]) -> Option<Entry> {
        let (mut low, mut high) = (0, self.rows.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name(middle).cmp(name) {
                std::cmp::Ordering::Equal => return Some(self.rows[middle].entry),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// All names in byte order, with their entries.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], Entry)> {
        self.entries_from(0)
    }

    /// The names from index `first` on, with their entries, to continue a listing.
    pub fn entries_from(&self, first: usize) -> impl ExactSizeIterator<Item = (&[u8], Entry)> {
        let first = first.min(self.rows.len());
        (first..self.rows.len()).map(|index| (self.name(index), self.rows[index].entry))
    }

    /// The directory that contains this one. The root is its own parent.
    pub fn parent(&self) -> DirId {
        self.parent
    }

    /// A directory of the sorted `rows`: `count` names of `len` bytes in all.
    fn new<'a>(
        parent: DirId,
        count: usize,
        len: usize,
        rows: impl Iterator<Item = NamedEntry<'a>>,
    ) -> Self {
        let (mut names, mut own) = (Vec::with_capacity(len), Vec::with_capacity(count));
        for (name, entry) in rows {
            names.extend_from_slice(&name);
            own.push(Row { name_end: names.len() as u32, entry });
        }
        Self { parent, names: names.into(), rows: own.into() }
    }

    fn name(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.rows[index - 1].name_end as usize };
        &self.names[start..self.rows[index].name_end as usize]
    }

    pub(super) fn memory(&self) -> u64 {
        (size_of::<Self>() + self.names.len() + size_of_val(&*self.rows)) as u64
    }
}

/// All directories of an archive, and a sentence about names that are not shown as they are in the
/// archive.
#[derive(Debug)]
pub(super) struct Tree {
    pub dirs: Vec<Dir>,
    pub warning: Option<String>,
}

/// An upper bound of the memory in bytes that [`build`] allocates for `count` members with these
/// `names`, one after the other: all paths, all names again in their directories, a few numbers for
/// each member, and the data of each directory while it is built.
pub(super) fn build_memory(count: usize, names: &[u8]) -> u64 {
    let slashes = names.iter().filter(|byte| **byte == b'/').count();
    (2 * names.len() + 64 * count + 320 * slashes.min(MAX_DIRS)) as u64
}

/// Builds directories from the names of `count` members in central directory order. For a million
/// members it allocates about 50 MB while it runs: each of its tables has one or two numbers for
/// each name.
pub(super) fn build<'a>(count: usize, name_of: impl Fn(usize) -> &'a [u8]) -> Tree {
    let mut changes = vec![None; count];
    let mut paths = Vec::new();
    // Where the path of each member ends in `paths`. The path of a member that is not shown is
    // empty. The path of a directory ends in `/`.
    let mut ends: Vec<u32> = Vec::with_capacity(count);
    for (member, its_change) in changes.iter_mut().enumerate() {
        *its_change = match name::show(name_of(member), &mut paths) {
            Ok(name::Shown { is_dir, change }) => {
                if is_dir {
                    paths.push(b'/');
                }
                change
            }
            Err(change) => Some(change),
        };
        // This fits 32 bits: a central directory has at most 128 MiB, and decoding makes a name at
        // most three times as long.
        ends.push(paths.len() as u32);
    }

    // All directories are added before any file, because a file may come before a directory of the
    // same name.
    let mut builder = Builder::new(&paths);
    let mut files = Vec::with_capacity(count);
    let mut start = 0;
    for (member, end) in ends.iter().enumerate() {
        let path = start..*end;
        start = *end;
        match builder.add_dirs(path) {
            Some((_, name)) if name.is_empty() => {}
            Some((dir, name)) => files.push(File::new(dir, name, member)),
            None => changes[member] = Some(Change::TooMany),
        }
    }
    drop(ends);
    builder.add_files(files, |covered, by| {
        // If several members have the same name, users expect to see the last one. The earlier ones
        // are therefore not reported.
        if name_of(covered) != name_of(by) {
            changes[covered] = Some(Change::Covered);
        }
    });
    for &member in builder.renamed.values() {
        changes[member] = Some(Change::Renamed);
    }
    Tree { dirs: builder.finish(), warning: sentence(&changes, name_of) }
}

/// One sentence about all names that are not shown as they are in the archive.
fn sentence<'a>(changes: &[Option<Change>], name_of: impl Fn(usize) -> &'a [u8]) -> Option<String> {
    let (first, change) = changes.iter().enumerate().find_map(|(i, c)| c.map(|c| (i, c)))?;
    Some(format!(
        "{} of {} names cannot be shown as they are; the first, \"{}\", is {}",
        changes.iter().flatten().count(),
        changes.len(),
        name::escaped(name_of(first)),
        change.reason(),
    ))
}

/// A file, its directory, and the range of its name in `Builder::paths`.
struct File {
    dir: u32,
    name_start: u32,
    name_len: u32,
    member: u32,
}

impl File {
    fn new(dir: u32, name: Range<u32>, member: usize) -> Self {
        let name_len = name.end - name.start;
        Self { dir, name_start: name.start, name_len, member: member as u32 }
    }

    fn key<'p>(&self, paths: &'p [u8]) -> (u32, &'p [u8]) {
        (self.dir, &paths[self.name_start as usize..][..self.name_len as usize])
    }
}

/// The directories and files so far, by their parent directory and their name in it.
struct Builder<'p> {
    paths: &'p [u8],
    dirs: HashMap<(u32, &'p [u8]), u32>,
    /// Sorted by [`File::key`].
    files: Vec<File>,
    /// Files that have the same name as a directory, by their new names.
    renamed: HashMap<(u32, Vec<u8>), usize>,
    /// For each taken name that was tried for a renamed file: the next number to try. Without this,
    /// many long names that are shortened to the same name would take quadratic time.
    next: HashMap<(u32, Vec<u8>), u64>,
}

impl<'p> Builder<'p> {
    fn new(paths: &'p [u8]) -> Self {
        Self {
            paths,
            dirs: HashMap::new(),
            files: Vec::new(),
            renamed: HashMap::new(),
            next: HashMap::new(),
        }
    }

    /// Adds the directories of a path. Returns the last directory and the range of the file name
    /// after it, which is empty if the path is a directory's; `None` if there are too many
    /// directories.
    fn add_dirs(&mut self, range: Range<u32>) -> Option<(u32, Range<u32>)> {
        let path = &self.paths[range.start as usize..range.end as usize];
        let dirs = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let mut dir = DirId::ROOT.0;
        for component in path[..dirs].split(|&byte| byte == b'/').filter(|c| !c.is_empty()) {
            let next = self.dirs.len() + 1;
            dir = match self.dirs.entry((dir, component)) {
                hash_map::Entry::Occupied(entry) => *entry.get(),
                hash_map::Entry::Vacant(_) if next >= MAX_DIRS => return None,
                hash_map::Entry::Vacant(entry) => *entry.insert(next as u32),
            };
        }
        Some((dir, range.start + dirs as u32..range.end))
    }

    /// Adds files. Of files with the same path, the last in central directory order is shown. For
    /// each of the others, calls `covered` with its member and a later one of that path.
    fn add_files(&mut self, mut files: Vec<File>, mut covered: impl FnMut(usize, usize)) {
        let paths = self.paths;
        // Most writers sort the names, or nearly so. Sorting these is then cheaper than hashing
        // them: measured for 10,000 names.
        files.sort_unstable_by(|a, b| (a.key(paths), a.member).cmp(&(b.key(paths), b.member)));
        files.dedup_by(|next, kept| {
            let same = next.key(paths) == kept.key(paths);
            if same {
                covered(kept.member as usize, next.member as usize);
                kept.member = next.member;
            }
            same
        });
        let mut clashes = Vec::new();
        files.retain(|file| {
            let (dir, name) = file.key(paths);
            let clashes_with = self.dirs.contains_key(&(dir, name));
            if clashes_with {
                clashes.push((file.member as usize, dir, name));
            }
            !clashes_with
        });
        self.files = files;
        clashes.sort_unstable_by_key(|(member, ..)| *member);
        for (member, dir, name) in clashes {
            let name = self.free_name(dir, name);
            self.renamed.insert((dir, name), member);
        }
    }

    /// `name.member` if that is free, else `name.member.2` or the next number that is free.
    fn free_name(&mut self, dir: u32, name: &[u8]) -> Vec<u8> {
        let mut number = 1;
        // The taken names that were tried.
        let mut passed = Vec::new();
        loop {
            let mut wanted = [name, b".member"].concat();
            if number > 1 {
                wanted.extend_from_slice(format!(".{number}").as_bytes());
            }
            let mut fitting = Vec::new();
            name::append_component(&wanted, &mut fitting);
            let key = (dir, fitting);
            if !self.is_taken(&key) {
                // The next search from any of these names starts at the next number.
                self.next.extend(passed.into_iter().map(|passed| (passed, number + 1)));
                return key.1;
            }
            number = self.next.get(&key).copied().unwrap_or(0).max(number + 1);
            passed.push(key);
        }
    }

    fn is_taken(&self, (dir, name): &(u32, Vec<u8>)) -> bool {
        let key = (*dir, name.as_slice());
        self.dirs.contains_key(&key)
            || self.files.binary_search_by_key(&key, |file| file.key(self.paths)).is_ok()
            || self.renamed.contains_key(&(*dir, name.clone()))
    }

    fn finish(self) -> Vec<Dir> {
        let mut parents = vec![DirId::ROOT; self.dirs.len() + 1];
        let member_entry = |member| Entry::Member(MemberId(member as u32));
        // Directories, and renamed files.
        let mut others: Vec<(u32, Cow<'p, [u8]>, Entry)> = Vec::new();
        others.reserve_exact(self.dirs.len() + self.renamed.len());
        for ((dir, name), child) in self.dirs {
            parents[child as usize] = DirId(dir);
            others.push((dir, name.into(), Entry::Dir(DirId(child))));
        }
        for ((dir, name), member) in self.renamed {
            others.push((dir, name.into(), member_entry(member)));
        }
        others.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));

        let (mut files, mut others) = (&self.files[..], &others[..]);
        let mut dirs = Vec::with_capacity(parents.len());
        for (dir, parent) in (0..).zip(parents) {
            let (own_files, left) = files.split_at(files.partition_point(|file| file.dir == dir));
            files = left;
            let (own_others, left) = others.split_at(others.partition_point(|row| row.0 == dir));
            others = left;
            let count = own_files.len() + own_others.len();
            let len: usize = own_files.iter().map(|file| file.name_len as usize).sum();
            let len = len + own_others.iter().map(|(_, name, _)| name.len()).sum::<usize>();
            let files = own_files.iter().map(|file| {
                (Cow::Borrowed(file.key(self.paths).1), member_entry(file.member as usize))
            });
            let others = own_others.iter().map(|(_, name, entry)| (Cow::Borrowed(&**name), *entry));
            let rows = Merged { files: files.peekable(), others: others.peekable() };
            dirs.push(Dir::new(parent, count, len, rows));
        }
        dirs
    }
}

/// Merges two sorted sequences of names.
struct Merged<A: Iterator, B: Iterator> {
    files: Peekable<A>,
    others: Peekable<B>,
}

type NamedEntry<'a> = (Cow<'a, [u8]>, Entry);

impl<'a, A, B> Iterator for Merged<A, B>
where
    A: Iterator<Item = NamedEntry<'a>>,
    B: Iterator<Item = NamedEntry<'a>>,
{
    type Item = NamedEntry<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        match (self.files.peek(), self.others.peek()) {
            (Some((file, _)), Some((other, _))) if other < file => self.others.next(),
            (None, Some(_)) => self.others.next(),
            _ => self.files.next(),
        }
    }
}

#[cfg(test)]
mod tests;
