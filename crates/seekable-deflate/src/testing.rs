//! Test data that several modules use.

use crate::{Format, Options};

/// A stream of 50 stored blocks. Each block has 1000 bytes whose value is the number of the block.
/// Spans have 10,000 bytes.
pub(crate) fn fifty_blocks() -> (Vec<u8>, Options) {
    let block = |number| {
        // A bit that marks the last block; then the length 1000, and its complement.
        let header = [u8::from(number == 49), 0xe8, 3, 0x17, 0xfc];
        header.into_iter().chain([number; 1000])
    };
    let options = Options {
        format: Format::Deflate,
        spacing: 10_000,
        decoded_len: Some(50_000),
        crc32: None,
    };
    ((0..50).flat_map(block).collect(), options)
}
