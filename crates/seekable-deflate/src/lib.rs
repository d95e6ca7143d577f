//! Random access into a DEFLATE stream (RFC 1951), bare or in gzip framing (RFC 1952).
//!
//! A stream is decoded once from its start, as far as reads ask for. This first pass leaves
//! checkpoints, and a later read decodes only the spans that it needs, each from its checkpoint.
//! Threads can share a reader. The decoded spans and checkpoints of all readers of one [`Memory`]
//! stay within its byte budget.
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
//! A reader can write an index of what it has decoded, and a later reader can continue from that
//! index ([`DeflateReader::write_index`], [`SavedIndex`]). This crate knows nothing of zip, starts
//! no threads, and writes no files.
//!
//! # How it is built
//!
//! Each part uses the parts before it in this list, never those after it:
//!
//! - `inflate` is the decoder, which can stop after any symbol. `stream` adds gzip framing.
//! - `saved` is the format of a saved index, `windows` are the decoded bytes before each
//!   checkpoint, and `index` holds the checkpoints.
//! - `memory` is the budget, the cache of spans, and the buffers that are used again.
//! - `speculation` lets other threads decode parts of a first pass.
//! - `core` is the state of a stream (`state`), its first pass (`frontier`), decoding of known
//!   spans (`spans`), packing of windows, and adopting and writing saved indexes.
//! - `reader` is the interface: who waits for which span, and the works to be run for them.
//!
//! [`inflate()`] decodes a whole stream at once, and [`StartDecoder`] the start of one, both
//! without a reader.
// Unsafe code is allowed only in `inflate::fast`.
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
mod start;
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
pub use reader::{Answers, DeflateReader, Outcome, Progress, Work};
pub use saved::{IndexError, SavedIndex};
pub use source::ReadAt;
pub use spacing::spacing_for;
pub use span::Span;
pub use start::StartDecoder;
pub use whole::inflate;

/// Decoded bytes aimed at between two checkpoints if the ratio of the stream is not known. Also the
/// largest distance that [`spacing_for`] returns.
pub const DEFAULT_SPACING: u64 = 1 << 20;
