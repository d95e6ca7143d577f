//! Random access into a DEFLATE stream (RFC 1951), bare or in gzip framing (RFC 1952).
#![forbid(unsafe_code)]

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
mod reader;
mod source;
mod stream;

pub use error::{BitOffset, Error};
pub use memory::Memory;
pub use reader::{DeflateReader, Format, Options, Span};
pub use source::ReadAt;

/// Decoded distance aimed at between checkpoints, in bytes.
pub const DEFAULT_SPACING: u64 = 1 << 20;
