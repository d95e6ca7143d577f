//! The decoder against the obvious one, and against zlib's verdicts.

use proptest::prelude::*;

use super::{Bits, Decoder, Fault, Input, Output, Stop, slow};

/// Decodes `encoded` in steps of `step` bytes, each from a checkpoint with nothing kept but the
/// window if `resume`. What it yields, and how it ends in the words of `slow`.
fn decode(encoded: &[u8], step: usize, resume: bool, careful: bool) -> slow::Plain {
    let mut input = Input::new(0..encoded.len() as u64);
    let mut decoder = Decoder::new();
    decoder.careful = careful;
    let mut bytes = Vec::new();
    let mut window = Vec::new();
    loop {
        let mut out = Output::new(vec![0xaa; Output::room(window.len(), step)], &window);
        let mut bits = Bits { input: &mut input, source: &encoded };
        let result = decoder.decode(&mut bits, &mut out, step);
        let at = bits.position();
        bytes.extend_from_slice(out.decoded_from(0));
        window = out.window().to_vec();
        let end = match result {
            Ok(Stop::Limit) if resume => {
                let place = decoder.place().expect("it goes on");
                input = Input::new(0..encoded.len() as u64);
                decoder = Decoder::new();
                decoder.careful = careful;
                let mut bits = Bits { input: &mut input, source: &encoded };
                decoder.resume(&mut bits, at, place, at.0 / 8 + 100).expect("it was there");
                continue;
            }
            Ok(Stop::Limit | Stop::Block) => continue,
            Ok(Stop::End) => Ok(at.0),
            Err(Fault::Corrupt { what, .. }) => Err(what),
            Err(Fault::Truncated) => Err("truncated"),
            Err(Fault::Source(error)) => panic!("a slice always has its bytes: {error}"),
        };
        return slow::Plain { bytes, end };
    }
}

/// All ways to decode agree with the obvious one.
fn check(encoded: &[u8]) {
    let slow = slow::decode(encoded);
    for careful in [false, true] {
        for (step, resume) in [(1 << 20, false), (4096, false), (1000, true), (7, true)] {
            // Small steps over large streams take minutes and show nothing new.
            if resume && slow.bytes.len() / step > 2000 {
                continue;
            }
            let found = decode(encoded, step, resume, careful);
            assert_eq!(found.end, slow.end, "step {step}, resume {resume}, careful {careful}");
            assert!(found.bytes == slow.bytes, "step {step}, resume {resume}, careful {careful}");
        }
    }
}

fn deflate(plain: &[u8], level: u32) -> Vec<u8> {
    use std::io::Write;
    let mut encoder =
        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(plain).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

/// Bytes with matches of all lengths and distances.
fn plain() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| (bytes, 0, 0)),
        prop::collection::vec(0u8..4, 0..600).prop_map(|bytes| (bytes, 0, 0)),
        (1usize..64, 3usize..2000).prop_map(|(distance, len)| (Vec::new(), distance, len)),
        (1usize..40_000, 3usize..400).prop_map(|(distance, len)| (Vec::new(), distance, len)),
    ];
    prop::collection::vec(piece, 0..120).prop_map(|pieces| {
        let mut plain = Vec::new();
        for (bytes, distance, len) in pieces {
            plain.extend(bytes);
            if distance > 0 && distance <= plain.len() {
                for _ in 0..len {
                    plain.push(plain[plain.len() - distance]);
                }
            }
        }
        plain
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn encoded_bytes_decode_as_the_obvious_decoder_does(plain in plain(), level in 0u32..10) {
        let encoded = deflate(&plain, level);
        prop_assert!(slow::decode(&encoded).bytes == plain);
        check(&encoded);
    }

    #[test]
    fn damaged_streams_end_where_the_obvious_decoder_does(
        plain in plain(),
        level in 0u32..10,
        flips in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut encoded = deflate(&plain, level);
        for flip in flips {
            let bit = flip.index(encoded.len() * 8);
            encoded[bit / 8] ^= 1 << (bit % 8);
        }
        check(&encoded);
        encoded.truncate(cut.index(encoded.len()));
        check(&encoded);
    }

    #[test]
    fn random_bytes_are_judged_as_the_obvious_decoder_does(
        mut encoded in prop::collection::vec(any::<u8>(), 1..400),
        kind in 0u8..4,
    ) {
        // Half of all first blocks would be stored or invalid, and end at once.
        encoded[0] = encoded[0] & !7 | kind << 1;
        check(&encoded);
    }
}
