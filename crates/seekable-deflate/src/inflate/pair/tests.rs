//! Tests that two pieces of a stream decoded as a pair give the same as each piece alone.

use super::*;
use crate::{
    BitOffset,
    inflate::{
        Input, Loops, Place, Stop,
        tests::{
            Unlent,
            synthetic::{self, Random},
        },
    },
};

/// A piece of a stream, decoded by the careful loop: from a place where decoding can start to a
/// limit, or to the end of the stream or a fault before the limit.
struct Piece {
    at: BitOffset,
    place: Place,
    window: Vec<u8>,
    limit: usize,
    bytes: Vec<u8>,
    end: String,
}

/// Describes how and where a decoder stopped.
fn end(result: &Result<Stop, Fault>, decoder: &Decoder, bits: &Bits) -> String {
    match result {
        Ok(stop) => format!("{stop:?} {:?} {:?}", decoder.place(), bits.position()),
        Err(fault) => format!("{fault:?}"),
    }
}

fn pieces(encoded: &[u8], random: &mut Random) -> Vec<Piece> {
    let mut input = Input::new(0..encoded.len() as u64);
    let mut bits = Bits::new(&mut input, &encoded);
    let mut decoder = Decoder::new().with(Loops::Careful);
    let mut window = Vec::new();
    let mut pieces = Vec::new();
    while let Some(place) = decoder.place() {
        let longest = random.pick(&[3, 700, 40_000, 200_000]);
        let (at, limit) = (bits.position(), 1 + random.below(longest));
        let mut out = Output::new(vec![0xaa; Output::room(window.len(), limit)], &window);
        let result = decoder.decode(&mut bits, &mut out, limit);
        let (bytes, end) = (out.decoded_from(0).to_vec(), end(&result, &decoder, &bits));
        let next = out.window().to_vec();
        pieces.push(Piece { at, place, window, limit, bytes, end });
        window = next;
        if result.is_err() {
            break;
        }
    }
    pieces
}

/// Decodes both pieces as a pair, then the rest of each alone, and checks the result. Returns the
/// number of bytes decoded as a pair.
fn check_pair(encoded: &[u8], both: [&Piece; 2], loops: Loops, has_crc: bool) -> usize {
    let source = Unlent(encoded);
    let mut inputs = [(); 2].map(|()| Input::new(0..encoded.len() as u64));
    let mut decoders = [(); 2].map(|()| Decoder::new().with(loops));
    let mut outs = both.map(|piece| {
        let buffer = vec![0xaa; Output::room(piece.window.len(), piece.limit)];
        let out = Output::new(buffer, &piece.window);
        if has_crc { out.with_crc() } else { out }
    });
    let [one, other] = &mut inputs;
    let mut bits = [Bits::new(one, &source), Bits::new(other, &source)];
    for ((decoder, bits), piece) in decoders.iter_mut().zip(&mut bits).zip(both) {
        decoder.resume(bits, piece.at, piece.place, u64::MAX).expect("it was there");
    }
    let [mut one, mut other] = decoders;
    let [one_out, other_out] = &mut outs;
    let [one_bits, other_bits] = bits;
    let mut sides = [
        Side { decoder: &mut one, bits: one_bits, out: one_out, limit: both[0].limit },
        Side { decoder: &mut other, bits: other_bits, out: other_out, limit: both[1].limit },
    ];
    let results = decode_pair(&mut sides);
    let at_once = sides.iter().map(|side| side.out.len()).sum();
    for ((side, result), piece) in sides.iter_mut().zip(results).zip(both) {
        let result =
            result.and_then(|()| side.decoder.decode(&mut side.bits, side.out, side.limit));
        assert_eq!(end(&result, side.decoder, &side.bits), piece.end);
        assert!(side.out.decoded_from(0) == piece.bytes);
        let crc = side.out.take_crc();
        assert!(!has_crc || crc.whole.value() == crc32fast::hash(&piece.bytes));
    }
    at_once
}

/// Checks random pairs of pieces with all loops. Returns the number of bytes decoded as pairs.
fn check_pairs(encoded: &[u8], random: &mut Random, pairs: usize) -> usize {
    let pieces = pieces(encoded, random);
    let mut at_once = 0;
    for _ in 0..pairs {
        let both = [0; 2].map(|_| &pieces[random.below(pieces.len())]);
        for loops in [Loops::Best, Loops::Portable] {
            at_once += check_pair(encoded, both, loops, random.below(2) == 0);
        }
        assert_eq!(check_pair(encoded, both, Loops::Careful, true), 0);
    }
    at_once
}

#[test]
fn two_pieces_of_streams_that_no_encoder_writes_decode_as_each_by_itself() {
    for seed in 0..if cfg!(miri) { 8 } else { 600 } {
        let mut random = Random::new(seed);
        let longest = random.pick(&[1000, 40_000, 400_000]);
        let len = random.below(longest);
        let len = if cfg!(miri) { 300 + len % 2000 } else { len };
        let mut encoded = synthetic::stream(&mut random, len);
        if seed % 2 == 1 {
            for _ in 0..1 + random.below(3) {
                let bit = random.below(encoded.len() * 8);
                encoded[bit / 8] ^= 1 << (bit % 8);
            }
            encoded.truncate(encoded.len() - random.below(encoded.len().min(20)));
        }
        check_pairs(&encoded, &mut random, 4);
    }
}

fn deflate(plain: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(plain).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

#[test]
fn noise_is_decoded_at_once_almost_to_a_limit() {
    let mut random = Random::new(1);
    let len = if cfg!(miri) { 4000 } else { 400_000 };
    let plain: Vec<u8> = (0..len).map(|_| random.below(150) as u8).collect();
    let encoded = deflate(&plain);
    let pieces = pieces(&encoded, &mut random);
    for piece in pieces.iter().filter(|piece| piece.end.starts_with("Limit")) {
        let at_once = check_pair(&encoded, [piece, piece], Loops::Best, true);
        // At the end of each block, the second piece has decoded a few symbols less than the first.
        let least = 2 * piece.bytes.len().saturating_sub(fast::OUTPUT_MARGIN + 300);
        assert!(at_once >= least, "{at_once} of {}", 2 * piece.bytes.len());
    }
}

#[test]
fn blocks_of_other_kinds_are_decoded_one_by_one() {
    let mut random = Random::new(2);
    let plain: Vec<u8> = (0..if cfg!(miri) { 5000 } else { 600_000 })
        .map(|at: usize| match at / 20_000 % 4 {
            0 => (at % 7) as u8,
            1 => random.below(256) as u8,
            _ => random.below(150) as u8,
        })
        .collect();
    check_pairs(&deflate(&plain), &mut random, if cfg!(miri) { 1 } else { 40 });
}
