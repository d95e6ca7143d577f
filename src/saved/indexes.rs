//! The saved indexes of all archives: a directory with one index file for each archive.

use std::{io, path::Path};

use super::{
    Directory, Error, IndexFile, StreamKey,
    index_file::{self, Trust, WriteIndex},
};
use crate::archive::Identity;

/// The directory in which indexes are saved, and found again by later mounts.
#[derive(Debug)]
pub struct Indexes {
    directory: Directory,
}

impl Indexes {
    /// Opens the directory `path`, whose index files may take `limit` bytes together. Beyond that,
    /// the least recently used files are removed.
    ///
    /// # Errors
    /// When the directory cannot be created, opened or read.
    pub fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let directory = Directory::open(path, ".index", limit)?;
        // The limit may be smaller than before, and a server that died may have left a draft.
        directory.shrink()?;
        Ok(Self { directory })
    }

    /// Opens the directory `path` for [`peek`](Self::peek). Creates and removes nothing.
    ///
    /// # Errors
    /// When the directory does not exist or cannot be opened.
    pub fn existing(path: &Path) -> io::Result<Self> {
        Ok(Self { directory: Directory::existing(path, ".index", u64::MAX)? })
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The index file of an archive, if there is one.
    ///
    /// # Errors
    /// When the index file exists but cannot be used.
    pub fn load(&self, identity: &Identity) -> Result<Option<IndexFile>, Error> {
        let file = self.directory.file(&name(identity))?;
        file.map(|file| IndexFile::parse(file, identity)).transpose()
    }

    /// Like [`load`](Self::load), but does not count as a use of the file.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn peek(&self, identity: &Identity) -> Result<Option<IndexFile>, Error> {
        let file = self.directory.peek(&name(identity))?;
        file.map(|file| IndexFile::parse(file, identity)).transpose()
    }

    /// Writes a new index file of an archive with `streams`, which must be sorted by key, and
    /// returns it. Returns `None` if there is nothing to save; an existing file then stays.
    ///
    /// # Errors
    /// When the new file cannot be written. An existing file then stays.
    pub fn save(
        &self,
        identity: &Identity,
        streams: Vec<(StreamKey, Trust, WriteIndex)>,
    ) -> Result<Option<IndexFile>, Error> {
        let draft = self.directory.draft()?;
        if index_file::write(draft.file(), identity, streams)? == 0 {
            return Ok(None);
        }
        let (len, limit) = (draft.file().metadata()?.len(), self.directory.limit());
        if len > limit {
            return Err(Error::TooLarge { len, limit });
        }
        // The file is opened before it gets its final name. Even if another server removes it at
        // once, this server can read it, and copies its entries when it saves the archive again.
        let file = draft.open()?;
        draft.finish(&name(identity))?;
        // The file has been saved, even if shrinking fails or removes this very file.
        let _ = self.directory.shrink();
        Ok(file.and_then(|file| IndexFile::parse(file, identity).ok()))
    }

    /// Removes the entry of a stream from the index file of its archive. Returns the new file, or
    /// `None` if there is no other entry.
    ///
    /// # Errors
    /// When the existing file cannot be used, or the new file cannot be written.
    pub fn forget(&self, identity: &Identity, key: StreamKey) -> Result<Option<IndexFile>, Error> {
        let Some(file) = self.load(identity)? else { return Ok(None) };
        if file.streams().all(|(other, _)| other == key) {
            self.directory.remove(&name(identity))?;
            return Ok(None);
        }
        let others = file.streams().filter(|(other, _)| *other != key);
        self.save(identity, others.map(|(key, trust)| (key, trust, file.copy(key))).collect())
    }
}

fn name(identity: &Identity) -> String {
    format!("{identity}.index")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;
    use crate::archive::SameFile;

    const ARCHIVE: Identity = Identity { hash: [7; 32], fraction: 0 };
    const PARTIAL: Trust = Trust { confirmed: false, file: Some(SameFile([3; 16])) };
    const CONFIRMED: Trust = Trust { confirmed: true, file: None };

    fn key(header_offset: u64) -> StreamKey {
        StreamKey { header_offset, encoded_size: 1 << 20 }
    }

    fn bytes(bytes: &'static [u8]) -> WriteIndex<'static> {
        Box::new(move |out| Ok(out.write_all(bytes).map(|()| !bytes.is_empty())?))
    }

    fn bytes_of(file: &IndexFile, key: StreamKey) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        file.copy(key)(&mut bytes).unwrap().then_some(bytes)
    }

    #[test]
    fn what_was_saved_is_found_by_the_identity_of_the_archive() {
        let place = tempfile::tempdir().unwrap();
        let indexes = Indexes::open(place.path(), u64::MAX).unwrap();
        assert!(indexes.load(&ARCHIVE).unwrap().is_none());
        let streams = vec![
            (key(0), PARTIAL, bytes(b"one")),
            (key(5), PARTIAL, bytes(b"")),
            (key(9), PARTIAL, bytes(b"nine")),
        ];
        let saved = indexes.save(&ARCHIVE, streams).unwrap().unwrap();
        let loaded = indexes.load(&ARCHIVE).unwrap().unwrap();
        for file in [saved, loaded] {
            assert_eq!(
                file.streams().collect::<Vec<_>>(),
                [key(0), key(9)].map(|key| (key, PARTIAL))
            );
            assert_eq!(bytes_of(&file, key(0)).as_deref(), Some(&b"one"[..]));
            assert_eq!(bytes_of(&file, key(5)), None, "it had nothing to save");
            assert_eq!(bytes_of(&file, key(9)).as_deref(), Some(&b"nine"[..]));
            assert!(file.index(key(9)).is_err(), "these bytes are no index");
        }
        assert!(indexes.load(&Identity { hash: [8; 32], fraction: 0 }).unwrap().is_none());
    }

    #[test]
    fn what_is_removed_as_soon_as_it_is_saved_is_still_known() {
        let place = tempfile::tempdir().unwrap();
        let indexes = Indexes::open(place.path(), u64::MAX).unwrap();
        let path = place.path().join(name(&ARCHIVE));
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = fs::remove_file(&path); // the file seldom exists
                }
            });
            let is_known = |_| {
                let saved = indexes.save(&ARCHIVE, vec![(key(0), PARTIAL, bytes(b"one"))]);
                bytes_of(&saved.unwrap()?, key(0))
            };
            let known = (0..50).filter_map(is_known).count();
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(known, 50);
        });
    }

    #[test]
    fn each_stream_keeps_what_it_may_be_believed_for() {
        let place = tempfile::tempdir().unwrap();
        let indexes = Indexes::open(place.path(), u64::MAX).unwrap();
        let stored = Trust { confirmed: true, ..PARTIAL };
        let streams = vec![
            (key(0), PARTIAL, bytes(b"half")),
            (key(1), CONFIRMED, bytes(b"all")),
            // A stored member, which has no index: the entry records that its bytes were right.
            (key(2), stored, bytes(b"")),
        ];
        indexes.save(&ARCHIVE, streams).unwrap();
        let file = indexes.load(&ARCHIVE).unwrap().unwrap();
        let found: Vec<_> = file.streams().collect();
        assert_eq!(found, [(key(0), PARTIAL), (key(1), CONFIRMED), (key(2), stored)]);
        assert!(file.index(key(2)).unwrap().is_none());
        let other = indexes.forget(&ARCHIVE, key(0)).unwrap().unwrap();
        assert_eq!([0, 1, 2].map(|n| other.trust(key(n))), [None, Some(CONFIRMED), Some(stored)]);

        let this_file = PARTIAL.file;
        let another = Some(SameFile([4; 16]));
        for (trust, file, holds) in [
            (PARTIAL, this_file, true),
            (PARTIAL, another, false),
            (PARTIAL, None, false),
            (stored, another, false),
            (stored, this_file, true),
            (CONFIRMED, another, true),
            (CONFIRMED, None, true),
        ] {
            assert_eq!(trust.holds_for(file), holds, "{trust:?} {file:?}");
        }
    }

    #[test]
    fn a_stream_is_taken_out_and_the_file_goes_with_the_last() {
        let place = tempfile::tempdir().unwrap();
        let indexes = Indexes::open(place.path(), u64::MAX).unwrap();
        assert!(indexes.forget(&ARCHIVE, key(0)).unwrap().is_none());
        indexes
            .save(
                &ARCHIVE,
                vec![(key(0), PARTIAL, bytes(b"one")), (key(9), PARTIAL, bytes(b"nine"))],
            )
            .unwrap();
        let left = indexes.forget(&ARCHIVE, key(0)).unwrap().unwrap();
        let loaded = indexes.load(&ARCHIVE).unwrap().unwrap();
        for file in [left, loaded] {
            assert_eq!(file.streams().collect::<Vec<_>>(), [(key(9), PARTIAL)]);
            assert_eq!(bytes_of(&file, key(9)).as_deref(), Some(&b"nine"[..]));
        }
        assert!(indexes.forget(&ARCHIVE, key(9)).unwrap().is_none());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_file_that_is_there() {
        let place = tempfile::tempdir().unwrap();
        let indexes = Indexes::open(place.path(), u64::MAX).unwrap();
        indexes.save(&ARCHIVE, vec![(key(0), PARTIAL, bytes(b"one"))]).unwrap();
        let fails: WriteIndex = Box::new(|_| Err(Error::Unfit("of the test")));
        assert!(
            indexes
                .save(&ARCHIVE, vec![(key(0), PARTIAL, bytes(b"two")), (key(1), PARTIAL, fails)])
                .is_err()
        );
        assert!(indexes.save(&ARCHIVE, vec![(key(0), PARTIAL, bytes(b""))]).unwrap().is_none());
        let loaded = indexes.load(&ARCHIVE).unwrap().unwrap();
        assert_eq!(bytes_of(&loaded, key(0)).as_deref(), Some(&b"one"[..]));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_smaller_limit_holds_from_the_start() {
        let place = tempfile::tempdir().unwrap();
        let indexes = Indexes::open(place.path(), u64::MAX).unwrap();
        indexes.save(&ARCHIVE, vec![(key(0), PARTIAL, bytes(b"one"))]).unwrap();
        Indexes::open(place.path(), 1).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_index_of_any_length_is_copied_whole() {
        let place = tempfile::tempdir().unwrap();
        let indexes = Indexes::open(place.path(), u64::MAX).unwrap();
        let whole: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
        let one = whole.clone();
        let one: WriteIndex = Box::new(move |out| Ok(out.write_all(&one).map(|()| true)?));
        let saved = indexes.save(&ARCHIVE, vec![(key(0), PARTIAL, one)]).unwrap().unwrap();
        assert_eq!(bytes_of(&saved, key(0)), Some(whole));
    }

    #[test]
    fn what_says_neither_that_it_was_right_nor_of_which_file_it_is_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        let indexes = Indexes::open(place.path(), u64::MAX).unwrap();
        let nothing = Trust { confirmed: false, file: None };
        indexes.save(&ARCHIVE, vec![(key(0), nothing, bytes(b"one"))]).unwrap();
        assert!(matches!(indexes.load(&ARCHIVE), Err(Error::Unfit(_))));
    }

    /// All damage is either detected when the file is opened, or lies in the bytes of an index,
    /// which detects damage by itself.
    #[test]
    fn a_file_that_is_cut_short_or_damaged_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        let indexes = Indexes::open(place.path(), u64::MAX).unwrap();
        let streams = vec![(key(0), PARTIAL, bytes(b"one")), (key(9), PARTIAL, bytes(b"nine"))];
        indexes.save(&ARCHIVE, streams).unwrap();
        let path = place.path().join(name(&ARCHIVE));
        let whole = fs::read(&path).unwrap();
        let data = whole.len() - b"onenine".len();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(indexes.load(&ARCHIVE).is_err(), "{len} bytes");
        }
        for bit in 0..data * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &damaged).unwrap();
            assert!(indexes.load(&ARCHIVE).is_err(), "bit {bit}");
        }
        // The index file of another archive, renamed to the name of this one.
        indexes
            .save(&Identity { hash: [8; 32], fraction: 0 }, vec![(key(0), PARTIAL, bytes(b"one"))])
            .unwrap();
        fs::rename(place.path().join(name(&Identity { hash: [8; 32], fraction: 0 })), &path)
            .unwrap();
        assert!(matches!(indexes.load(&ARCHIVE), Err(Error::Unfit("it is of another archive"))));
    }
}
