//! Windows, as they are and packed.
//!
//! A packed window is deflated, and the bytes that nothing refers to are zero first (`sparse`): so
//! it takes a tenth or less of the 32 KiB. Whether it is right is for the checksum of the span
//! behind it to say.

use std::{io::Write, sync::Arc};

use crate::{
    Format,
    inflate::Output,
    saved::SavedWindow,
    stream::{Pause, Stream},
};

/// Decoded bytes before a checkpoint: all that the matches behind it may refer to. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Window {
    /// As they were decoded.
    Raw(Arc<[u8]>),
    /// In memory.
    Packed(Arc<Packed>),
    /// In a saved index.
    Saved(SavedWindow),
}

/// A deflated window.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) deflated: Box<[u8]>,
    /// Length of the window.
    pub(crate) len: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self::Raw(Arc::default())
    }
}

impl From<&[u8]> for Window {
    fn from(bytes: &[u8]) -> Self {
        Self::Raw(bytes.into())
    }
}

impl From<Vec<u8>> for Window {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Raw(bytes.into())
    }
}

impl Window {
    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> u64 {
        match self {
            Self::Raw(bytes) => bytes.len() as u64,
            Self::Packed(packed) => (packed.deflated.len() + size_of::<Packed>()) as u64,
            Self::Saved(_) => 0,
        }
    }

    /// The bytes, zeros in place of those that nothing refers to; `None` if they are damaged.
    pub(crate) fn unpack(&self) -> Option<Vec<u8>> {
        match self {
            Self::Raw(bytes) => Some(bytes.to_vec()),
            Self::Packed(packed) => inflate(&packed.deflated, packed.len),
            Self::Saved(window) => window.unpack(),
        }
    }
}

impl Packed {
    /// zlib's level that windows are deflated with.
    const LEVEL: u32 = 6;

    /// Packs `window`, of which only the bytes are wanted where `needed` says so; all without it.
    pub(crate) fn new(window: &[u8], needed: Option<&[bool]>) -> Self {
        let mut bytes = window.to_vec();
        for (byte, _) in bytes.iter_mut().zip(needed.unwrap_or(&[])).filter(|(_, needed)| !**needed)
        {
            *byte = 0;
        }
        let level = flate2::Compression::new(Self::LEVEL);
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
        encoder.write_all(&bytes).expect("a vector takes all");
        let deflated = encoder.finish().expect("a vector takes all").into_boxed_slice();
        Self { deflated, len: window.len() }
    }
}

/// The `len` bytes that `deflated` decodes to; `None` if it does not.
pub(crate) fn inflate(deflated: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut stream = Stream::new(Format::Deflate, 0..deflated.len() as u64);
    // One more, to see that there is none.
    let limit = len + 1;
    let mut out = Output::new(vec![0; Output::room(0, limit)], &[]);
    match stream.decode(&deflated, &mut out, limit) {
        Ok(Pause::End) if out.len() == len => {
            let (mut bytes, range) = out.into_parts();
            bytes.truncate(range.end);
            Some(bytes)
        }
        _ => None,
    }
}
