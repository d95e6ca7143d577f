//! Decodes a whole member from start to end. Needed for methods that cannot be read at an offset.
//!
//! Memory is bounded for any file: 64 KiB of encoded and 64 KiB of decoded bytes here, and in the
//! decoder
//! - deflate, deflate64: windows of 32 and 64 KiB;
//! - bzip2: blocks of 900 kB, some 4 MB in all;
//! - lzma, xz: the dictionary, which `lzma.rs` limits to 128 MiB; it grows with the decoded bytes;
//! - zstd: the window, which is limited to 128 MiB.

use std::{
    cell::RefCell,
    io::{self, BufRead, Read, Write},
};

use seekable_deflate::ReadAt;

use super::{Error, Member, Method, SourceFile, lzma};

/// Bytes that are read and decoded at a time.
const PIECE: usize = 64 << 10;

/// Decodes `member`, whose encoded bytes start at `offset`, into `out`.
///
/// # Errors
/// `Undecodable`, `Short` or `Checksum` if the bytes do not decode, end early, or have another
/// CRC-32; `Io` if reading them or writing to `out` fails; `Io` with `OutOfMemory` if they need a
/// dictionary of more than `most` bytes and `most` is less than `MAX_DICTIONARY`.
pub(super) fn decode(
    source: &SourceFile,
    member: &Member,
    offset: u64,
    most: u32,
    out: &mut dyn Write,
) -> Result<(), Error> {
    with_decoder(source, member, offset, most, |decoder| {
        let found = copy(decoder, member, member.size, most, out)?;
        match member.crc32 {
            Some(expected) if expected != found => Err(Error::Checksum { found, expected }),
            Some(_) => Ok(()),
            None => expect_end(decoder, member, most),
        }
    })
}

/// The first `len` decoded bytes of `member`, whose encoded bytes start at `offset`, or all if it
/// has fewer. They are not checked.
///
/// # Errors
/// Those of [`decode`], but for a wrong CRC-32.
pub(super) fn start(
    source: &SourceFile,
    member: &Member,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    with_decoder(source, member, offset, lzma::MAX_DICTIONARY, |decoder| {
        copy(decoder, member, len.min(member.size), lzma::MAX_DICTIONARY, &mut bytes).map(drop)
    })?;
    Ok(bytes)
}

/// Calls `read` with the decoder of a member.
fn with_decoder(
    source: &SourceFile,
    member: &Member,
    offset: u64,
    most: u32,
    read: impl FnOnce(&mut dyn Read) -> Result<(), Error>,
) -> Result<(), Error> {
    let read_error = RefCell::new(None);
    let encoded = Encoded::new(source, offset, member.encoded_size, &read_error);
    let unfit = |error| undecodable(member, 0, most, error);
    let result = match member.method {
        // As in zipfile, an empty member is not decoded, so its encoded bytes are not checked.
        _ if member.size == 0 => read(&mut io::empty()),
        Method::Stored => read(&mut { encoded }),
        Method::Deflated => read(&mut flate2::bufread::DeflateDecoder::new(encoded)),
        Method::Lzma => lzma::lzma_reader(encoded, member.size)
            .map_err(unfit)
            .and_then(|mut decoder| read(&mut decoder)),
        Method::Xz => read(&mut lzma::xz_reader(encoded, most)),
        Method::Gzip => read(&mut flate2::bufread::MultiGzDecoder::new(encoded)),
        Method::Deflate64 => read(&mut deflate64::Deflate64Decoder::with_buffer(encoded)),
        Method::Bzip2 => read(&mut bzip2::bufread::BzDecoder::new(encoded)),
        Method::Zstd => {
            zstd_reader(encoded).map_err(unfit).and_then(|mut decoder| read(&mut decoder))
        }
        Method::Other(method) => Err(Error::UnsupportedMethod(method)),
    };
    // Decoders wrap and reword the errors of their input, so the original error is returned
    // instead.
    match read_error.take() {
        Some(error) => Err(Error::Io(error)),
        None => result,
    }
}

fn zstd_reader<R: BufRead>(encoded: R) -> io::Result<impl Read> {
    let mut decoder = zstd::Decoder::with_buffer(encoded)?;
    decoder.window_log_max(lzma::MAX_DICTIONARY.ilog2())?;
    Ok(decoder)
}

/// Size in bytes of the dictionary or window that the decoder of `member` needs, according to the
/// start of its encoded bytes. Later blocks may need more.
///
/// # Errors
/// When the start of the member cannot be read.
pub(super) fn dictionary(source: &SourceFile, member: &Member, offset: u64) -> io::Result<u32> {
    let mut start = vec![0; member.encoded_size.min(lzma::DICTIONARY_IS_WITHIN) as usize];
    Ok(match member.method {
        Method::Lzma => {
            source.read_exact_at(&mut start, offset)?;
            lzma::lzma_dictionary(&start)
        }
        Method::Xz => {
            source.read_exact_at(&mut start, offset)?;
            lzma::xz_dictionary(&start)
        }
        Method::Zstd => lzma::MAX_DICTIONARY,
        _ => 0,
    })
}

/// Copies exactly `size` bytes from `decoder` to `out`, and returns their CRC-32. `most` is the
/// limit of the decoder's dictionary in bytes.
fn copy(
    decoder: &mut dyn Read,
    member: &Member,
    size: u64,
    most: u32,
    out: &mut dyn Write,
) -> Result<u32, Error> {
    let mut piece = vec![0; PIECE.min(usize::try_from(size).unwrap_or(PIECE))];
    let mut crc = crc32fast::Hasher::new();
    let mut done = 0;
    while done < size {
        let wanted = (PIECE as u64).min(size - done) as usize;
        let len = match decoder.read(&mut piece[..wanted]) {
            Ok(0) => return Err(Error::Short { decoded: done, size: member.size }),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(undecodable(member, done, most, error)),
        };
        crc.update(&piece[..len]);
        out.write_all(&piece[..len])?;
        done += len as u64;
    }
    Ok(crc.finalize())
}

/// Reads on to the end of a gzip file: there the decoder compares the CRC-32.
fn expect_end(decoder: &mut dyn Read, member: &Member, most: u32) -> Result<(), Error> {
    match io::copy(decoder, &mut io::sink()) {
        Ok(0) => Ok(()),
        Ok(more) => Err(Error::Corrupt(format!(
            "it decodes to {more} bytes more than its header says, {}",
            member.size
        ))),
        Err(error) => Err(undecodable(member, member.size, most, error)),
    }
}

fn undecodable(member: &Member, decoded: u64, most: u32, cause: io::Error) -> Error {
    if cause.kind() == io::ErrorKind::OutOfMemory && most < lzma::MAX_DICTIONARY {
        return Error::Io(cause);
    }
    Error::Undecodable { method: member.method, decoded, cause }
}

/// A reader of a range of a file. Stores the error of a failed read in `failure`, because decoders
/// do not return it unchanged.
#[derive(Debug)]
struct Encoded<'a> {
    source: &'a SourceFile,
    /// Start of the part that has not been read into `piece`, in bytes from the start of the file.
    offset: u64,
    left: u64,
    piece: Vec<u8>,
    /// How many bytes of `piece` have been consumed.
    consumed: usize,
    failure: &'a RefCell<Option<io::Error>>,
}

impl<'a> Encoded<'a> {
    fn new(
        source: &'a SourceFile,
        offset: u64,
        len: u64,
        failure: &'a RefCell<Option<io::Error>>,
    ) -> Self {
        Self { source, offset, left: len, piece: Vec::new(), consumed: 0, failure }
    }
}

impl BufRead for Encoded<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.piece.len() && self.left > 0 {
            let len = (PIECE as u64).min(self.left);
            self.piece.resize(len as usize, 0);
            self.consumed = 0;
            if let Err(error) = self.source.read_exact_at(&mut self.piece, self.offset) {
                self.piece.clear();
                let stand_in = io::Error::new(error.kind(), error.to_string());
                self.failure.replace(Some(error));
                return Err(stand_in);
            }
            self.offset += len;
            self.left -= len;
        }
        Ok(&self.piece[self.consumed..])
    }

    fn consume(&mut self, len: usize) {
        self.consumed += len;
    }
}

impl Read for Encoded<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let len = available.len().min(buf.len());
        buf[..len].copy_from_slice(&available[..len]);
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
