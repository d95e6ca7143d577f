//! The parser of `.npy.gz` files: finds the size of the member without decoding all of it.
//!
//! The size at the end of a gzip file is that of its last gzip member alone, modulo 2^32. So the
//! size is computed from the header of the `.npy`. A pass over the whole stream checks it later.

use std::{
    cell::RefCell,
    io::{self, Read},
    sync::Arc,
};

use super::{
    Container, Error, Grow, Member, Method, SourceFile,
    decode::Encoded,
    gunzip,
    member::MAX_DEFLATE_RATIO,
    npy::{self, NpyError},
};

/// At most how many encoded bytes are read to find the header. The longest header (1 MiB) grows by
/// less than half when encoded, but a gzip file may start with any number of empty gzip members.
const MAX_ENCODED: u64 = 2 << 20;

/// Inflates the first bytes and reads the `.npy` header.
///
/// # Errors
/// `Corrupt` if the file is not a gzipped `.npy`, or its size cannot be computed; `Io`.
pub(super) fn parse_npy(
    source: Arc<SourceFile>,
    _tail: Vec<u8>,
    _grow: &mut Grow<'_>,
) -> Result<Container, Error> {
    let size = read_header(&source)?.file_size().ok_or_else(|| {
        Error::Corrupt("its dtype holds Python objects, so its size is not known".into())
    })?;
    let encoded_size = source.generation().size;
    if size > encoded_size.saturating_mul(MAX_DEFLATE_RATIO) {
        return Err(Error::Corrupt(format!(
            "its header says {size} bytes, more than {encoded_size} can decode to"
        )));
    }
    let member = Member {
        method: Method::Gzip,
        encrypted: false,
        encoded_size,
        size,
        // None for the whole file: each gzip member has one for its own part, and the decoder
        // compares it.
        crc32: None,
        header_offset: 0,
    };
    Ok(Container::of_one(source, member))
}

/// Inflates only as many bytes as the header has.
fn read_header(source: &SourceFile) -> Result<npy::Header, Error> {
    let read_error = RefCell::new(None);
    let len = source.generation().size.min(MAX_ENCODED);
    let encoded = Encoded::new(source, 0, len, &read_error);
    gunzip::with_decoded(encoded, |decoded| {
        let mut start = Vec::new();
        let mut wanted = npy::MIN_HEADER_LEN;
        loop {
            let filled = fill(decoded, &mut start, wanted);
            if let Some(error) = read_error.take() {
                return Err(Error::Io(error));
            }
            filled.map_err(|error| {
                Error::Corrupt(format!("gzip after {} decoded bytes: {error}", start.len()))
            })?;
            match npy::Header::parse(&start) {
                Ok(header) => return Ok(header),
                Err(NpyError::Truncated { needed }) if needed > wanted && start.len() == wanted => {
                    wanted = needed;
                }
                Err(error) => return Err(Error::Corrupt(format!("no .npy inside: {error}"))),
            }
        }
    })
}

/// Reads until `buf` has `wanted` bytes or the stream ends. A stream that is cut short is not an
/// error here: parsing the bytes before its end may give a better reason.
fn fill(decoded: &mut dyn Read, buf: &mut Vec<u8>, wanted: usize) -> io::Result<()> {
    let missing = (wanted - buf.len()) as u64;
    match decoded.take(missing).read_to_end(buf) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
