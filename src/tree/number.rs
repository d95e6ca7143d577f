//! Chooses inode numbers.
//!
//! The inode number of a file is computed from the file itself. So the number is the same after the
//! kernel has forgotten the inode, in the next mount, and on other hosts that mount the same
//! source: backup programs compare inode numbers to recognise files. A plain file or directory has
//! the same number as in the source. Members have a hash of the data that identifies them, and so
//! have files that cannot keep the source's number (hard links, other filesystems within the
//! source).
//!
//! Each file has a sequence of numbers and gets the first free one. The free number is nearly
//! always the first of the sequence: another is needed only if two hashes of 61 bits are equal, or
//! if a file has the number of a removed file that is still in use.

use std::{os::unix::ffi::OsStrExt, path::Path};

use sha2::{Digest, Sha256};

use super::{Ino, attr::FileId, node::VersionKey};
use crate::archive::{Format, Timestamp};

/// The smallest number that is a hash. No known filesystem has inode numbers that large.
const HASHED: u64 = 1 << 62;

/// The smallest inode number of archives. An archive has many consecutive numbers.
const BLOCKS: u64 = HASHED | 1 << 61;

/// How many different numbers a hash can give, for single files and for the first numbers of
/// archives. An archive has fewer than 2^32 numbers, so its last number stays in range too.
const RANGE: u64 = (1 << 61) - (1 << 32);

/// Listings contain this instead of an unknown inode number (libfuse's FUSE_UNKNOWN_INO).
pub(super) const UNKNOWN: u64 = 0xffff_ffff;

/// The sequence of numbers for a file of the source. The source's number comes first, if `has_own`
/// is set and the number is usable.
pub(super) fn of_source(id: FileId, path: &Path, has_own: bool) -> impl Iterator<Item = Ino> {
    let is_usable = has_own && id.ino > Ino::ROOT.0 && id.ino < HASHED && id.ino != UNKNOWN;
    let own = is_usable.then_some(Ino(id.ino));
    let hash = move |attempt: u64| {
        let numbers = [id.ino, id.btime.seconds as u64, id.btime.nanoseconds.into()];
        Ino(HASHED + hash("source", path, &numbers, attempt) % RANGE)
    };
    own.into_iter().chain((0..).map(hash))
}

/// The sequence of numbers for the member that is shown in the place of its container.
pub(super) fn of_only_member(format: &Format, key: &VersionKey) -> impl Iterator<Item = Ino> {
    let kind = format.suffix().trim_start_matches('.');
    (0..).map(move |attempt| Ino(HASHED + of_version(kind, key, attempt) % RANGE))
}

/// The sequence of numbers that the block of an archive may start at.
pub(super) fn of_archive(key: &VersionKey) -> impl Iterator<Item = Ino> {
    (0..).map(|attempt| Ino(BLOCKS + of_version("archive", key, attempt) % RANGE))
}

/// Hashes the generation of a container, without the birth time: on a network filesystem some hosts
/// see birth times and others do not.
fn of_version(kind: &str, key: &VersionKey, attempt: u64) -> u64 {
    let Timestamp { seconds, nanoseconds } = key.mtime;
    let numbers = [key.id.ino, key.size, seconds as u64, nanoseconds.into(), key.fingerprint];
    hash(kind, &key.path, &numbers, attempt)
}

fn hash(kind: &str, path: &Path, numbers: &[u64], attempt: u64) -> u64 {
    let mut hash = Sha256::new();
    for text in [kind.as_bytes(), path.as_os_str().as_bytes()] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    for number in numbers.iter().chain([&attempt]) {
        hash.update(number.to_le_bytes());
    }
    let hash: [u8; 32] = hash.finalize().into();
    u64::from_le_bytes(*hash.first_chunk().expect("8 of 32 bytes"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::archive::{Device, NPY_GZ};

    fn file(ino: u64) -> FileId {
        FileId {
            dev: Device { major: 8, minor: 1 },
            ino,
            btime: Timestamp { seconds: -5, nanoseconds: 7 },
        }
    }

    fn first(numbers: impl Iterator<Item = Ino>) -> Ino {
        numbers.into_iter().next().unwrap()
    }

    #[test]
    fn a_file_has_its_own_number_if_it_may_and_that_means_nothing_else() {
        let path = Path::new("a/b");
        assert_eq!(first(of_source(file(77), path, true)), Ino(77));
        for (ino, has_own) in [(77, false), (0, true), (1, true), (UNKNOWN, true), (1 << 62, true)]
        {
            let number = first(of_source(file(ino), path, has_own)).0;
            assert!((HASHED..BLOCKS).contains(&number), "{ino}");
        }
        let next: Vec<_> = of_source(file(77), path, true).skip(1).take(3).collect();
        assert_eq!(next.iter().collect::<BTreeSet<_>>().len(), 3);
        assert_eq!(next[0], first(of_source(file(77), path, false)));
    }

    /// Backups have stored these numbers: later releases must compute the same.
    #[test]
    fn numbers_stay_the_same() {
        let key = VersionKey {
            path: Path::new("run7.npz").into(),
            id: file(77),
            size: 5,
            mtime: Timestamp { seconds: 1_700_000_000, nanoseconds: 9 },
            fingerprint: 3,
        };
        let numbers = [
            first(of_source(file(77), &key.path, false)),
            first(of_archive(&key)),
            first(of_only_member(&NPY_GZ, &key)),
        ];
        assert_eq!(
            numbers,
            [
                Ino(6_646_327_191_171_284_671),
                Ino(6_998_468_730_491_428_873),
                Ino(4_743_254_820_120_193_309),
            ]
        );
    }

    #[test]
    fn a_version_has_a_number_of_its_own_on_whatever_device() {
        let key = || VersionKey {
            path: Path::new("a.npz").into(),
            id: file(77),
            size: 5,
            mtime: Timestamp { seconds: 6, nanoseconds: 7 },
            fingerprint: 8,
        };
        let number = |key: &VersionKey| first(of_archive(key));
        let same =
            VersionKey { id: FileId { dev: Device { major: 9, minor: 9 }, ..key().id }, ..key() };
        assert_eq!(number(&same), number(&key()));
        let others = [
            VersionKey { path: Path::new("b.npz").into(), ..key() },
            VersionKey { id: file(78), ..key() },
            VersionKey { size: 6, ..key() },
            VersionKey { mtime: Timestamp { seconds: 7, nanoseconds: 7 }, ..key() },
            VersionKey { mtime: Timestamp { seconds: 6, nanoseconds: 8 }, ..key() },
            VersionKey { fingerprint: 9, ..key() },
        ];
        let numbers: BTreeSet<_> = others.iter().chain([&key()]).map(number).collect();
        assert_eq!(numbers.len(), 7);
        assert!(numbers.iter().all(|number| number.0 >= BLOCKS && number.0 < 1 << 63));
    }
}
