//! A DEFLATE decoder (RFC 1951) that can stop after any symbol and resume there.
//!
//! It rejects the same malformed codes as zlib, with the same messages. The fast loops are in
//! `fast`, which may be replaced as a whole: `decoder.rs` decodes any stream without them, symbol
//! by symbol. In tests, both must agree with the simple decoder in `tests/slow.rs`.

mod block;
mod decoder;
#[allow(unsafe_code)]
mod fast;
mod huffman;
mod input;
mod matches;
mod output;
mod pair;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use block::check_header;
#[cfg(test)]
pub(crate) use decoder::Loops;
pub(crate) use decoder::{Decoder, Place, Stop};
pub(crate) use fast::Unit;
pub(crate) use input::{Bits, Input};
pub(crate) use matches::Matches;
pub(crate) use output::{MARGIN, Output};
pub(crate) use pair::{Side, decode_pair};

use std::sync::Arc;

use crate::{BitOffset, Error};

/// How far back a match may reach, in bytes (RFC 1951, section 2).
pub(crate) const HISTORY: usize = 32 << 10;

/// A match is at most this long, in bytes.
pub(crate) const MAX_MATCH: usize = 258;

/// The most bytes that one byte of a DEFLATE stream can decode to: four matches of two bits each.
pub(crate) const MAX_RATIO: u64 = 4 * MAX_MATCH as u64;

/// Why decoding cannot go on. The bytes decoded before the fault are valid.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The encoded bytes are not DEFLATE, or not gzip.
    Corrupt { at: BitOffset, what: &'static str },
    /// The encoded bytes end too early.
    Truncated,
    /// The encoded bytes cannot be read. The state of the decoder is lost: resume at a checkpoint.
    Source(std::io::Error),
}

impl Fault {
    /// The error that a reader gets. `decoded` is the number of bytes before the fault.
    pub(crate) fn at(self, decoded: u64) -> Error {
        match self {
            Self::Corrupt { at, what } => Error::Corrupt { at, what },
            Self::Truncated => Error::Truncated { decoded },
            Self::Source(error) => Error::Source(Arc::new(error)),
        }
    }
}
