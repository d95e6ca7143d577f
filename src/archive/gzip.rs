//! A gzipped `.npy`: how large it is, found out without decoding it.
//!
//! The size field at the end of a gzip file is the size modulo 2^32, and that of its last member
//! alone; the header of the `.npy` tells all. Whether that is true is found out by whoever decodes
//! to the end.

use std::{
    borrow::Cow,
    cell::RefCell,
    io::{self, Read},
    sync::Arc,
};

use super::{
    Error, Identity, SourceFile,
    decode::Encoded,
    gunzip,
    npy::{self, NpyError},
};

/// How many bytes of the file are read at most to find the header: the longest one (1 MiB) does
/// not grow by half when encoded, but a gzip file may start with any number of empty members.
const MAX_ENCODED: u64 = 2 << 20;

/// The most decoded bytes that DEFLATE makes of one byte.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// Bytes at the start and at the end of the file that tell what it is.
const IDENTITY_HEAD: u64 = 4 << 10;
const IDENTITY_TAIL: u64 = 64 << 10;

/// A `.npy.gz` whose header has been read.
#[derive(Debug)]
pub struct NpyGz {
    source: Arc<SourceFile>,
    /// `None` if it is a long one: then it is read again when it is asked for.
    header: Option<npy::Header>,
    size: u64,
}

/// The longest dtype that is kept, in bytes. All but structured ones are shorter.
const KEPT_DESCR: usize = 64;

impl NpyGz {
    /// Inflates the first bytes and reads the `.npy` header.
    ///
    /// # Errors
    /// `Corrupt` when it is no gzipped `.npy` with a size that can be known, `Io`.
    pub fn open(source: Arc<SourceFile>) -> Result<Self, Error> {
        let header = read_header(&source)?;
        let size = header.file_size().ok_or_else(|| {
            Error::Corrupt("its dtype holds Python objects, so its size is not known".into())
        })?;
        let encoded_size = source.generation().size;
        if size > encoded_size.saturating_mul(MAX_DEFLATE_RATIO) {
            return Err(Error::Corrupt(format!(
                "its header tells of {size} bytes, more than {encoded_size} can decode to"
            )));
        }
        let header = Some(header).filter(|header| header.descr.len() <= KEPT_DESCR);
        Ok(Self { source, header, size })
    }

    /// The file.
    pub fn source(&self) -> &Arc<SourceFile> {
        &self.source
    }

    /// What the header says.
    ///
    /// # Errors
    /// As `open`, where it has to be read again.
    pub fn header(&self) -> Result<Cow<'_, npy::Header>, Error> {
        match &self.header {
            Some(header) => Ok(Cow::Borrowed(header)),
            None => read_header(&self.source).map(Cow::Owned),
        }
    }

    /// What the file is, wherever it lies.
    ///
    /// # Errors
    /// When its start or its end cannot be read.
    pub fn identity(&self) -> io::Result<Identity> {
        let size = self.source.generation().size;
        let head = 0..size.min(IDENTITY_HEAD);
        let tail = size.saturating_sub(IDENTITY_TAIL).max(head.end)..size;
        Ok(Identity::of(&self.source, [head, tail])?.with_fraction(&self.source))
    }

    /// Size of the decoded file in bytes, by its header.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Inflates as many bytes as the header needs, and no more.
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

/// Reads until `buf` has `wanted` bytes or the stream ends. The error of an end that comes too
/// early is kept back, since the bytes before it may be enough to say what is wrong.
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
