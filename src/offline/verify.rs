//! Decodes members and compares them with their CRC-32.

use std::{
    io::{self, Write},
    sync::Arc,
};

use super::{Archives, Found, Missing, Progress, members};
use crate::archive::{self, MAX_DICTIONARY, MemberId};

/// Something that is not right, or cannot be checked.
#[derive(Debug)]
pub(crate) enum Damage {
    /// There is no archive that can be read.
    Archive(Missing),
    /// A member of an archive. Encrypted members, and those of a method without a decoder, are
    /// among these.
    Member(Arc<Found>, MemberId, archive::Error),
}

/// Counts bytes and drops them.
struct Counter<'a>(&'a Progress);

impl Write for Counter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.add_bytes(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks all members of `archives`, on all cores. The decoders are not those of a mount: DEFLATE
/// is decoded by zlib-rs. Calls `tell` for each damage, in this thread.
pub(crate) fn verify(archives: Archives, progress: &Progress, tell: impl FnMut(Damage)) {
    let check = |found: &Arc<Found>, id| {
        let result = found.archive.decode(id, MAX_DICTIONARY, &mut Counter(progress));
        result.err().map(|error| Damage::Member(Arc::clone(found), id, error))
    };
    members::for_each(archives, progress, |found| found, check, Damage::Archive, tell);
}
