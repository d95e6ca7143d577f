use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use super::*;
use crate::archive::{
    MemberId, NPY_GZ,
    testing::{file_of, source_of},
};

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn npy(dict: &str, data: &[u8]) -> Vec<u8> {
    let len = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(len as u16).to_le_bytes());
    out.extend_from_slice(format!("{dict:<width$}\n", width = len - 1).as_bytes());
    out.extend_from_slice(data);
    out
}

fn floats(count: usize) -> Vec<u8> {
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},), }}");
    npy(&dict, &vec![1; count * 4])
}

fn size_of(bytes: &[u8]) -> u64 {
    NPY_GZ.open(source_of(bytes)).unwrap().member(MemberId(0)).size
}

fn corrupt(bytes: &[u8]) -> String {
    match NPY_GZ.open(source_of(bytes)) {
        Err(Error::Corrupt(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_size_comes_from_the_npy_header() {
    for count in [0, 1, 1_000_000] {
        let plain = floats(count);
        let encoded = gz(&plain);
        let container = NPY_GZ.open(source_of(&encoded)).unwrap();
        assert_eq!(container.counts(), (0, 1));
        let member = container.member(MemberId(0));
        assert_eq!((member.size, member.encoded_size), (plain.len() as u64, encoded.len() as u64));
        let mut decoded = Vec::new();
        container.decode(MemberId(0), 0, &mut decoded).unwrap();
        assert!(decoded == plain);
    }
}

#[test]
fn gzip_members_follow_each_other_in_the_middle_of_the_header() {
    let plain = floats(100);
    for at in [0, 5, 11, 60, 128, 200] {
        let parts = [gz(&plain[..at]), gz(b""), gz(&plain[at..])].concat();
        assert_eq!(size_of(&parts), plain.len() as u64);
    }
}

#[test]
fn a_header_of_half_a_mebibyte_is_read() {
    let field = "('f', '<f4'), ";
    let dict = format!(
        "{{'descr': [{}], 'fortran_order': False, 'shape': (2,), }}",
        field.repeat((500 << 10) / field.len())
    );
    let mut plain = b"\x93NUMPY\x02\x00".to_vec();
    plain.extend_from_slice(&(dict.len() as u32).to_le_bytes());
    plain.extend_from_slice(dict.as_bytes());
    let fields = ((500 << 10) / field.len()) as u64;
    let size = plain.len() as u64 + 2 * fields * 4;
    assert_eq!(size_of(&gz(&plain)), size);
}

#[test]
fn what_is_no_gzipped_npy_is_corrupt_and_says_why() {
    let object = npy("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", b"");
    let unknown = npy("{'descr': '<x9', 'fortran_order': False, 'shape': (3,), }", b"");
    let large = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (100000000,), }", b"");
    let whole = gz(&floats(1000));
    for (bytes, why) in [
        (vec![], "no .npy inside"),
        (b"not gzip, but long enough for its header".to_vec(), "gzip after 0 decoded bytes"),
        (floats(3), "gzip after 0 decoded bytes"),
        (gz(b""), "no .npy inside: it ends within a header of 12 bytes"),
        (gz(b"hello, this is a text"), "does not start with \\x93NUMPY"),
        (gz(&floats(3)[..60]), "ends within a header of 128 bytes"),
        (whole[..30].to_vec(), "ends within a header of"),
        (gz(b"\x93NUMPY\x04\x00 and more"), "version 4.0"),
        (gz(b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), "4294967295 bytes is longer"),
        (gz(&object), "Python objects"),
        (gz(&unknown), "dtype '<x9' is not known"),
        (gz(&large), "100000128 bytes, more than"),
    ] {
        let reason = corrupt(&bytes);
        assert!(reason.contains(why), "{reason:?} does not say {why:?}");
    }
}

#[test]
fn no_more_is_inflated_than_the_header_needs() {
    // Bytes after the header are not decoded, even if they are not valid gzip.
    let plain = floats(100_000);
    let mut bytes = gz(&plain[..128]);
    bytes.extend_from_slice(&[0xAA; 1000]);
    assert_eq!(size_of(&bytes), plain.len() as u64);
}

#[test]
fn empty_gzip_members_without_end_are_not_followed() {
    let empty = gz(b"");
    let count = 2 * MAX_ENCODED as usize / empty.len();
    let bytes = [empty.repeat(count), gz(&floats(3))].concat();
    assert!(corrupt(&bytes).contains("no .npy inside"));
}

#[test]
fn an_overwritten_file_is_stale() {
    let file = file_of(&gz(&floats(1000)));
    let source = Arc::new(SourceFile::new(file.try_clone().unwrap()).unwrap());
    file.set_len(0).unwrap();
    match NPY_GZ.open(source) {
        Err(Error::Io(error)) => assert!(SourceFile::is_stale(&error)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_truncation_and_every_flipped_bit_is_an_answer() {
    let whole = gz(&floats(20));
    for len in 0..whole.len() {
        answer(&whole[..len]);
    }
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        answer(&flipped);
    }
}

fn answer(bytes: &[u8]) {
    match NPY_GZ.open(source_of(bytes)) {
        Ok(_) | Err(Error::Corrupt(_)) => {}
        Err(other) => panic!("{other}"),
    }
}
