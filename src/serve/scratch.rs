//! Files that members are decoded to which cannot be read in part, within bounds of space and number.
//!
//! A file has no name: what a server that dies leaves is gone. It stays as long as there is room,
//! whether a handle of its member is open or not: a member whose file went is decoded again when it
//! is read. So neither members nor handles can take all descriptors, or the disk.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use lru::LruCache;
use rustix::{
    fs::{FallocateFlags, StatVfs},
    io::Errno,
    process::Resource,
};

use crate::sync::Mutex;

/// How much of what is free when the server starts the files may take, if nothing else is said.
const SHARE: u64 = 10;

/// How much of the filesystem is left free: one part in so many.
const LEFT_FREE: u64 = 20;

/// How many of the descriptors that the process may have are for these files: one in so many.
const DESCRIPTORS: u64 = 8;

/// Names a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScratchId(u64);

/// The files, for all members of all archives.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
    /// Bytes that they may take; `None` for a share of what is free.
    limit: Option<u64>,
    /// How many there may be.
    most: usize,
    next: AtomicU64,
    files: Mutex<Files>,
}

#[derive(Debug)]
struct Files {
    kept: LruCache<ScratchId, (Arc<File>, u64)>,
    /// Bytes of those that are kept, and of those that are being written.
    used: u64,
    /// How many are being written.
    written: usize,
    /// What `Scratch::limit` came to.
    limit: Option<u64>,
}

/// A file that is being written, and the room for it.
#[derive(Debug)]
pub struct Writing<'a> {
    scratch: &'a Scratch,
    file: Arc<File>,
    size: u64,
    is_kept: bool,
}

impl Scratch {
    /// Files in `directory` that take `limit` bytes at most.
    pub fn new(directory: PathBuf, limit: Option<u64>) -> Arc<Self> {
        let descriptors = rustix::process::getrlimit(Resource::Nofile).current;
        let most = descriptors.map_or(1024, |limit| (limit / DESCRIPTORS).clamp(4, 1024)) as usize;
        Arc::new(Self {
            directory,
            limit,
            most,
            next: AtomicU64::new(0),
            files: Mutex::new(Files {
                kept: LruCache::unbounded(),
                used: 0,
                written: 0,
                limit: None,
            }),
        })
    }

    /// A name for a file that is to come.
    pub fn name(&self) -> ScratchId {
        ScratchId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The file, if it is still there; it then counts as used just now.
    pub fn get(&self, id: ScratchId) -> Option<Arc<File>> {
        self.files.lock().kept.get(&id).map(|(file, _)| file.clone())
    }

    /// Closes the least recently used file; `false` if there is none. For whoever lacks a descriptor.
    pub fn give_one_up(&self) -> bool {
        let mut files = self.files.lock();
        let gone = files.evict();
        drop(files);
        gone.is_some()
    }

    /// Begins a file of `size` bytes, for which others go.
    ///
    /// # Errors
    /// `FileTooLarge` if it could never have room, `StorageFull` if there is none now, and what the
    /// filesystem says.
    pub fn begin(&self, size: u64) -> io::Result<Writing<'_>> {
        let room = || self.stat();
        let mut gone = Vec::new();
        {
            let mut files = self.files.lock();
            let limit = match (files.limit, self.limit) {
                (Some(limit), _) | (None, Some(limit)) => limit,
                (None, None) => free(&room()?) / SHARE,
            };
            files.limit = Some(limit);
            if size > limit {
                let what = format!(
                    "{size} bytes to decode it to are more than the {limit} of --scratch-size"
                );
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
            }
            while files.used.saturating_add(size) > limit
                || files.kept.len() + files.written >= self.most
            {
                match files.evict() {
                    Some(file) => gone.push(file),
                    None if files.used.saturating_add(size) <= limit => break,
                    None => return Err(self.full(size, "others are being decoded")),
                }
            }
            files.used += size;
            files.written += 1;
        }
        drop(gone);
        // From here on the room is given back when this is dropped.
        let taken = Taken { scratch: self, size };
        let file = loop {
            match tempfile::tempfile_in(&self.directory) {
                Err(error) if is_out_of_descriptors(&error) && self.give_one_up() => {}
                Err(error) => {
                    let place = self.directory.display();
                    let what = format!("no temporary file in {place}: {error}");
                    return Err(io::Error::new(error.kind(), what));
                }
                Ok(file) => break file,
            }
        };
        self.allocate(&file, size)?;
        std::mem::forget(taken);
        Ok(Writing { scratch: self, file: Arc::new(file), size, is_kept: false })
    }

    /// Takes the space on the disk, of which a part is left to others.
    fn allocate(&self, file: &File, size: u64) -> io::Result<()> {
        loop {
            let result = match has_room(&self.stat()?, size) {
                true => allocate(file, size),
                false => Err(Errno::NOSPC),
            };
            match result {
                Ok(()) => return Ok(()),
                // What was decoded before makes room, as far as nobody reads it.
                Err(Errno::NOSPC) if self.give_one_up() => {}
                Err(Errno::NOSPC) => return Err(self.full(size, "its disk is full")),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn full(&self, size: u64, why: &str) -> io::Error {
        let place = self.directory.display();
        let what = format!("no room in {place} to decode it to {size} bytes: {why}");
        io::Error::new(io::ErrorKind::StorageFull, what)
    }

    fn stat(&self) -> io::Result<StatVfs> {
        Ok(rustix::fs::statvfs(&self.directory)?)
    }
}

impl Files {
    /// Lets the least recently used file go, to be closed by the caller.
    fn evict(&mut self) -> Option<Arc<File>> {
        let (_, (file, size)) = self.kept.pop_lru()?;
        self.used -= size;
        Some(file)
    }
}

impl Writing<'_> {
    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Keeps the file under `id`, as long as there is room.
    pub fn keep(mut self, id: ScratchId) -> Arc<File> {
        let mut files = self.scratch.files.lock();
        files.written -= 1;
        files.kept.put(id, (self.file.clone(), self.size));
        drop(files);
        self.is_kept = true;
        self.file.clone()
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            drop(Taken { scratch: self.scratch, size: self.size });
        }
    }
}

/// Room that was taken for a file that is not there yet.
struct Taken<'a> {
    scratch: &'a Scratch,
    size: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut files = self.scratch.files.lock();
        files.used -= self.size;
        files.written -= 1;
    }
}

/// Whether so many bytes leave to others what they are to have.
fn has_room(stat: &StatVfs, size: u64) -> bool {
    let total = stat.f_blocks.saturating_mul(stat.f_frsize);
    free(stat).checked_sub(total / LEFT_FREE).is_some_and(|free| free >= size)
}

/// Bytes that this user may take.
fn free(stat: &StatVfs) -> u64 {
    stat.f_bavail.saturating_mul(stat.f_frsize)
}

/// Whether neither the process nor the system has a descriptor left.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn allocate(file: impl AsFd, size: u64) -> rustix::io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        // Then a full disk is found out when it is written.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn scratch(limit: u64) -> (tempfile::TempDir, Arc<Scratch>) {
        let place = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(place.path().into(), Some(limit));
        (place, scratch)
    }

    fn write(scratch: &Scratch, size: u64) -> io::Result<ScratchId> {
        let writing = scratch.begin(size)?;
        writing.file().write_all(&vec![1; size as usize])?;
        let id = scratch.name();
        writing.keep(id);
        Ok(id)
    }

    #[test]
    fn the_least_recently_used_goes_when_there_is_no_room() {
        let (_place, scratch) = scratch(3000);
        let ids = [0; 3].map(|_| write(&scratch, 1000).unwrap());
        assert!(scratch.get(ids[0]).is_some());
        let fourth = write(&scratch, 1000).unwrap();
        let there = [ids[0], ids[1], ids[2], fourth].map(|id| scratch.get(id).is_some());
        assert_eq!(there, [true, false, true, true]);
        let whole = write(&scratch, 3000).unwrap();
        assert_eq!(scratch.files.lock().kept.len(), 1);
        assert!(scratch.get(whole).is_some());
        assert_eq!(write(&scratch, 3001).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(scratch.get(whole).is_some(), "nothing went for it");
    }

    #[test]
    fn what_is_being_written_keeps_its_room_until_it_is_given_up() {
        let (_place, scratch) = scratch(3000);
        let writing = scratch.begin(2000).unwrap();
        assert_eq!(scratch.begin(2000).unwrap_err().kind(), io::ErrorKind::StorageFull);
        drop(writing);
        assert!(write(&scratch, 2000).is_ok());
        assert_eq!(scratch.files.lock().used, 2000);
        assert!(scratch.give_one_up() && !scratch.give_one_up());
        assert_eq!(scratch.files.lock().used, 0);
    }

    #[test]
    fn there_are_no_more_than_descriptors_allow() {
        let (_place, mut scratch) = scratch(1 << 30);
        Arc::get_mut(&mut scratch).unwrap().most = 8;
        for _ in 0..2000 {
            write(&scratch, 1).unwrap();
            let files = scratch.files.lock();
            assert!(files.kept.len() <= 8);
            assert_eq!(files.used, files.kept.len() as u64);
        }
    }

    #[test]
    fn as_many_are_kept_as_descriptors_allow() {
        let (_place, mut scratch) = scratch(1 << 30);
        Arc::get_mut(&mut scratch).unwrap().most = 8;
        for _ in 0..20 {
            write(&scratch, 1).unwrap();
        }
        assert_eq!(scratch.files.lock().kept.len(), 8);
    }

    #[test]
    fn the_space_is_taken_before_anything_is_written() {
        use std::os::unix::fs::MetadataExt;
        let (_place, scratch) = scratch(4 << 20);
        let writing = scratch.begin(4 << 20).unwrap();
        assert!(writing.file().metadata().unwrap().blocks() * 512 >= 4 << 20);
    }

    #[test]
    fn more_than_the_disk_has_is_no_room() {
        let (_place, scratch) = scratch(u64::MAX);
        assert_eq!(scratch.begin(1 << 60).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(scratch.files.lock().used, 0);
    }

    #[test]
    fn a_twentieth_of_the_disk_is_left_to_others() {
        let (_place, scratch) = scratch(0);
        let disk = StatVfs { f_blocks: 1000, f_frsize: 4096, ..scratch.stat().unwrap() };
        for (available, blocks, has_it) in
            [(1000, 950, true), (1000, 951, false), (51, 1, true), (50, 1, false), (10, 0, false)]
        {
            let disk = StatVfs { f_bavail: available, ..disk };
            assert_eq!(has_room(&disk, blocks * 4096), has_it, "{blocks} of {available}");
        }
    }

    #[test]
    fn what_is_left_to_others_is_not_taken_though_it_is_there() {
        let (_place, scratch) = scratch(u64::MAX);
        let stat = scratch.stat().unwrap();
        let left = stat.f_blocks * stat.f_frsize / LEFT_FREE;
        let size = free(&stat).saturating_sub(left / 2).max(1);
        assert_eq!(scratch.begin(size).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(scratch.files.lock().used, 0);
    }
}
