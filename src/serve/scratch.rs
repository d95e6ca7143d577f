//! Unlinked files that hold decoded members of methods without seek points, within bounds of space
//! and number.
//!
//! A file has no name, so it is gone when the server dies. It stays until another file needs its
//! room, even if a handle of its member is open. A member whose file was closed is decoded again by
//! its next read. So neither members nor handles can use up the descriptors or the disk.

use std::{
    fs::File,
    io, mem,
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

/// Without `--scratch-size`, the files may take the free space divided by this.
const SHARE: u64 = 10;

/// The size of the filesystem divided by this is left free.
const LEFT_FREE: u64 = 20;

/// The files may use the process's limit of descriptors divided by this.
const DESCRIPTORS: u64 = 8;

/// Identifies a scratch file. An id is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ScratchId(u64);

/// The scratch files of all members of all archives.
#[derive(Debug)]
pub(super) struct Scratch {
    directory: PathBuf,
    /// Most bytes of all files together; `None` for a share of the free space.
    limit: Option<u64>,
    /// Most files that are open at the same time.
    most: usize,
    next: AtomicU64,
    files: Mutex<Files>,
}

#[derive(Debug)]
struct Files {
    kept: LruCache<ScratchId, (Arc<File>, u64)>,
    /// Bytes of all files: those that are kept and those that are being written.
    used: u64,
    /// Number of files that are being written.
    written: usize,
    /// The limit in bytes. Set when the first file is begun.
    limit: Option<u64>,
}

/// A file that is being written. Dropping it removes the file and releases its room.
#[derive(Debug)]
pub(super) struct ScratchDraft<'a> {
    room: TakenRoom<'a>,
    file: Arc<File>,
}

impl Scratch {
    /// Keeps files in `directory`, of at most `limit` bytes together.
    pub(super) fn new(directory: PathBuf, limit: Option<u64>) -> Arc<Self> {
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

    /// A new id, for a file that will be written.
    pub(super) fn name(&self) -> ScratchId {
        ScratchId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The file of `id`, if it was not closed. It becomes the most recently used.
    pub(super) fn get(&self, id: ScratchId) -> Option<Arc<File>> {
        self.files.lock().kept.get(&id).map(|(file, _)| file.clone())
    }

    /// Closes the least recently used file to free its descriptor; `false` if there is no file.
    pub(super) fn give_one_up(&self) -> bool {
        let mut files = self.files.lock();
        let gone = files.evict();
        drop(files);
        gone.is_some()
    }

    /// Begins a file of `size` bytes. Closes other files to make room for it.
    ///
    /// # Errors
    /// `FileTooLarge` if `size` is above the limit, `StorageFull` if there is no room now, or the
    /// error of the filesystem.
    pub(super) fn begin(&self, size: u64) -> io::Result<ScratchDraft<'_>> {
        let mut gone = Vec::new();
        {
            let mut files = self.files.lock();
            let limit = match (files.limit, self.limit) {
                (Some(limit), _) | (None, Some(limit)) => limit,
                (None, None) => free(&self.stat()?) / SHARE,
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
        let room = TakenRoom { scratch: self, size };
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
        Ok(ScratchDraft { room, file: Arc::new(file) })
    }

    /// Allocates the space on the disk. A part of the disk is left to other programs.
    fn allocate(&self, file: &File, size: u64) -> io::Result<()> {
        loop {
            let result = match has_room(&self.stat()?, size) {
                true => allocate(file, size),
                false => Err(Errno::NOSPC),
            };
            match result {
                Ok(()) => return Ok(()),
                // A closed file frees its space unless a reader still has it open.
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
    /// Removes the least recently used file. The caller closes it, outside the lock.
    fn evict(&mut self) -> Option<Arc<File>> {
        let (_, (file, size)) = self.kept.pop_lru()?;
        self.used -= size;
        Some(file)
    }
}

impl ScratchDraft<'_> {
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Keeps the file under `id` until another file needs its room.
    pub(super) fn keep(self, id: ScratchId) -> Arc<File> {
        let Self { room, file } = self;
        let mut files = room.scratch.files.lock();
        files.written -= 1;
        files.kept.put(id, (file.clone(), room.size));
        drop(files);
        // The room now belongs to the kept file.
        mem::forget(room);
        file
    }
}

/// Room for a file that is being written. Dropping this releases the room.
#[derive(Debug)]
struct TakenRoom<'a> {
    scratch: &'a Scratch,
    size: u64,
}

impl Drop for TakenRoom<'_> {
    fn drop(&mut self) {
        let mut files = self.scratch.files.lock();
        files.used -= self.size;
        files.written -= 1;
    }
}

/// Whether `size` bytes fit and leave a part of the disk free.
fn has_room(stat: &StatVfs, size: u64) -> bool {
    let total = stat.f_blocks.saturating_mul(stat.f_frsize);
    free(stat).checked_sub(total / LEFT_FREE).is_some_and(|free| free >= size)
}

/// Bytes that this user may allocate.
fn free(stat: &StatVfs) -> u64 {
    stat.f_bavail.saturating_mul(stat.f_frsize)
}

/// Whether the process or the system has no descriptor left.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn allocate(file: impl AsFd, size: u64) -> rustix::io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        // The filesystem cannot allocate. Then a write fails if the disk is full.
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
