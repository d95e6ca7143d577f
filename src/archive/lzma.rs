//! Decoders of the methods lzma and xz, with a bound on their memory.
//!
//! `lzma-rust2` is what the `zip` crate uses for them; it is called directly because `zip` does
//! not hand on its memory limit.

use std::io::{self, BufRead, Read};

use lzma_rust2::{LzmaReader, XzReader};

/// The largest dictionary that is allocated: twice that of `xz -9`. One decoder at a time has a large
/// one.
const MAX_DICTIONARY: u32 = 128 << 20;
/// What `lzma-rust2` reckons for that dictionary and the decoder's own tables and buffers.
const MAX_XZ_MEMORY_KIB: u32 = (MAX_DICTIONARY >> 10) + (1 << 10);

/// The decoder of method 14 (APPNOTE 5.8.8): a header of its own, then a raw LZMA stream.
///
/// # Errors
/// What reading the header says, and when it asks for more than the largest dictionary.
pub(super) fn lzma_reader<R: BufRead>(mut encoded: R, size: u64) -> io::Result<impl Read> {
    // Version of the SDK, length of the properties, then these: lc/lp/pb and the dictionary size.
    let mut header = [0; 9];
    encoded.read_exact(&mut header)?;
    let [_, _, len_low, len_high, properties, dictionary @ ..] = header;
    let properties_len = u16::from_le_bytes([len_low, len_high]);
    if properties_len != 5 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{properties_len} bytes of properties, not 5"),
        ));
    }
    // No match reaches back further than to the start of what was decoded.
    let dictionary = u64::from(u32::from_le_bytes(dictionary)).min(size);
    match u32::try_from(dictionary) {
        Ok(dictionary) if dictionary <= MAX_DICTIONARY => {
            LzmaReader::new_with_props(encoded, size, properties, dictionary, None)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            format!("a dictionary of {dictionary} bytes is more than {MAX_DICTIONARY}"),
        )),
    }
}

/// The decoder of method 95: one .xz stream.
pub(super) fn xz_reader<R: BufRead>(encoded: R) -> impl Read {
    XzReader::new_mem_limit(encoded, false, MAX_XZ_MEMORY_KIB)
}
