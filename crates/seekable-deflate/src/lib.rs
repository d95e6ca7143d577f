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
//! ([`DeflateReader::write_index`], [`SavedIndex`]). It knows nothing of zip, starts no threads, and
//! writes no files.
//!
//! # How it is built
//!
//! `inflate` is the decoder, which can stop after any symbol; `stream` puts gzip framing around
//! it. `index` has the checkpoints. `core` is what the readers of a stream share, `frontier` the
//! first pass, `parallel` what other threads can do for it, `behind` every later one, and
//! `memory` the budget. [`inflate()`] is the decoder alone, for all of a stream at once.
// Allowed in `inflate::fast` alone.
#![deny(unsafe_code)]

mod behind;
mod core;
mod crc;
mod error;
mod flight;
mod frontier;
mod gzip;
mod index;
mod inflate;
mod memory;
mod pack;
mod parallel;
mod reach;
mod reader;
mod saved;
mod source;
mod spacing;
mod sparse;
mod stream;
mod sync;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod waiting;
mod whole;
mod window;

pub use error::{BitOffset, Error};
pub use memory::Memory;
pub use reader::{DeflateReader, Format, Options, Span};
pub use saved::{IndexError, SavedIndex};
pub use source::ReadAt;
pub use spacing::spacing_for;
pub use whole::inflate;

/// Decoded distance aimed at between checkpoints where the ratio is not known, in bytes; and the
/// most that [`spacing_for`] says.
pub const DEFAULT_SPACING: u64 = 1 << 20;
