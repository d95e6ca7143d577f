//! Decoders of the methods lzma and xz, with a bound on their memory.

use std::io::{self, BufRead, Read};

use lzma_rust2::{LzmaReader, XzReader};

/// The largest dictionary that is allocated, in bytes: twice that of `xz -9`. Only one decoder at a
/// time has a large one.
pub(super) const MAX_DICTIONARY: u32 = 128 << 20;
/// The memory in KiB that `lzma-rust2` counts for the decoder's own tables and buffers, rounded up.
const XZ_TABLES_KIB: u32 = 1 << 10;

/// The decoder of method 14 (APPNOTE 5.8.8). The encoded bytes are a header of this method, then a
/// raw LZMA stream.
///
/// # Errors
/// When the header cannot be read or is invalid, or when it needs more than the largest dictionary.
pub(super) fn lzma_reader<R: BufRead>(mut encoded: R, size: u64) -> io::Result<impl Read> {
    let mut header = [0; LZMA_HEADER_LEN];
    encoded.read_exact(&mut header)?;
    let [_, _, len_low, len_high, properties, dictionary @ ..] = header;
    let properties_len = u16::from_le_bytes([len_low, len_high]);
    if properties_len != 5 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{properties_len} bytes of properties, not 5"),
        ));
    }
    // No match reaches back beyond the start of the decoded bytes, so `size` is enough.
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

/// The size in bytes of the dictionary that a stream of method 14 needs, from its `start`.
pub(super) fn lzma_dictionary(start: &[u8]) -> u32 {
    let bytes = start.get(5..LZMA_HEADER_LEN).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(MAX_DICTIONARY, |bytes| u32::from_le_bytes(*bytes)).min(MAX_DICTIONARY)
}

/// The decoder of method 95: one .xz stream. Fails with `OutOfMemory` if the dictionary has more
/// than `most` bytes.
pub(super) fn xz_reader<R: BufRead>(encoded: R, most: u32) -> impl Read {
    XzReader::new_mem_limit(encoded, false, (most >> 10) + XZ_TABLES_KIB)
}

/// The size in bytes of the dictionary that the first block of an .xz stream needs (the .xz file
/// format, 3.1 and 5.3.1). The largest size if `start` is not the start of an .xz stream, or too
/// short.
pub(super) fn xz_dictionary(start: &[u8]) -> u32 {
    first_xz_dictionary(start).unwrap_or(MAX_DICTIONARY)
}

fn first_xz_dictionary(start: &[u8]) -> Option<u32> {
    let flags = *start.get(XZ_STREAM_HEADER_LEN + 1)?;
    let mut rest = &start[XZ_STREAM_HEADER_LEN + 2..];
    // Skips the sizes of the block, if it has them.
    for _ in 0..(flags >> 6).count_ones() {
        number(&mut rest)?;
    }
    // The filters of the block. The last is LZMA2.
    for _ in 0..=flags & 3 {
        let filter = number(&mut rest)?;
        let len = usize::try_from(number(&mut rest)?).ok()?;
        let (properties, next) = rest.split_at_checked(len)?;
        match (filter, properties) {
            (LZMA2, &[code @ 0..40]) => {
                return Some(((2 | (u32::from(code) & 1)) << (code / 2 + 11)).min(MAX_DICTIONARY));
            }
            (LZMA2, _) => return None,
            _ => rest = next,
        }
    }
    None
}

/// Reads a number that is stored as 7 bits a byte (the .xz file format, 1.2).
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = rest.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Length in bytes of the header of method 14: version of the SDK (2), length of the properties
/// (2), then the properties: lc/lp/pb (1) and the dictionary size (4).
const LZMA_HEADER_LEN: usize = 9;

/// Length in bytes of the header of an .xz stream: magic bytes, flags, CRC-32.
const XZ_STREAM_HEADER_LEN: usize = 12;

/// The ID of the filter LZMA2, which compresses; the others only transform bytes.
const LZMA2: u64 = 0x21;

/// The size of the dictionary is known from this many bytes at the start of a stream.
pub(super) const DICTIONARY_IS_WITHIN: u64 = 64;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lzma_rust2::{FilterConfig, XzOptions, XzWriter};

    use super::*;

    fn xz(dictionary: u32, filters: &[FilterConfig], sizes: bool) -> Vec<u8> {
        let mut options = XzOptions::with_preset(6);
        options.lzma_options.dict_size = dictionary;
        filters
            .iter()
            .for_each(|filter| options.prepend_pre_filter(filter.filter_type, filter.property));
        if sizes {
            options.set_block_size(std::num::NonZeroU64::new(1 << 16));
        }
        let mut writer = XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(&[7; 100_000]).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn the_start_of_a_stream_tells_its_dictionary() {
        for dictionary in [4 << 10, 6 << 10, 1 << 20, 3 << 20, 8 << 20, 64 << 20] {
            assert_eq!(xz_dictionary(&xz(dictionary, &[], false)), dictionary);
            let filters = [FilterConfig::new_delta(200), FilterConfig::new_bcj_x86(0)];
            assert_eq!(xz_dictionary(&xz(dictionary, &filters, true)), dictionary);
        }
        let lzma = |dictionary: u32| {
            let mut start = vec![9, 20, 5, 0, 93];
            start.extend(dictionary.to_le_bytes());
            lzma_dictionary(&start)
        };
        assert_eq!([0, 1 << 16, u32::MAX].map(lzma), [0, 1 << 16, MAX_DICTIONARY]);
    }

    #[test]
    fn what_does_not_tell_may_be_the_largest() {
        let stream = xz(1 << 20, &[], false);
        for len in 0..=16 {
            assert_eq!(xz_dictionary(&stream[..len]), MAX_DICTIONARY, "{len} bytes");
        }
        let with = |at: usize, byte: u8| {
            let mut changed = stream.clone();
            changed[at] = byte;
            xz_dictionary(&changed)
        };
        // Bytes 13 to 16 of the stream, in the block header: flags, filter, length of its
        // properties, and the properties.
        assert_eq!(
            [(14, 0x22), (15, 200), (16, 40), (16, 255)].map(|(at, byte)| with(at, byte)),
            [MAX_DICTIONARY; 4]
        );
        assert!(lzma_dictionary(&[9, 20, 5]) == MAX_DICTIONARY);
    }
}
