//! A file of ours in memory.

use std::{fs::File, io, io::Read, os::fd::AsFd};

use memmap2::Mmap;

/// The bytes of a whole file: mapped, or read where a map could be pulled away from under us.
#[derive(Debug)]
pub struct Map(Bytes);

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Read(Vec<u8>),
}

/// Where a file that another host removes or cuts short is gone from our maps as well, and
/// touching one is SIGBUS: network filesystems, by statfs(2)'s magic numbers, and FUSE.
const SHARED: [u32; 9] = [
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x6573_5546, // FUSE
    0x00c3_6400, // Ceph
    0x0102_1997, // 9p
    0x0bd0_0bd0, // Lustre
    0x4750_4653, // GPFS
];

impl Map {
    /// The bytes of `file`, which only we write: files get their names when they are complete, and
    /// are never written again.
    ///
    /// # Errors
    /// What fstatfs(2), mmap(2) or read(2) say.
    pub fn of(file: &File) -> io::Result<Self> {
        // The type of the field differs between architectures.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let magic = rustix::fs::fstatfs(file.as_fd())?.f_type as u32;
        if SHARED.contains(&magic) {
            return Self::read(file);
        }
        // SAFETY: a map must not change while it is borrowed. `Directory` hands out regular files
        // that belong to us or to root and that nobody else may write; we write a file before it
        // has a name, and unlink it, but never cut it short. On a local filesystem an unlinked
        // file stays as long as it is mapped.
        let map = unsafe { Mmap::map(file)? };
        Ok(Self(Bytes::Mapped(map)))
    }

    fn read(mut file: &File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Self(Bytes::Read(bytes)))
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map) => map,
            Bytes::Read(bytes) => bytes,
        }
    }
}
