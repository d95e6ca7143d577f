//! Tests that the decoder agrees with the simple one in `tests/slow.rs`, which gives zlib's errors.

pub(crate) mod slow;
pub(super) mod synthetic;

use proptest::prelude::*;

use super::{Bits, Decoder, Fault, Input, Loops, Output, Place, Stop};
use crate::{BitOffset, ReadAt};
use synthetic::Random;

/// Decodes `encoded` in steps of `step` bytes. With `resume`, each step has a new decoder that
/// resumes at the place and with the window where the step before ended.
fn decode(encoded: &[u8], step: usize, resume: bool, loops: Loops) -> slow::Plain {
    let mut input = Input::new(0..encoded.len() as u64);
    let mut decoder = Decoder::new().with(loops);
    let mut bytes = Vec::new();
    let mut window = Vec::new();
    loop {
        let mut out = Output::new(vec![0xaa; Output::room(window.len(), step)], &window);
        let mut bits = Bits::new(&mut input, &encoded);
        let result = decoder.decode(&mut bits, &mut out, step);
        let at = bits.position();
        bytes.extend_from_slice(out.decoded_from(0));
        window = out.window().to_vec();
        let end = match result {
            Ok(Stop::Limit) if resume => {
                let place = decoder.place().expect("it goes on");
                input = Input::new(0..encoded.len() as u64);
                decoder = Decoder::new().with(loops);
                let mut bits = Bits::new(&mut input, &encoded);
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

/// A source whose bytes must be read: `as_bytes` gives none.
pub(super) struct Unlent<'a>(pub(super) &'a [u8]);

impl ReadAt for Unlent<'_> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

#[test]
fn a_checkpoint_within_a_byte_of_what_is_now_a_stored_block_goes_on_at_the_next_byte() {
    // A final stored block of 4 bytes, and one byte after it.
    let encoded: &[u8] = &[1, 4, 0, !4, !0, b'a', b'b', b'c', b'd', b'e'];
    let sources: [&dyn ReadAt; 2] = [&encoded, &Unlent(encoded)];
    let places = [Place::Coded { header: BitOffset(0) }, Place::Stored { left: 4, last: true }];
    for (source, place) in sources.into_iter().flat_map(|source| places.map(|at| (source, at))) {
        let mut input = Input::new(0..encoded.len() as u64);
        let mut bits = Bits::new(&mut input, source);
        let mut decoder = Decoder::new();
        decoder.resume(&mut bits, BitOffset(5 * 8 + 3), place, u64::MAX).unwrap();
        let mut out = Output::new(vec![0; Output::room(0, 100)], &[]);
        assert_eq!(decoder.decode(&mut bits, &mut out, 100).unwrap(), Stop::End);
        assert_eq!(out.decoded_from(0), b"bcde");
    }
}

/// Decodes `encoded`, read in chunks, with pauses at random limits. Returns for each pause the
/// offset of the next bit and the number of bytes decoded since the pause before.
fn decode_with_pauses(
    encoded: &[u8],
    loops: Loops,
    random: &mut Random,
) -> (slow::Plain, Vec<(u64, usize)>) {
    let source = Unlent(encoded);
    let mut pauses = Vec::new();
    let mut input = Input::new(0..encoded.len() as u64);
    let mut decoder = Decoder::new().with(loops);
    let mut bytes = Vec::new();
    let mut window = Vec::new();
    loop {
        let longest = random.pick(&[3, 700, 70_000, 700_000]);
        let step = 1 + random.below(longest);
        let mut out = Output::new(vec![0xaa; Output::room(window.len(), step)], &window);
        let mut bits = Bits::new(&mut input, &source);
        let result = decoder.decode(&mut bits, &mut out, step);
        assert!(out.len() < step + 258, "it went past the limit");
        let at = bits.position();
        pauses.push((at.0, out.len()));
        bytes.extend_from_slice(out.decoded_from(0));
        window = out.window().to_vec();
        let end = match result {
            Ok(Stop::Limit | Stop::Block) => continue,
            Ok(Stop::End) => Ok(at.0),
            Err(Fault::Corrupt { what, .. }) => Err(what),
            Err(Fault::Truncated) => Err("truncated"),
            Err(Fault::Source(error)) => panic!("a slice always has its bytes: {error}"),
        };
        return (slow::Plain { bytes, end }, pauses);
    }
}

/// Checks that the fast loops, with and without AVX2, agree with the simple decoder at any pauses,
/// and that they pause at the same symbols as the careful loop: a span must end at the same symbol
/// each time it is decoded.
fn check_with_pauses(encoded: &[u8], random: &mut Random, what: &dyn std::fmt::Debug) {
    let slow = slow::decode(encoded);
    let places = random.below(usize::MAX) as u64;
    let (_, careful) = decode_with_pauses(encoded, Loops::Careful, &mut Random::new(places));
    for loops in [Loops::Best, Loops::Portable] {
        let mut random = Random::new(places);
        let (found, pauses) = decode_with_pauses(encoded, loops, &mut random);
        assert_eq!(found.end, slow.end, "{what:?}, {loops:?}");
        assert!(found.bytes == slow.bytes, "{what:?}, {loops:?}");
        if slow.end.is_ok() {
            assert!(pauses == careful, "{what:?}, {loops:?}: it paused elsewhere");
        }
    }
}

#[test]
fn streams_that_no_encoder_writes_decode_as_the_obvious_decoder_does() {
    for seed in 0..if cfg!(miri) { 3 } else { 300 } {
        let mut random = Random::new(seed);
        let longest = random.pick(&[1000, 40_000, 400_000]);
        let len = random.below(longest);
        let encoded = synthetic::stream(&mut random, if cfg!(miri) { len % 2000 } else { len });
        let slow = slow::decode(&encoded);
        assert!(slow.end.is_ok(), "seed {seed}: {:?}", slow.end);
        check_with_pauses(&encoded, &mut random, &seed);
    }
}

#[test]
fn streams_that_no_encoder_writes_are_judged_as_by_the_obvious_decoder_when_damaged() {
    for seed in 1000..if cfg!(miri) { 1003 } else { 1600 } {
        let mut random = Random::new(seed);
        let longest = random.pick(&[1000, 60_000]);
        let len = random.below(longest);
        let mut encoded = synthetic::stream(&mut random, if cfg!(miri) { len % 2000 } else { len });
        for _ in 0..1 + random.below(3) {
            let bit = random.below(encoded.len() * 8);
            encoded[bit / 8] ^= 1 << (bit % 8);
        }
        encoded.truncate(encoded.len() - random.below(encoded.len().min(20)));
        check_with_pauses(&encoded, &mut random, &seed);
    }
}

#[test]
fn long_streams_of_other_encoders_decode_with_all_loops() {
    for (kind, seed) in (0..7).zip(1..) {
        let mut random = Random::new(seed);
        let plain: Vec<u8> = match kind {
            0 => (0..300_000).map(|_| random.below(256).min(250) as u8).collect(),
            1 => (0..400_000).map(|at| (at % 8 == 0) as u8 * random.below(18) as u8).collect(),
            2 => vec![0; 400_000],
            3 => (0..300_000).flat_map(|_| (random.below(9) as f32 / 64.0).to_le_bytes()).collect(),
            // Rows of zeros with four other bytes at most; then rows of runs.
            4 => (0..900)
                .flat_map(|_| {
                    let class = random.below(100);
                    (0..400).map(move |at| (at / 4 == class) as u8 * at as u8)
                })
                .collect(),
            5 => (0..3000)
                .flat_map(|row| {
                    let width = 20 + row / 64 + random.below(3);
                    (0..160).map(move |at| (at / width) as u8)
                })
                .collect(),
            _ => (0..40_000)
                .flat_map(|at| format!("{at},{}\n", random.below(999)).into_bytes())
                .collect(),
        };
        let mut streams: Vec<_> = (0..10).map(|level| deflate(&plain, level)).collect();
        for level in 1..13 {
            let level = libdeflater::CompressionLvl::new(level).expect("there are 12");
            let mut encoder = libdeflater::Compressor::new(level);
            let mut encoded = vec![0; encoder.deflate_compress_bound(plain.len())];
            let len = encoder.deflate_compress(&plain, &mut encoded).expect("it is long enough");
            encoded.truncate(len);
            streams.push(encoded);
        }
        for (number, encoded) in streams.iter().enumerate() {
            for loops in [Loops::Best, Loops::Portable] {
                let (found, _) = decode_with_pauses(encoded, loops, &mut random);
                assert!(found.end.is_ok() && found.bytes == plain, "{kind} {number} {loops:?}");
            }
        }
    }
}

/// Checks that all loops, with any steps, agree with the simple decoder.
fn check(encoded: &[u8]) {
    let slow = slow::decode(encoded);
    for loops in [Loops::Best, Loops::Portable, Loops::Careful] {
        for (step, resume) in [(1 << 20, false), (4096, false), (1000, true), (7, true)] {
            // Small steps over large streams take minutes and show nothing new.
            if resume && slow.bytes.len() / step > 2000 {
                continue;
            }
            let found = decode(encoded, step, resume, loops);
            assert_eq!(found.end, slow.end, "step {step}, resume {resume}, {loops:?}");
            assert!(found.bytes == slow.bytes, "step {step}, resume {resume}, {loops:?}");
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
        // The first block is not final, so decoding goes on after it.
        encoded[0] = encoded[0] & !7 | kind << 1;
        check(&encoded);
    }
}

/// A block of matches of the greatest length, each with up to four literals after it. Two such
/// literals fit into one table entry.
fn matches_and_pairs() -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    let number = |bits: &mut Vec<bool>, value: u32, len: u32| {
        bits.extend((0..len).map(|at| value >> at & 1 == 1));
    };
    let code = |bits: &mut Vec<bool>, code: &str| bits.extend(code.chars().map(|bit| bit == '1'));
    number(&mut bits, 0b101, 3);
    // 286 literals and lengths, one distance, 18 code lengths.
    number(&mut bits, 29, 5);
    number(&mut bits, 0, 5);
    number(&mut bits, 14, 4);
    for length in [0, 0, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2, 0, 3] {
        number(&mut bits, length, 3);
    }
    let [one, two, three, zeros] = ["111", "00", "01", "10"];
    for _literal in 0..3 {
        code(&mut bits, two);
    }
    for run in [138, 115] {
        code(&mut bits, zeros);
        number(&mut bits, run - 11, 7);
    }
    code(&mut bits, three);
    code(&mut bits, zeros);
    number(&mut bits, 28 - 11, 7);
    code(&mut bits, three);
    code(&mut bits, one);

    code(&mut bits, "00");
    for count in 0..400 {
        // A match of 258 bytes at distance 1.
        code(&mut bits, "1110");
        for literal in 0..if count > 150 { count % 5 } else { 0 } {
            code(&mut bits, ["00", "01", "10", "00"][literal]);
        }
    }
    code(&mut bits, "110");
    bits.chunks(8)
        .map(|byte| byte.iter().rev().fold(0, |sum, bit| sum << 1 | u8::from(*bit)))
        .collect()
}

#[test]
fn the_first_of_two_literals_may_be_the_one_that_reaches_the_limit() {
    let encoded = matches_and_pairs();
    let plain = slow::decode(&encoded);
    assert!(plain.end.is_ok() && plain.bytes.len() > 90_000, "{:?}", plain.end);
    let reached = |limit, loops| {
        let mut input = Input::new(0..encoded.len() as u64);
        let source = &encoded[..];
        let mut bits = Bits::new(&mut input, &source);
        let mut out = Output::new(vec![0u8; Output::room(0, limit)], &[]);
        Decoder::new().with(loops).decode(&mut bits, &mut out, limit).unwrap();
        (out.len(), bits.position().0)
    };
    for limit in 60_000..61_200 {
        let careful = reached(limit, Loops::Careful);
        for loops in [Loops::Best, Loops::Portable] {
            assert_eq!(reached(limit, loops), careful, "{limit}, {loops:?}");
        }
    }
}

/// Decodes `encoded` up to a random pause, and from there after a window whose units only name the
/// places of its bytes. Then replaces these names by the bytes.
fn decode_after_an_unknown_window(encoded: &[u8], loops: Loops, random: &mut Random) -> Vec<u8> {
    let mut input = Input::new(0..encoded.len() as u64);
    let mut decoder = Decoder::new().with(loops);
    let first = 1 + random.below(100_000);
    let mut out = Output::new(vec![0xaa; Output::room(0, first)], &[]);
    let mut bits = Bits::new(&mut input, &encoded);
    let mut ended = !matches!(decoder.decode(&mut bits, &mut out, first), Ok(Stop::Limit));
    let mut bytes = out.decoded_from(0).to_vec();
    let known = out.window().to_vec();
    let name = |at: usize| 0x8000 | at as u16;
    let mut window: Vec<u16> = (0..known.len()).map(name).collect();
    while !ended {
        let step = 1 + random.below(100_000);
        let mut out = Output::new(vec![0xaaaa; Output::room(window.len(), step)], &window);
        ended = !matches!(decoder.decode(&mut bits, &mut out, step), Ok(Stop::Limit));
        bytes.extend(out.decoded_from(0).iter().map(|unit| match unit & 0x8000 {
            0 => u8::try_from(*unit).expect("a byte"),
            _ => known[usize::from(unit & 0x7fff)],
        }));
        window = out.window().to_vec();
    }
    bytes
}

#[test]
fn after_an_unknown_window_each_unit_is_a_byte_or_names_the_one_it_stands_for() {
    for seed in 0..if cfg!(miri) { 3 } else { 300 } {
        let mut random = Random::new(seed);
        let len = random.below(400_000);
        let encoded = synthetic::stream(&mut random, if cfg!(miri) { len % 2000 } else { len });
        let slow = slow::decode(&encoded);
        for loops in [Loops::Best, Loops::Portable, Loops::Careful] {
            let found = decode_after_an_unknown_window(&encoded, loops, &mut random);
            assert!(found == slow.bytes, "seed {seed}, {loops:?}");
        }
    }
}

#[test]
fn a_block_that_is_stored_since_goes_on_at_a_whole_byte() {
    let encoded = [&[1, 20, 0, 235, 255][..], &[7; 20]].concat();
    let mut input = Input::new(0..encoded.len() as u64);
    let mut bits = Bits::new(&mut input, &encoded);
    let mut decoder = Decoder::new();
    // A checkpoint within a coded block, which the source had before it changed.
    let place = Place::Coded { header: BitOffset(0) };
    decoder.resume(&mut bits, BitOffset(8 * 5 + 3), place, u64::MAX).unwrap();
    let mut out = Output::<u8>::new(vec![0; Output::room(0, 5)], &[]);
    assert_eq!(decoder.decode(&mut bits, &mut out, 5).unwrap(), Stop::Limit);
    assert_eq!(out.decoded_from(0), [7; 5]);
}
