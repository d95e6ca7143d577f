//! What tests of several parts share.

use crate::{Format, Options};

/// A stream of 50 stored blocks, each of a thousand bytes that are its number, in spans of 10,000.
pub(crate) fn fifty_blocks() -> (Vec<u8>, Options) {
    let block = |number| {
        // The last block or not; 1000, and its complement.
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
