//! The directories that the names in an archive make.
//!
//! Built once, in time linear in the length of all names, without recursion; then never changed.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map},
};

use super::{
    MemberId,
    name::{self, Change},
};

/// How many directories an archive may have. A name of 64 KiB can ask for 32,000, each far
/// larger in memory than the two bytes that ask for it.
const MAX_DIRS: usize = 1 << 18;

/// Index of a directory inside an archive; 0 is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirId(pub u32);

impl DirId {
    /// The directory that an archive is shown as.
    pub const ROOT: Self = Self(0);
}

/// What a name inside an archive stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Dir(DirId),
    /// A member.
    Member(MemberId),
}

/// A directory inside an archive.
#[derive(Debug)]
pub struct Dir {
    parent: DirId,
    /// All names, in byte order, one after the other.
    names: Box<[u8]>,
    rows: Box<[Row]>,
}

/// A name and what it stands for.
#[derive(Debug)]
struct Row {
    /// Where the name ends in `Dir::names`; it starts where the one before it ends.
    name_end: u32,
    entry: Entry,
}

impl Dir {
    /// What `name` stands for.
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

    /// All names in byte order, with what they stand for.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], Entry)> {
        self.entries_from(0)
    }

    /// The names from the `first`-th on, as a cookie of readdir asks for them.
    pub fn entries_from(&self, first: usize) -> impl ExactSizeIterator<Item = (&[u8], Entry)> {
        let first = first.min(self.rows.len());
        (first..self.rows.len()).map(|index| (self.name(index), self.rows[index].entry))
    }

    /// The directory this one lies in; the root is its own parent.
    pub fn parent(&self) -> DirId {
        self.parent
    }

    /// `rows` are sorted by name.
    fn new(parent: DirId, rows: &[(u32, Cow<'_, [u8]>, Entry)]) -> Self {
        let mut names = Vec::with_capacity(rows.iter().map(|row| row.1.len()).sum());
        let rows = rows
            .iter()
            .map(|(_, name, entry)| {
                names.extend_from_slice(name);
                Row { name_end: names.len() as u32, entry: *entry }
            })
            .collect();
        Self { parent, names: names.into(), rows }
    }

    fn name(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.rows[index - 1].name_end as usize };
        &self.names[start..self.rows[index].name_end as usize]
    }

    pub(super) fn memory(&self) -> u64 {
        (size_of::<Self>() + self.names.len() + size_of_val(&*self.rows)) as u64
    }
}

/// All directories of an archive, and a sentence about names that are not shown as they are.
#[derive(Debug)]
pub(super) struct Tree {
    pub dirs: Vec<Dir>,
    pub warning: Option<String>,
}

/// Makes directories of the names of `count` members in central directory order.
pub(super) fn build<'a>(count: usize, name_of: impl Fn(usize) -> &'a [u8]) -> Tree {
    let mut changes = vec![None; count];
    let mut paths = Vec::new();
    let mut shown = Vec::with_capacity(count);
    for (member, its_change) in changes.iter_mut().enumerate() {
        let start = paths.len();
        *its_change = match name::show(name_of(member), &mut paths) {
            Ok(name::Shown { is_dir, change }) => {
                shown.push((member, start..paths.len(), is_dir));
                change
            }
            Err(change) => Some(change),
        }
    }

    // All directories first: a file may come before the directory that has its name.
    let mut builder = Builder::default();
    let mut files = Vec::with_capacity(shown.len());
    for (member, range, is_dir) in shown {
        match builder.add_dirs(&paths[range], is_dir) {
            Some((_, b"")) => {}
            Some((dir, name)) => files.push(File { dir, name, member }),
            None => changes[member] = Some(Change::TooMany),
        }
    }
    builder.add_files(files, |covered, by| {
        // The last of a repeated name is what everyone expects; anything else is told.
        if name_of(covered) != name_of(by) {
            changes[covered] = Some(Change::Covered);
        }
    });
    for &(member, _) in builder.renamed.values() {
        changes[member] = Some(Change::Renamed);
    }
    Tree { dirs: builder.finish(), warning: sentence(&changes, name_of) }
}

/// One sentence about all names that are not shown as they are.
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

/// A file in the directory it lies in.
struct File<'p> {
    dir: u32,
    name: &'p [u8],
    member: usize,
}

impl<'p> File<'p> {
    fn key(&self) -> (u32, &'p [u8]) {
        (self.dir, self.name)
    }
}

/// Directories and files by the directory they lie in and their name there.
#[derive(Default)]
struct Builder<'p> {
    dirs: HashMap<(u32, &'p [u8]), u32>,
    /// Sorted.
    files: Vec<File<'p>>,
    /// Files whose name is a directory's, under the name they got, and the number to go on with for
    /// the next file that would get it: long names are shortened, so many may come to one.
    renamed: HashMap<(u32, Vec<u8>), (usize, u64)>,
}

impl<'p> Builder<'p> {
    /// Adds the directories of a path. Returns the last of them and the name that is left;
    /// `None` if there are too many.
    fn add_dirs(&mut self, path: &'p [u8], is_dir: bool) -> Option<(u32, &'p [u8])> {
        let (dirs, name) = match path.iter().rposition(|&byte| byte == b'/') {
            _ if is_dir => (path, &b""[..]),
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        let mut dir = DirId::ROOT.0;
        for component in dirs.split(|&byte| byte == b'/').filter(|c| !c.is_empty()) {
            let next = self.dirs.len() + 1;
            dir = match self.dirs.entry((dir, component)) {
                hash_map::Entry::Occupied(entry) => *entry.get(),
                hash_map::Entry::Vacant(_) if next >= MAX_DIRS => return None,
                hash_map::Entry::Vacant(entry) => *entry.insert(next as u32),
            };
        }
        Some((dir, name))
    }

    /// Adds files; of those with one name the last in central directory order wins. `covered` hears
    /// of each that lost, and by which.
    fn add_files(&mut self, mut files: Vec<File<'p>>, mut covered: impl FnMut(usize, usize)) {
        // Most writers have sorted them, or nearly: cheaper than to hash 10,000 names.
        files.sort_by(|a, b| (a.key(), a.member).cmp(&(b.key(), b.member)));
        files.dedup_by(|next, kept| {
            let same = next.key() == kept.key();
            if same {
                covered(kept.member, next.member);
                kept.member = next.member;
            }
            same
        });
        let clash = |file: &File<'_>| self.dirs.contains_key(&file.key());
        let (mut clashes, files): (Vec<_>, _) = files.into_iter().partition(clash);
        self.files = files;
        clashes.sort_unstable_by_key(|file| file.member);
        for File { dir, name, member } in clashes {
            let name = self.free_name(dir, name);
            self.renamed.insert((dir, name), (member, 2));
        }
    }

    /// `name.member`, or with the lowest number that is not taken: `name.member.2`.
    fn free_name(&mut self, dir: u32, name: &[u8]) -> Vec<u8> {
        let mut number = 1;
        // The names that others got before.
        let mut passed = Vec::new();
        loop {
            let mut wanted = [name, b".member"].concat();
            if number > 1 {
                wanted.extend_from_slice(format!(".{number}").as_bytes());
            }
            let mut fitting = Vec::new();
            name::append_component(&wanted, &mut fitting);
            let key = (dir, fitting.as_slice());
            let is_file = || self.files.binary_search_by_key(&key, File::key).is_ok();
            if self.dirs.contains_key(&key) || is_file() {
                number += 1;
                continue;
            }
            let key = (dir, fitting);
            let Some((_, next)) = self.renamed.get(&key) else {
                for passed in passed {
                    if let Some((_, next)) = self.renamed.get_mut(&passed) {
                        *next = number + 1;
                    }
                }
                return key.1;
            };
            // Those who came here before have tried the numbers in between.
            number = (*next).max(number + 1);
            passed.push(key);
        }
    }

    fn finish(self) -> Vec<Dir> {
        let mut parents = vec![DirId::ROOT; self.dirs.len() + 1];
        let mut rows: Vec<(u32, Cow<'p, [u8]>, Entry)> = Vec::new();
        rows.reserve_exact(self.dirs.len() + self.files.len() + self.renamed.len());
        let member_entry = |member| Entry::Member(MemberId(member as u32));
        for ((dir, name), child) in self.dirs {
            parents[child as usize] = DirId(dir);
            rows.push((dir, name.into(), Entry::Dir(DirId(child))));
        }
        for File { dir, name, member } in self.files {
            rows.push((dir, name.into(), member_entry(member)));
        }
        for ((dir, name), (member, _)) in self.renamed {
            rows.push((dir, name.into(), member_entry(member)));
        }
        // The files are in order already, and this sort takes them as one run.
        rows.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));

        let mut rows = rows.as_slice();
        (0..)
            .zip(parents)
            .map(|(dir, parent)| {
                let (own, others) = rows.split_at(rows.partition_point(|row| row.0 == dir));
                rows = others;
                Dir::new(parent, own)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
