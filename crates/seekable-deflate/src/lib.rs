//! Random access into a DEFLATE stream (RFC 1951), bare or in gzip framing (RFC 1952).
//!
//! A stream is decoded once from its start, as far as reads ask for. That leaves checkpoints,
//! from which a later read decodes one span at most. Readers are shared between threads; decoded
//! spans and checkpoints of all readers of one [`Memory`] stay within its byte budget.
//!
//! ```
//! use std::io::Write;
//! use seekable_deflate::{DEFAULT_SPACING, DeflateReader, Format, Memory, Options};
//!
//! let mut encoder =
//!     flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
//! encoder.write_all(&[7; 1_000_000])?;
//! encoder.write_all(b"needle")?;
//! let encoded = encoder.finish()?;
//!
//! let range = 0..encoded.len() as u64;
//! let (format, spacing) = (Format::Deflate, DEFAULT_SPACING);
//! let options = Options { format, spacing, decoded_len: None, crc32: None };
//! let reader = DeflateReader::new(encoded, range, options, Memory::new(64 << 20));
//!
//! let mut bytes = [0; 100];
//! let count = reader.read_at(&mut bytes, 1_000_000)?;
//! assert_eq!(&bytes[..count], b"needle");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it knows of a stream can be written and gone on from by a later reader
//! ([`DeflateReader::write_index`], [`SavedIndex`]). It knows nothing of zip, starts no threads,
//! and writes no files.
//!
//! # How it is built
//!
//! Each room uses those before it in this list, never those after it:
//!
//! - `inflate` is the decoder, which can stop after any symbol. `stream` adds gzip framing.
//! - `saved` is the format of a saved index, `windows` what is held before each checkpoint, and
//!   `index` the checkpoints.
//! - `memory` is the budget, the cache of spans, and what is used again.
//! - `speculation` is what other threads can decode for a first pass.
//! - `core` is what the readers of a stream share: what is known of it (`state`), the first pass
//!   (`frontier`), every later one (`spans`), who waits for which span (`flight`), packing windows,
//!   and adopting and writing saved indexes.
//!
//! [`inflate()`] is the decoder alone, for all of a stream at once.
// Allowed in `inflate::fast` alone.
#![deny(unsafe_code)]
#![deny(unreachable_pub)]
#![warn(clippy::must_use_candidate)]

mod core;
mod crc;
mod error;
mod gzip;
mod index;
mod inflate;
mod memory;
mod options;
mod reader;
mod saved;
mod source;
mod spacing;
mod span;
mod speculation;
mod stream;
mod sync;
#[cfg(test)]
mod testing;
mod whole;
mod windows;

pub use core::StreamVerdict;
use error::ByteOffset;
pub use error::{BitOffset, Error};
pub use memory::Memory;
pub use options::{Format, Options};
pub use reader::DeflateReader;
pub use saved::{IndexError, SavedIndex};
pub use source::ReadAt;
pub use spacing::spacing_for;
pub use span::Span;
pub use whole::inflate;

/// Decoded distance aimed at between checkpoints where the ratio is not known, in bytes; and the
/// most that [`spacing_for`] says.
pub const DEFAULT_SPACING: u64 = 1 << 20;
