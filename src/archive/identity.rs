//! Recognises a container by its content, independent of its path.

use std::{fmt, io, iter, ops::Range};

use seekable_deflate::ReadAt;
use sha2::{Digest, Sha256};

use super::SourceFile;

/// The type of FUSE filesystems in statfs(2) (FUSE_SUPER_MAGIC).
const FUSE: u32 = 0x6573_5546;

/// How many bytes are hashed at the start and at the end of a file that has no central directory.
const HEAD: u64 = 4 << 10;
const TAIL: u64 = 64 << 10;

/// Bytes that are hashed at a time.
const PIECE: u64 = 64 << 10;

/// Distinguishes a container from all others: a SHA-256 over its owner, its size, its mtime in
/// whole seconds, and some of its bytes. Name, inode and ctime are not included, because a copy has
/// different ones.
///
/// The owner is included because otherwise another user could make a container with the same hash
/// and other data; only root can give files to another owner. On a FUSE filesystem the user who
/// mounts it chooses the owners of its files, so the hash also includes whether the filesystem is
/// FUSE.
///
/// The hashed bytes of a zip are its central directory and everything after it: the directory holds
/// the CRC-32, the sizes and the place of every member. The hashed bytes of a file without a
/// central directory (`.npy.gz`) are its first 4 KiB, with the gzip header, and its last 64 KiB,
/// with the CRC-32 of the last gzip member. They do not cover the middle of the file, so the
/// fraction of the mtime is compared too. The fraction is not in the hash because some programs and
/// filesystems cut off its digits when they copy times.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// SHA-256 over the data that the documentation of this type lists.
    pub hash: [u8; 32],
    /// Fraction of the mtime in nanoseconds; 0 for a zip, for which the hash is enough.
    pub fraction: u32,
}

impl Identity {
    /// Whether a container with the same hash, whose mtime has the fraction `other`, is the same
    /// container: the fractions are equal, or one is the other with its last digits cut off.
    pub fn has_fraction(&self, other: u32) -> bool {
        (0..=9).map(|digits| 10u32.pow(digits)).any(|unit| {
            let is_cut = |cut: u32, whole: u32| cut == whole - whole % unit;
            is_cut(self.fraction, other) || is_cut(other, self.fraction)
        })
    }

    /// The identity of a zip, from the bytes between `start`, where its directory begins, and its
    /// end.
    pub(super) fn by_directory(source: &SourceFile, start: u64) -> io::Result<Self> {
        Self::of(source, iter::once(start..source.generation().size))
    }

    /// The identity of a file without a central directory, from its start and its end.
    pub(super) fn by_ends(source: &SourceFile) -> io::Result<Self> {
        let generation = source.generation();
        let head = 0..generation.size.min(HEAD);
        let tail = generation.size.saturating_sub(TAIL).max(head.end)..generation.size;
        Ok(Self { fraction: generation.mtime.nanoseconds, ..Self::of(source, [head, tail])? })
    }

    /// The identity from the bytes in `ranges` of the file.
    fn of(source: &SourceFile, ranges: impl IntoIterator<Item = Range<u64>>) -> io::Result<Self> {
        let generation = source.generation();
        let mut hash = Sha256::new();
        let owner = rustix::fs::fstat(source.file())?.st_uid;
        // The types of this field differ between architectures.
        #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
        let filesystem = rustix::fs::fstatfs(source.file())?.f_type as u32;
        hash.update(owner.to_le_bytes());
        hash.update(u32::from(filesystem == FUSE).to_le_bytes());
        hash.update(generation.size.to_le_bytes());
        hash.update(generation.mtime.seconds.to_le_bytes());
        let mut buf = Vec::new();
        for range in ranges {
            hash.update(range.start.to_le_bytes());
            for start in range.clone().step_by(PIECE as usize) {
                // At most `PIECE`, so the cast loses nothing.
                buf.resize(PIECE.min(range.end - start) as usize, 0);
                source.read_exact_at(&mut buf, start)?;
                hash.update(&buf);
            }
        }
        Ok(Self { hash: hash.finalize().into(), fraction: 0 })
    }
}

/// The hash in hexadecimal digits.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Write,
        path::Path,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::archive::{NPY_GZ, NPZ, testing};

    fn set_mtime(path: &Path, nanoseconds: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    fn zip(path: &Path) -> Identity {
        let source = SourceFile::new(File::open(path).unwrap()).unwrap();
        NPZ.open(source.into()).unwrap().identity().unwrap()
    }

    fn npy_gz(data: &[u8]) -> Vec<u8> {
        let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        let dict = "{'descr': '|u1', 'fortran_order': False, 'shape': (100000,), }";
        npy.extend_from_slice(format!("{dict:<117}\n").as_bytes());
        npy.extend_from_slice(data);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&npy).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_copy_with_its_times_is_the_same_archive_and_another_content_is_not() {
        let place = tempfile::tempdir().unwrap();
        let [first, copy, other] = ["a.npz", "b.npz", "c.npz"].map(|name| place.path().join(name));
        fs::write(&first, testing::zip(&[("x.npy", b"some bytes", true)])).unwrap();
        fs::copy(&first, &copy).unwrap();
        fs::write(&other, testing::zip(&[("x.npy", b"more bytes", true)])).unwrap();
        assert_eq!(fs::metadata(&first).unwrap().len(), fs::metadata(&other).unwrap().len());
        set_mtime(&first, 1_700_000_000_000_000_000);
        set_mtime(&copy, 1_700_000_000_999_999_999);
        set_mtime(&other, 1_700_000_000_000_000_000);
        assert_eq!(zip(&first), zip(&copy));
        assert_ne!(zip(&first), zip(&other));
        set_mtime(&copy, 1_700_000_001_000_000_000);
        assert_ne!(zip(&first), zip(&copy));
    }

    #[test]
    fn a_fraction_of_a_second_may_be_cut_and_not_be_another() {
        let identity = |fraction| Identity { hash: [1; 32], fraction };
        for cut in [123_456_789, 123_456_700, 123_456_000, 123_000_000, 0] {
            assert!(identity(123_456_789).has_fraction(cut), "{cut}");
            assert!(identity(cut).has_fraction(123_456_789), "{cut}");
        }
        for other in [123_456_788, 123_457_000, 124_000_000, 123_456_790] {
            assert!(!identity(123_456_789).has_fraction(other), "{other}");
            assert!(!identity(other).has_fraction(123_456_789), "{other}");
        }
    }

    #[test]
    fn a_gzipped_npy_is_known_by_its_start_and_its_end() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.npy.gz");
        let mut seen = Vec::new();
        for value in [1, 2] {
            fs::write(&path, npy_gz(&[value; 100_000])).unwrap();
            set_mtime(&path, 1_700_000_000_000_000_000);
            let source = SourceFile::new(File::open(&path).unwrap()).unwrap();
            seen.push(NPY_GZ.open(source.into()).unwrap().identity().unwrap());
        }
        assert_ne!(seen[0], seen[1]);
    }
}
