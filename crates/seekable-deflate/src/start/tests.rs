use std::io::Write;

use flate2::{Compression, GzBuilder, write::GzEncoder};

use super::*;

fn member(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A source whose bytes must be read: `as_bytes` gives none.
struct Unlent(Vec<u8>);

impl ReadAt for Unlent {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

#[test]
fn one_decoder_decodes_the_starts_of_many_streams() {
    let long: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut named =
        GzBuilder::new().filename("a name").extra([7; 300]).write(Vec::new(), Compression::best());
    named.write_all(&long).unwrap();
    let members = [&b"a"[..], b"", b"bc"].map(member).concat();
    let mut decoder = StartDecoder::new(Format::Gzip);
    for (encoded, plain) in [
        (members, &b"abc"[..]),
        (named.finish().unwrap(), &long),
        (member(b""), b""),
        (member(&long), &long),
    ] {
        let range = 0..encoded.len() as u64;
        let source = Unlent(encoded);
        for len in [0, 1, 3, 5000, 50, plain.len(), plain.len() + 1] {
            let (decoded, result) = decoder.decode(&source, range.clone(), len);
            assert!(result.is_ok());
            assert!(decoded.len() >= len.min(plain.len()) && decoded.len() < len + 258);
            assert!(plain.starts_with(decoded));
        }
    }
}

#[test]
fn a_fault_comes_with_the_bytes_before_it() {
    let mut decoder = StartDecoder::new(Format::Gzip);
    let encoded = [member(&[7; 1000]), b"more bytes that are no gzip member".to_vec()].concat();
    let range = 0..encoded.len() as u64;
    let (decoded, result) = decoder.decode(&encoded, range.clone(), 1000);
    assert_eq!((decoded, result.is_ok()), (&[7; 1000][..], true));
    let (decoded, result) = decoder.decode(&encoded, range, 1001);
    assert_eq!(decoded, [7; 1000]);
    assert!(matches!(result, Err(Error::Corrupt { what: "not a gzip member", .. })));
    let (decoded, result) = decoder.decode(&encoded, 0..15, 1000);
    assert!(decoded.len() < 1000 && decoded.iter().all(|byte| *byte == 7));
    assert!(matches!(result, Err(Error::Truncated { .. })));
}
