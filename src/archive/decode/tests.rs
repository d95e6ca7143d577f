use std::io::Write;

use lzma_rust2::{LzmaOptions, LzmaWriter, XzOptions, XzWriter};

use super::*;
use crate::archive::{
    Container, MAX_DICTIONARY, MemberId, NPZ,
    testing::{RawMember, RawZip, deflate, file_of, read},
};

/// Compressible bytes. No two ranges of 1000 bytes are equal.
fn sample(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as u8
    })
    .take(len)
    .collect()
}

fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

/// Encodes as method 14 (APPNOTE 5.8.8): version, length of properties, properties, stream.
fn lzma(data: &[u8], end_marker: bool) -> Vec<u8> {
    let mut options = LzmaOptions::with_preset(6);
    options.dict_size = 1 << 16;
    let mut out = vec![9, 20, 5, 0, options.get_props()];
    out.extend_from_slice(&options.dict_size.to_le_bytes());
    let mut writer = LzmaWriter::new_no_header(out, &options, end_marker).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(6)).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

/// Packs bits as DEFLATE does, starting at the lowest bit of a byte.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    len: usize,
}

impl Bits {
    fn put(&mut self, value: u32, len: usize) {
        for bit in 0..len {
            if self.len.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (self.len % 8);
            self.len += 1;
        }
    }

    /// Packs a Huffman code, starting at the highest bit of the code.
    fn put_code(&mut self, code: u32, len: usize) {
        (0..len).rev().for_each(|bit| self.put(code >> bit & 1, 1));
    }
}

/// One block with fixed codes: a byte, then a match of `len` bytes at distance 1. The match has the
/// length code 285, to which deflate64 gives 16 extra bits.
fn deflate64_run(byte: u8, len: u32) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(0b011, 3);
    bits.put_code(0x30 + u32::from(byte), 8);
    bits.put_code(0xC0 + 285 - 280, 8);
    bits.put(len - 3, 16);
    bits.put_code(0, 5);
    bits.put_code(0, 7);
    bits.bytes
}

/// `data` encoded by every method for which an encoder is available.
fn encodings(data: &[u8]) -> Vec<(u16, Vec<u8>)> {
    vec![
        (0, data.to_vec()),
        (8, deflate(data)),
        (12, bzip2(data)),
        (14, lzma(data, true)),
        (14, lzma(data, false)),
        (93, zstd::encode_all(data, 3).unwrap()),
        (95, xz(data)),
    ]
}

fn archive_of(method: u16, encoded: &[u8], data: &[u8]) -> Container {
    RawZip::of([RawMember::encoded("x", method, encoded, data)]).open().unwrap()
}

fn corrupt(result: Result<Vec<u8>, Error>) -> String {
    match result {
        Err(error) if is_corrupt(&error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn is_corrupt(error: &Error) -> bool {
    error.to_string().starts_with("corrupt: ")
}

#[test]
fn every_method_decodes_to_what_was_encoded() {
    for len in [0, 1, 1000, PIECE - 1, PIECE, PIECE + 1, 300_000] {
        let data = sample(len);
        for (method, encoded) in encodings(&data) {
            let archive = archive_of(method, &encoded, &data);
            assert!(read(&archive, "x").unwrap() == data, "method {method}, {len} bytes");
        }
    }
}

#[test]
fn deflate64_decodes_its_long_matches() {
    for len in [3, 258, 259, 65_538] {
        let data = vec![b'a'; 1 + len as usize];
        let archive = archive_of(9, &deflate64_run(b'a', len), &data);
        assert!(read(&archive, "x").unwrap() == data, "a run of {len}");
    }
}

#[test]
fn deflate64_decodes_what_both_formats_write_alike() {
    // The formats differ in code 285 and in distances over 32 KiB. `sample` has no such match.
    let data = sample(300_000);
    let archive = archive_of(9, &deflate(&data), &data);
    assert!(read(&archive, "x").unwrap() == data);
}

#[test]
fn a_wrong_crc_is_corrupt_whatever_the_method() {
    let data = sample(1000);
    for (method, encoded) in encodings(&data) {
        let mut member = RawMember::encoded("x", method, &encoded, &data);
        member.crc32 ^= 1;
        let archive = RawZip::of([member]).open().unwrap();
        assert!(corrupt(read(&archive, "x")).contains("CRC-32"), "method {method}");
    }
}

#[test]
fn an_empty_member_must_have_the_crc_of_nothing() {
    let mut member = RawMember::stored("x", b"");
    member.crc32 = 1;
    corrupt(read(&RawZip::of([member]).open().unwrap(), "x"));
}

#[test]
fn nothing_is_asked_of_the_bytes_of_an_empty_member() {
    for method in [8, 9, 12, 14, 93, 95] {
        let archive = archive_of(method, b"nonsense", b"");
        assert_eq!(read(&archive, "x").unwrap(), b"");
    }
}

#[test]
fn less_than_the_declared_size_is_corrupt() {
    let data = sample(100_000);
    for (method, encoded) in encodings(&data).into_iter().skip(1) {
        let mut member = RawMember::encoded("x", method, &encoded, &data);
        member.size += 1;
        let reason = corrupt(read(&RawZip::of([member]).open().unwrap(), "x"));
        let told = ["100000 of 100001", "after 100000 decoded bytes"];
        // A decoder that knows the size may notice that it is wrong before all bytes are decoded.
        assert!(method == 14 || told.iter().any(|told| reason.contains(told)), "{reason}");
    }
}

#[test]
fn decoding_stops_at_the_declared_size() {
    let data = sample(100_000);
    let mut member_sizes = Vec::new();
    for (method, encoded) in encodings(&data).into_iter().skip(1) {
        let mut member = RawMember::encoded("x", method, &encoded, &data[..777]);
        member.encoded_size = encoded.len() as u64;
        let archive = RawZip::of([member]).open().unwrap();
        // As in zipfile, bytes after the declared size are ignored.
        assert!(read(&archive, "x").unwrap() == data[..777], "method {method}");
        member_sizes.push(method);
    }
    assert_eq!(member_sizes.len(), 6);
}

#[test]
fn a_bomb_stops_at_the_declared_size() {
    let zeros = vec![0; 50_000_000];
    let archive = archive_of(8, &deflate(&zeros), &zeros[..50]);
    assert_eq!(read(&archive, "x").unwrap(), [0; 50]);
}

#[test]
fn encoded_bytes_that_end_early_are_corrupt() {
    let data = sample(100_000);
    for (method, encoded) in encodings(&data).into_iter().skip(1) {
        for len in [0, 1, 5, 20, encoded.len() / 2] {
            let mut member = RawMember::encoded("x", method, &encoded[..len], &data);
            member.size = (len as u64 * 1032).min(member.size).max(1);
            let archive = RawZip::of([member]).open().unwrap();
            match read(&archive, "x") {
                Err(error) if is_corrupt(&error) => {}
                other => panic!("{other:?} for {len} bytes of method {method}"),
            }
        }
    }
}

#[test]
fn a_large_lzma_dictionary_is_no_larger_than_the_member() {
    let data = sample(5000);
    let mut encoded = lzma(&data, true);
    for dictionary in [u32::MAX, u32::MAX - 15, MEMORY_TEST_DICTIONARY] {
        encoded[5..9].copy_from_slice(&dictionary.to_le_bytes());
        assert!(read(&archive_of(14, &encoded, &data), "x").unwrap() == data);
    }
}

const MEMORY_TEST_DICTIONARY: u32 = 1 << 30;

#[test]
fn an_lzma_dictionary_beyond_the_bound_is_refused() {
    let mut encoded = lzma(&sample(5000), true);
    encoded[5..9].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut member = RawMember::encoded("x", 14, &encoded, b"");
    member.size = 1 << 40;
    member.zip64 = true;
    let reason = corrupt(read(&RawZip::of([member]).open().unwrap(), "x"));
    assert!(reason.contains("a dictionary of 4294967295 bytes"), "{reason}");
}

#[test]
fn an_xz_dictionary_beyond_the_bound_is_refused() {
    let data = sample(5000);
    let mut encoded = xz(&data);
    // Stream header of 12 bytes, then the block header: size, flags, filter LZMA2, one byte of
    // properties, the dictionary size as a code, padding, CRC-32.
    assert_eq!(encoded[12..16], [2, 0, 0x21, 1]);
    encoded[16] = 40;
    let crc = crc32fast::hash(&encoded[12..20]).to_le_bytes();
    encoded[20..24].copy_from_slice(&crc);
    let reason = corrupt(read(&archive_of(95, &encoded, &data), "x"));
    assert!(reason.contains("memory"), "{reason}");
}

#[test]
fn a_zstd_window_beyond_the_bound_is_refused() {
    let data = sample(5000);
    // Magic bytes, then a frame header: no single segment, no sizes, the window's exponent minus
    // 10.
    let frame = |exponent: u8| {
        let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0, (exponent - 10) << 3];
        frame.extend_from_slice(&((data.len() as u32) << 3 | 1).to_le_bytes()[..3]);
        frame.extend_from_slice(&data);
        frame
    };
    assert!(read(&archive_of(93, &frame(27), &data), "x").unwrap() == data);
    let reason = corrupt(read(&archive_of(93, &frame(28), &data), "x"));
    assert!(reason.contains("emory"), "{reason}");
}

#[test]
fn a_file_overwritten_while_it_is_decoded_is_stale_and_not_corrupt() {
    // More than one block of bzip2, so that bytes remain to be read after the first write.
    let data = sample(1_000_000);
    for (method, encoded) in encodings(&data) {
        let file = file_of(&RawZip::of([RawMember::encoded("x", method, &encoded, &data)]).bytes());
        let source = SourceFile::new(file.try_clone().unwrap()).unwrap();
        let archive = NPZ.open(source.into()).unwrap();
        archive.data_offset(MemberId(0)).unwrap();
        let mut overwrite = OnFirstWrite(Some(file));
        match archive.decode(MemberId(0), MAX_DICTIONARY, &mut overwrite) {
            Err(Error::Io(error)) => assert!(SourceFile::is_stale(&error), "{error}"),
            other => panic!("{other:?} for method {method}"),
        }
    }
}

/// A writer that truncates a file at the first write.
struct OnFirstWrite(Option<std::fs::File>);

impl Write for OnFirstWrite {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(file) = self.0.take() {
            file.set_len(100)?;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_of_the_writer_comes_back_as_it_is() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(28))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let data = sample(1000);
    for (method, encoded) in encodings(&data) {
        let archive = archive_of(method, &encoded, &data);
        match archive.decode(MemberId(0), MAX_DICTIONARY, &mut Full) {
            Err(Error::Io(error)) => assert_eq!(error.raw_os_error(), Some(28)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn bytes_with_any_bit_flipped_decode_to_an_error_or_to_the_same() {
    let data = sample(300);
    let run = vec![b'a'; 301];
    let mut all = encodings(&data);
    all.push((9, deflate(&data)));
    for (method, encoded) in &all {
        flip_every_bit(*method, encoded, &data);
    }
    flip_every_bit(9, &deflate64_run(b'a', 300), &run);
}

fn flip_every_bit(method: u16, encoded: &[u8], data: &[u8]) {
    for bit in 0..encoded.len() * 8 {
        let mut flipped = encoded.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match read(&archive_of(method, &flipped, data), "x") {
            Ok(decoded) => assert!(decoded == data, "bit {bit} of method {method}"),
            Err(error) if is_corrupt(&error) => {}
            Err(other) => panic!("{other} for bit {bit} of method {method}"),
        }
    }
}
