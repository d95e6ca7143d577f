//! Decodes a whole stream at once, for callers that want all of it.
//!
//! Makes nothing that only random access needs: no checkpoints, no checksum, no spans.

use crate::{
    BitOffset, Error,
    inflate::{Bits, Decoder, Input, Output, Stop},
};

/// Decodes a DEFLATE stream, and ignores what follows it. Afterwards `decoded` has the decoded
/// bytes and no others. Its earlier content is lost, but its memory is used again, so pass the same
/// vector to many calls.
///
/// Returns how many bytes of `encoded` the stream takes.
///
/// ```
/// let mut decoded = Vec::new();
/// // A stored block of two bytes.
/// let used = seekable_deflate::inflate(&[1, 2, 0, 0xfd, 0xff, b'h', b'i'], &mut decoded)?;
/// assert_eq!((used, &decoded[..]), (7, &b"hi"[..]));
/// # Ok::<(), seekable_deflate::Error>(())
/// ```
///
/// # Errors
/// `Corrupt` or `Truncated`. The bytes before the fault are then in `decoded`.
pub fn inflate(encoded: &[u8], decoded: &mut Vec<u8>) -> Result<usize, Error> {
    let source = encoded;
    let mut input = Input::new(0..encoded.len() as u64);
    let mut bits = Bits::new(&mut input, &source);
    let mut decoder = Decoder::new();
    // At least one byte more than the earlier content, so that a stream of the same length ends
    // before the limit. The limit is not the capacity, because all bytes up to the limit are
    // initialised first, in each call.
    let mut limit = 1 + decoded.len().max(4 * encoded.len());
    let mut out = Output::new(std::mem::take(decoded), &[]);
    let result = loop {
        out.grow(limit);
        match decoder.decode(&mut bits, &mut out, limit) {
            Ok(Stop::Limit | Stop::Block) => limit *= 2,
            Ok(Stop::End) => {
                let BitOffset(end) = bits.position();
                // An offset in a slice, so it fits.
                break Ok(end.div_ceil(8) as usize);
            }
            Err(fault) => break Err(fault.at(out.len() as u64)),
        }
    };
    let (bytes, range) = out.into_parts();
    *decoded = bytes;
    decoded.truncate(range.end);
    result
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_in_the_buffer_does_not_matter_nor_what_follows_the_stream() {
        let plain: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(&plain).unwrap();
        let mut encoded = encoder.finish().unwrap();
        let len = encoded.len();
        encoded.extend([7; 100]);
        for mut decoded in [Vec::new(), vec![1; 10], vec![1; 3_000_000], Vec::with_capacity(900)] {
            assert_eq!(inflate(&encoded, &mut decoded).unwrap(), len);
            assert!(decoded == plain);
        }
    }

    #[test]
    fn a_stream_of_a_thousand_to_one_fits() {
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(&[0; 5_000_000]).unwrap();
        let mut decoded = Vec::new();
        inflate(&encoder.finish().unwrap(), &mut decoded).unwrap();
        assert!(decoded == [0; 5_000_000]);
    }

    #[test]
    fn no_bytes_at_all_are_a_stream_that_is_cut_off() {
        let error = inflate(&[], &mut Vec::new()).unwrap_err();
        assert!(matches!(error, Error::Truncated { decoded: 0 }));
    }

    #[test]
    fn a_buffer_that_was_decoded_into_is_long_enough_for_as_much_again() {
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(&[0; 5_000_000]).unwrap();
        let encoded = encoder.finish().unwrap();
        let mut decoded = Vec::with_capacity(5_000_000 + Output::room(0, 1));
        decoded.resize(5_000_000, 1);
        let capacity = decoded.capacity();
        inflate(&encoded, &mut decoded).unwrap();
        assert_eq!((decoded.len(), decoded.capacity()), (5_000_000, capacity));
    }

    #[test]
    fn bytes_before_a_fault_are_there() {
        // A stored block, followed by a block of type 3 or by nothing.
        for (rest, corrupt) in [(&[7][..], true), (&[], false)] {
            let encoded = [&[0, 2, 0, 0xfd, 0xff, b'h', b'i'][..], rest].concat();
            let mut decoded = vec![9; 9];
            let error = inflate(&encoded, &mut decoded).unwrap_err();
            assert_eq!(matches!(error, Error::Corrupt { .. }), corrupt);
            assert_eq!(matches!(error, Error::Truncated { decoded: 2 }), !corrupt);
            assert_eq!(decoded, b"hi");
        }
    }
}
