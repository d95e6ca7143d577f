//! Decoded copies of members. Each copy is a file with only the bytes of the member, so that the
//! kernel can read the file instead of the member.
//!
//! The file has no room for a checksum. A copy is complete if it has its final name, the right
//! size, and the mtime of the archive (in whole seconds). The mtime is set before the name, and any
//! later write changes it. Damage by the disk is not detected, as in any other file: a CRC-32 over
//! the copy before each use would cost as much as reading the copy.

use std::{fs::File, io, os::unix::fs::MetadataExt, path::Path};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW};

use super::{Directory, Draft, Error, StreamKey};
use crate::archive::{Identity, SameFile};

/// Identifies the copy of a member, and has the size and mtime that the copy must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyKey {
    /// The archive of the member.
    pub identity: Identity,
    /// The stream of the member in the archive.
    pub stream: StreamKey,
    /// Decoded size of the member in bytes.
    pub size: u64,
    /// The mtime of the archive, in seconds.
    pub mtime: i64,
    /// The file of the archive, if `identity` does not cover all of its content, or if other users
    /// may write the file.
    pub file: Option<SameFile>,
}

/// The directory of decoded copies.
#[derive(Debug)]
pub struct Copies {
    directory: Directory,
}

impl Copies {
    /// Opens the directory `path`, whose copies may take `limit` bytes together. Beyond that, the
    /// least recently used copies are removed. Unfinished copies of servers that died are removed
    /// now.
    ///
    /// # Errors
    /// When the directory cannot be created, opened or read, or other users can write it.
    pub fn open(path: &Path, limit: u64) -> Result<Self, Error> {
        let directory = Directory::open(path, ".decoded", limit)?;
        // Only the name of a copy shows which member it belongs to.
        directory.check_private()?;
        directory.shrink()?;
        Ok(Self { directory })
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The copy of a member, if there is one. Sets its time of last use to now.
    ///
    /// # Errors
    /// When the copy exists but cannot be used.
    pub fn find(&self, key: &CopyKey) -> Result<Option<File>, Error> {
        let Some(file) = self.directory.file(&name(key))? else { return Ok(None) };
        let metadata = file.metadata()?;
        if metadata.len() != key.size {
            return Err(Error::Unfit("its size differs from that of the member"));
        }
        if metadata.mtime() != key.mtime {
            return Err(Error::Unfit("it was written since it was made"));
        }
        Ok(Some(file))
    }

    /// Begins a copy of `size` bytes, and removes other copies to make room. `None` if it cannot
    /// fit.
    ///
    /// # Errors
    /// When the disk has no room, or the file cannot be created.
    pub fn begin(&self, size: u64) -> io::Result<Option<Draft<'_>>> {
        if !self.directory.make_room(size)? {
            return Ok(None);
        }
        let draft = self.directory.draft()?;
        // The length of the file shows other servers how many bytes will be written.
        draft.file().set_len(size)?;
        // The drafts are counted again: if another server begins a copy at the same moment, at
        // least one of the two servers sees both drafts.
        Ok(self.directory.make_room(0)?.then_some(draft))
    }

    /// Gives a copy its final name, after its bytes are on the disk.
    ///
    /// # Errors
    /// When the bytes cannot be written to the disk, or the file cannot be renamed.
    pub fn finish(&self, draft: Draft, key: &CopyKey) -> Result<(), Error> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            last_modification: Timespec { tv_sec: key.mtime, tv_nsec: 0 },
        };
        rustix::fs::futimens(draft.file(), &times).map_err(io::Error::from)?;
        Ok(draft.finish(&name(key))?)
    }
}

fn name(key: &CopyKey) -> String {
    let StreamKey { header_offset, encoded_size } = key.stream;
    let file = key.file.map_or(String::new(), |SameFile(hash)| {
        hash.iter().fold("-".to_owned(), |name, byte| name + &format!("{byte:02x}"))
    });
    format!("{}-{header_offset:x}-{encoded_size:x}{file}.decoded", key.identity)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read, Write},
        os::unix::fs::{PermissionsExt, symlink},
        sync::Barrier,
        thread,
        time::{Duration, SystemTime},
    };

    use super::*;

    fn key(number: u8) -> CopyKey {
        CopyKey {
            identity: Identity { hash: [number; 32], fraction: 0 },
            stream: StreamKey { header_offset: 7, encoded_size: 9 },
            size: 4096,
            mtime: 1_700_000_000,
            file: None,
        }
    }

    fn make(copies: &Copies, key: &CopyKey, byte: u8) {
        let draft = copies.begin(key.size).unwrap().unwrap();
        draft.file().write_all(&vec![byte; key.size as usize]).unwrap();
        copies.finish(draft, key).unwrap();
    }

    #[test]
    fn a_copy_is_found_by_archive_and_member_once_it_is_finished() {
        let place = tempfile::tempdir().unwrap();
        let copies = Copies::open(place.path(), u64::MAX).unwrap();
        let draft = copies.begin(4096).unwrap().unwrap();
        assert!(copies.find(&key(1)).unwrap().is_none());
        drop(draft);
        make(&copies, &key(1), 5);
        let mut bytes = Vec::new();
        copies.find(&key(1)).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [5; 4096]);
        assert!(copies.find(&key(2)).unwrap().is_none());
        let stream = StreamKey { header_offset: 8, encoded_size: 9 };
        assert!(copies.find(&CopyKey { stream, ..key(1) }).unwrap().is_none());
        let file = Some(SameFile([2; 16]));
        assert!(copies.find(&CopyKey { file, ..key(1) }).unwrap().is_none());
    }

    #[test]
    fn a_copy_that_was_written_or_cut_short_is_not_used_and_can_be_made_anew() {
        let place = tempfile::tempdir().unwrap();
        let copies = Copies::open(place.path(), u64::MAX).unwrap();
        make(&copies, &key(1), 5);
        let path = place.path().join(name(&key(1)));
        let open = || File::options().write(true).open(&path).unwrap();
        open().write_all(b"one").unwrap();
        assert!(matches!(copies.find(&key(1)), Err(Error::Unfit(_))));
        open().set_len(4095).unwrap();
        open().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
        assert!(matches!(copies.find(&key(1)), Err(Error::Unfit(_))));
        make(&copies, &key(1), 5);
        assert!(copies.find(&key(1)).unwrap().is_some());
    }

    #[test]
    fn servers_that_begin_at_the_same_moment_stay_within_the_limit_together() {
        let place = tempfile::tempdir().unwrap();
        for _ in 0..50 {
            let start = Barrier::new(4);
            let servers: [_; 4] =
                std::array::from_fn(|_| Copies::open(place.path(), 3 * 4096).unwrap());
            let drafts: Vec<_> = thread::scope(|scope| {
                let begin = |copies| {
                    start.wait();
                    Copies::begin(copies, 2 * 4096).unwrap()
                };
                let begun = servers.each_ref().map(|copies| scope.spawn(move || begin(copies)));
                begun.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(drafts.iter().flatten().count() <= 1);
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_others_can_write_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        for (mode, trusted) in [(0o777, false), (0o770, false), (0o1777, false), (0o755, true)] {
            fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).unwrap();
            let opened = Copies::open(place.path(), u64::MAX);
            assert_eq!(opened.is_ok(), trusted, "{mode:o}");
            assert!(trusted || matches!(opened, Err(Error::Untrusted { .. })));
        }
    }

    #[test]
    fn what_is_no_regular_file_is_not_used_and_can_be_made_anew() {
        let place = tempfile::tempdir().unwrap();
        let copies = Copies::open(place.path(), u64::MAX).unwrap();
        let (path, aside) = (place.path().join(name(&key(1))), place.path().join("aside"));
        make(&copies, &key(1), 5);
        fs::rename(&path, &aside).unwrap();
        symlink(&aside, &path).unwrap();
        assert!(copies.find(&key(1)).is_err(), "it would be right, but who knows for how long");
        make(&copies, &key(1), 6);
        assert!(copies.find(&key(1)).unwrap().is_some());
        assert_eq!(fs::read(&aside).unwrap(), [5; 4096], "nothing was written through the link");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(copies.find(&key(1)), Err(Error::Unfit(_))));
        fs::remove_dir(&path).unwrap();
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(matches!(copies.find(&key(1)), Err(Error::Unfit(_))), "nobody waits for a writer");
    }

    #[test]
    fn what_does_not_fit_removes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let copies = Copies::open(place.path(), 3 * 4096).unwrap();
        make(&copies, &key(1), 1);
        assert!(copies.begin(4 * 4096).unwrap().is_none());
        assert!(copies.find(&key(1)).unwrap().is_some());
        let error = Copies::open(place.path(), u64::MAX).unwrap().begin(1 << 60).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
