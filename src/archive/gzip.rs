//! The parser of `.npy.gz` files: finds the size of the member without decoding all of it.
//!
//! The size at the end of a gzip file is that of its last gzip member alone, modulo 2^32. So the
//! size is computed from the header of the `.npy`. A pass over the whole stream checks it later.

use std::{cell::RefCell, sync::Arc};

use seekable_deflate::{Error::Corrupt, Format, StartDecoder};

use super::{
    Container, Error, Grow, Member, Method, SourceFile,
    member::MAX_DEFLATE_RATIO,
    npy::{self, NpyError},
};

thread_local! {
    /// Each thread keeps its decoder. A decoder for each file would allocate its tables and free
    /// them after the header. Small allocations that live longer then split the freed memory, so
    /// that it cannot be reused: after listing 30,000 files, 203 MiB were resident, of which 25 MiB
    /// were in use.
    static START: RefCell<StartDecoder> = RefCell::new(StartDecoder::new(Format::Gzip));
}

/// How many bytes are decoded first. np.save writes a header of 128 bytes, or a longer one for a
/// dtype with fields.
const USUAL_HEADER_LEN: usize = 128;

/// Most encoded bytes that are read to find the header. The longest header (1 MiB) grows by less
/// than half when encoded, but a gzip file may start with any number of empty gzip members.
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

/// Decodes only the bytes of the header, or a few more.
fn read_header(source: &SourceFile) -> Result<npy::Header, Error> {
    let encoded = 0..source.generation().size.min(MAX_ENCODED);
    let mut wanted = USUAL_HEADER_LEN;
    START.with_borrow_mut(|decoder| {
        loop {
            let (start, result) = decoder.decode(source, encoded.clone(), wanted);
            match (npy::Header::parse(start), result) {
                (Ok(header), _) => return Ok(header),
                (_, Err(seekable_deflate::Error::Source(error))) => {
                    let kind = error.kind();
                    return Err(Error::Io(Arc::into_inner(error).unwrap_or_else(|| kind.into())));
                }
                (Err(NpyError::Truncated { needed }), Ok(())) if start.len() >= wanted => {
                    wanted = needed;
                }
                (Err(NpyError::Truncated { .. }), Err(error @ Corrupt { .. })) => {
                    return Err(Error::Corrupt(format!(
                        "gzip after {} decoded bytes: {error}",
                        start.len()
                    )));
                }
                (Err(error), _) => return Err(Error::Corrupt(format!("no .npy inside: {error}"))),
            }
        }
    })
}

#[cfg(test)]
mod tests;
