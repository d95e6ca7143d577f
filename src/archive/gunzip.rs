//! Decodes the first bytes of a gzip file, to read the header of a `.npy.gz`.
//!
//! Each thread keeps one inflate state. The gzip decoders of `flate2` allocate 43 KiB each and free
//! them after the header. Small allocations that live longer then split the freed memory, so that
//! it cannot be reused: after listing 30,000 files, 203 MiB were resident, of which 25 MiB were in
//! use.

use std::{
    cell::RefCell,
    io::{self, BufRead, Read},
};

use flate2::{Decompress, FlushDecompress, Status};

thread_local! {
    /// Inflates raw DEFLATE streams.
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Calls `work` with a reader of the decoded bytes of the gzip file `encoded`. The reader does not
/// compare the CRC-32 of gzip members; the engine does that when it decodes them to their ends.
pub(super) fn with_decoded<R: BufRead, T>(encoded: R, work: impl FnOnce(&mut dyn Read) -> T) -> T {
    INFLATE.with_borrow_mut(|inflate| work(&mut Gunzip { encoded, inflate, place: Place::Before }))
}

struct Gunzip<'a, R> {
    encoded: R,
    inflate: &'a mut Decompress,
    place: Place,
}

/// The position of the reader in the file.
enum Place {
    /// Before the first gzip member.
    Before,
    InMember,
    /// After a gzip member. Others may follow.
    After,
}

impl<R: BufRead> Read for Gunzip<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while !buf.is_empty() {
            if !matches!(self.place, Place::InMember) {
                // After a gzip member, bytes that do not start another one are ignored (rule 2.7).
                match read_header(&mut self.encoded) {
                    Ok(()) => {}
                    Err(_) if matches!(self.place, Place::After) => return Ok(0),
                    Err(error) => return Err(error),
                }
                self.inflate.reset(false);
                self.place = Place::InMember;
            }
            let encoded = self.encoded.fill_buf()?;
            if encoded.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let before = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(encoded, buf, FlushDecompress::None)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let consumed = (self.inflate.total_in() - before.0) as usize;
            let made = (self.inflate.total_out() - before.1) as usize;
            self.encoded.consume(consumed);
            if matches!(status, Status::StreamEnd) {
                skip(&mut self.encoded, TRAILER_LEN)?;
                self.place = Place::After;
            }
            if made > 0 {
                return Ok(made);
            }
            if consumed == 0 && matches!(status, Status::BufError) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the stream does not go on",
                ));
            }
        }
        Ok(0)
    }
}

/// Length in bytes of a gzip member's trailer: CRC-32 and length.
const TRAILER_LEN: u64 = 8;

/// Flags in the header of a gzip member (RFC 1952, 2.3.1).
const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

/// Reads and checks the header of a gzip member.
fn read_header(encoded: &mut impl BufRead) -> io::Result<()> {
    let mut header = Header { encoded, crc: crc32fast::Hasher::new() };
    let start = header.bytes::<10>()?;
    let flags = start[3];
    if start[..3] != [0x1f, 0x8b, 8] || flags & RESERVED != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "invalid gzip header"));
    }
    if flags & FEXTRA != 0 {
        let len = u16::from_le_bytes(header.bytes()?);
        (0..len).try_for_each(|_| header.bytes::<1>().map(drop))?;
    }
    for flag in [FNAME, FCOMMENT] {
        if flags & flag != 0 {
            while header.bytes()? != [0] {}
        }
    }
    if flags & FHCRC != 0 {
        let crc = header.crc.clone().finalize() as u16;
        if u16::from_le_bytes(header.bytes()?) != crc {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "wrong gzip header checksum"));
        }
    }
    Ok(())
}

/// Reads the header of a gzip member; holds the CRC of the bytes read so far.
struct Header<'a, R> {
    encoded: &'a mut R,
    crc: crc32fast::Hasher,
}

impl<R: BufRead> Header<'_, R> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.encoded.read_exact(&mut bytes)?;
        self.crc.update(&bytes);
        Ok(bytes)
    }
}

fn skip(encoded: &mut impl BufRead, len: u64) -> io::Result<()> {
    let skipped = io::copy(&mut encoded.take(len), &mut io::sink())?;
    if skipped == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, GzBuilder, bufread::MultiGzDecoder, write::GzEncoder};

    use super::*;

    fn member(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("a Vec takes all");
        encoder.finish().expect("a Vec takes all")
    }

    fn decoded(encoded: &[u8]) -> (Vec<u8>, Option<io::ErrorKind>) {
        // Small pieces, so that headers and trailers cross the ends of pieces.
        let encoded = io::BufReader::with_capacity(7, encoded);
        with_decoded(encoded, |decoded| {
            let mut bytes = Vec::new();
            let result = decoded.read_to_end(&mut bytes);
            (bytes, result.err().map(|error| error.kind()))
        })
    }

    #[test]
    fn members_decode_as_those_of_flate2() {
        let long: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut named = GzBuilder::new()
            .filename("a name")
            .comment("a comment")
            .extra([7; 300])
            .write(Vec::new(), Compression::best());
        named.write_all(&long).expect("a Vec takes all");
        let named = named.finish().expect("a Vec takes all");
        for encoded in [
            member(b""),
            member(b"abc"),
            member(&long),
            named.clone(),
            [member(b""), member(b"a"), named, member(b""), member(b"z")].concat(),
        ] {
            let mut wanted = Vec::new();
            MultiGzDecoder::new(&*encoded).read_to_end(&mut wanted).expect("valid");
            assert_eq!(decoded(&encoded), (wanted, None));
        }
    }

    #[test]
    fn what_follows_the_members_is_left_alone() {
        let members = [member(b"abc"), member(b"def")].concat();
        for rest in [&b"x"[..], &[0; 40], b"\x1f\x8b\x08", b"\x1f\x8b\x08\xff......"] {
            assert_eq!(decoded(&[&members, rest].concat()), (b"abcdef".to_vec(), None));
        }
    }

    #[test]
    fn what_is_cut_short_or_not_gzip_is_an_error_after_the_bytes_before_it() {
        let encoded = member(&[7; 1000]);
        for len in 0..encoded.len() {
            let (bytes, error) = decoded(&encoded[..len]);
            assert_eq!(error, Some(io::ErrorKind::UnexpectedEof), "{len} bytes");
            assert!(bytes.iter().all(|byte| *byte == 7));
        }
        for bad in [&b"PK\x03\x04......"[..], b"\x1f\x8b\x09.......", b"\x1f\x8b\x08\xe0......"] {
            assert_eq!(decoded(bad), (Vec::new(), Some(io::ErrorKind::InvalidData)));
        }
        let mut checked = encoded.clone();
        checked[3] |= FHCRC;
        let crc = crc32fast::hash(&checked[..10]) as u16;
        let with = |crc: u16| [&checked[..10], &crc.to_le_bytes(), &checked[10..]].concat();
        assert_eq!(decoded(&with(crc)), (vec![7; 1000], None));
        assert_eq!(decoded(&with(crc ^ 1)), (Vec::new(), Some(io::ErrorKind::InvalidData)));
        let damaged = [&encoded[..10], &[0xff; 20]].concat();
        assert_eq!(decoded(&damaged).1, Some(io::ErrorKind::InvalidData));
    }
}
