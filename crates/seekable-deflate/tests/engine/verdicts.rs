//! Compares the verdicts on streams that encoders seldom or never write with those of zlib, message
//! for message.

use seekable_deflate::{Error, Memory};

use crate::{
    bits::{Symbols, Writer, codes, fixed, giant_block},
    support::*,
};

/// The bytes that flate2 decodes before the stream ends, fails or stops, and whether it failed.
pub fn flate2_decode(encoded: &[u8]) -> (Vec<u8>, Result<(), ()>) {
    let mut decoder = flate2::Decompress::new(false);
    let mut plain = vec![0; 1 << 20];
    loop {
        let known = decoder.total_out() as usize;
        if known == plain.len() {
            plain.resize(2 * known, 0);
        }
        let rest = &encoded[decoder.total_in() as usize..];
        let before = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(rest, &mut plain[known..], flate2::FlushDecompress::None);
        let end = match status {
            Ok(flate2::Status::StreamEnd) => Ok(()),
            Ok(_) if before != (decoder.total_in(), decoder.total_out()) => continue,
            Ok(_) | Err(_) => Err(()),
        };
        plain.truncate(decoder.total_out() as usize);
        return (plain, end);
    }
}

/// The bytes that our reader decodes, and how the stream ends: `Ok`, or zlib's message.
fn decode(encoded: &[u8], spacing: u64) -> (Vec<u8>, Result<(), String>) {
    let reader = reader(encoded, bare(spacing));
    let plain = read(&reader, 0, 1 << 20).unwrap_or_default();
    let end = match reader.read_at(&mut [0], plain.len() as u64) {
        Ok(0) => Ok(()),
        Ok(_) => panic!("more bytes than were read at first"),
        Err(Error::Corrupt { what, .. }) => Err(what.to_owned()),
        Err(error) => Err(error.to_string()),
    };
    (plain, end)
}

/// Checks our verdict, and that zlib-rs agrees.
fn check(name: &str, encoded: &[u8], plain: &[u8], verdict: Result<(), &str>) {
    for spacing in [1, 5, 1 << 20] {
        let (found, end) = decode(encoded, spacing);
        assert_eq!(end.as_ref().map_err(String::as_str).copied(), verdict.clone(), "{name}");
        assert!(found == plain, "{name}: {found:?} is not {plain:?}");
    }
    let (found, end) = flate2_decode(encoded);
    assert_eq!(end.is_ok(), verdict.is_ok(), "{name}, by zlib-rs");
    assert!(found == plain, "{name}: {found:?} is not {plain:?}, by zlib-rs");
}

/// `count` code lengths: those of `set`, given by symbol, and 0 for all others.
fn lengths(count: usize, set: &[(usize, u8)]) -> Vec<u8> {
    let mut lengths = vec![0; count];
    for &(symbol, length) in set {
        lengths[symbol] = length;
    }
    lengths
}

/// A dynamic block with codes of these lengths and the symbols that `symbols` writes.
fn dynamic(litlen: &[u8], distance: &[u8], symbols: impl Fn(&mut Symbols)) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.dynamic(true, litlen, distance);
    symbols(&mut Symbols::new(&mut writer, litlen, distance));
    // Zeros after the block, so that the stream is not cut off before its error.
    writer.zeros(64).done()
}

const A: usize = b'a' as usize;

#[test]
fn a_code_set_is_judged_as_zlib_does() {
    // Code lengths for a literal, the end of the block, and the lengths 3 and 4.
    let litlen = lengths(259, &[(A, 2), (256, 2), (257, 2), (258, 2)]);
    let distances_invalid = Err("invalid distances set");
    let litlens_invalid = Err("invalid literal/lengths set");
    let a_and_end = |symbols: &mut Symbols| {
        symbols.literal(b'a').end();
    };
    let end = |symbols: &mut Symbols| {
        symbols.end();
    };
    let a_match_and_end = |symbols: &mut Symbols| {
        symbols.literal(b'a').repeat(3, 1).end();
    };
    for (name, encoded, plain, verdict) in [
        ("complete codes", dynamic(&litlen, &[1, 1], a_match_and_end), &b"aaaa"[..], Ok(())),
        ("one distance of one bit", dynamic(&litlen, &[1], a_match_and_end), b"aaaa", Ok(())),
        ("one distance of two bits", dynamic(&litlen, &[2], a_and_end), b"", distances_invalid),
        ("two distances of two bits", dynamic(&litlen, &[2, 2], a_and_end), b"", distances_invalid),
        (
            "three distances of one bit",
            dynamic(&litlen, &[1, 1, 1], a_and_end),
            b"",
            distances_invalid,
        ),
        ("no distances", dynamic(&litlen, &[0], a_and_end), b"a", Ok(())),
        (
            "incomplete literals",
            dynamic(&lengths(257, &[(A, 2), (256, 2)]), &[1], a_and_end),
            b"",
            litlens_invalid,
        ),
        (
            "over-subscribed literals",
            dynamic(&lengths(257, &[(A, 1), (66, 1), (256, 1)]), &[1], a_and_end),
            b"",
            litlens_invalid,
        ),
        ("the end of one bit alone", dynamic(&lengths(257, &[(256, 1)]), &[0], end), b"", Ok(())),
        (
            "the end of two bits alone",
            dynamic(&lengths(257, &[(256, 2)]), &[0], end),
            b"",
            litlens_invalid,
        ),
        (
            "no end",
            dynamic(&lengths(257, &[(A, 1), (66, 1)]), &[0], |_| ()),
            b"",
            Err("invalid code -- missing end-of-block"),
        ),
    ] {
        check(name, &encoded, plain, verdict);
    }
}

#[test]
fn a_code_without_a_symbol_is_an_error_when_it_is_met() {
    let litlen = lengths(259, &[(A, 2), (256, 2), (257, 2), (258, 2)]);
    // A length, and then the bit 1 as its distance code.
    let unused = |symbols: &mut Symbols| {
        symbols.literal(b'a');
        symbols.writer.code(symbols.litlen[257]).bits(1, 1);
    };
    for distances in [&[1][..], &[0]] {
        let encoded = dynamic(&litlen, distances, unused);
        check("an unused distance", &encoded, b"a", Err("invalid distance code"));
    }
    let end_only = lengths(257, &[(256, 1)]);
    let encoded = dynamic(&end_only, &[0], |symbols| {
        symbols.writer.bits(1, 1);
    });
    check("an unused literal", &encoded, b"", Err("invalid literal/length code"));

    let (litlen, _) = fixed();
    let (litlen, distance) = (codes(&litlen), codes(&[5; 32]));
    for symbol in [286, 287] {
        let mut writer = Writer::new();
        writer.bits(3, 3).code(litlen[A]).code(litlen[symbol]).zeros(64);
        check("fixed 286 and 287", &writer.done(), b"a", Err("invalid literal/length code"));
    }
    for symbol in [30, 31] {
        let mut writer = Writer::new();
        writer.bits(3, 3).code(litlen[A]).code(litlen[257]).code(distance[symbol]).zeros(64);
        check("fixed distances 30 and 31", &writer.done(), b"a", Err("invalid distance code"));
    }
}

#[test]
fn a_block_header_is_judged_as_zlib_does() {
    let counts = |litlen: usize, distance: usize| {
        let mut writer = Writer::new();
        writer.bits(5, 3).bits(litlen - 257, 5).bits(distance - 1, 5).bits(15, 4);
        writer
    };
    let too_many = Err("too many length or distance symbols");
    check("287 literals", &counts(287, 1).zeros(64).done(), b"", too_many);
    check("31 distances", &counts(286, 31).zeros(64).done(), b"", too_many);

    // Code length codes in their order: 16, 17, 18, 0, 8, ..., 1, 15.
    let code_lengths = |set: &[(usize, usize)]| {
        let mut writer = counts(257, 1);
        for at in 0..19 {
            let length = set.iter().find(|(own, _)| *own == at).map_or(0, |(_, length)| *length);
            writer.bits(length, 3);
        }
        writer
    };
    let invalid = Err("invalid code lengths set");
    let one = code_lengths(&[(3, 1)]).zeros(999).done();
    check("one code length of one bit", &one, b"", invalid);
    let three = code_lengths(&[(0, 1), (3, 1), (4, 1)]).zeros(999).done();
    check("three code lengths of one bit", &three, b"", invalid);
    let none = code_lengths(&[]).zeros(999).done();
    check("no code lengths", &none, b"", Err("invalid code -- missing end-of-block"));

    let repeat = Err("invalid bit length repeat");
    // The code of length 0 is the bit 0, that of the repetition is the bit 1.
    let first = code_lengths(&[(0, 1), (3, 1)]).bits(1, 1).zeros(999).done();
    check("a repetition of nothing", &first, b"", repeat);
    let mut writer = code_lengths(&[(2, 1), (3, 1)]);
    for _ in 0..2 {
        writer.bits(1, 1).bits(127, 7);
    }
    check("a repetition beyond the last", &writer.zeros(999).done(), b"", repeat);

    let reserved = Writer::new().bits(7, 3).zeros(64).done();
    check("block type 3", &reserved, b"", Err("invalid block type"));
    let mut stored = Writer::new().stored(true, b"stored").done();
    check("a stored block", &stored, b"stored", Ok(()));
    stored[3] ^= 1;
    check("its lengths", &stored, b"", Err("invalid stored block lengths"));
}

#[test]
fn a_distance_may_reach_the_first_byte_and_no_further() {
    let (litlen, distance) = fixed();
    for distance_of in [3, 4] {
        let mut writer = Writer::new();
        writer.bits(3, 3);
        let mut symbols = Symbols::new(&mut writer, &litlen, &distance);
        for byte in *b"abc" {
            symbols.literal(byte);
        }
        // `repeat` needs a byte to copy from, even where the stream has none.
        symbols.plain.insert(0, 0);
        symbols.repeat(5, distance_of).end();
        let plain = if distance_of == 3 { &b"abcabcab"[..] } else { b"abc" };
        let verdict = if distance_of == 3 { Ok(()) } else { Err("invalid distance too far back") };
        check("a distance", &writer.zeros(64).done(), plain, verdict);
    }
}

#[test]
fn rare_blocks_decode() {
    let full = data(Data::Noise, 65535, 1);
    let mut writer = Writer::new();
    let end_only = lengths(257, &[(256, 1)]);
    let mut plain = Vec::new();
    for _ in 0..3 {
        writer.stored(false, b"").stored(false, &full).stored(false, b"x");
        writer.dynamic(false, &end_only, &[0]).code((0, 1));
        writer.bits(2, 3).code((0, 7));
        plain.extend(&full);
        plain.push(b'x');
    }
    // Distance 32768 into a stored block, and length 258 in both its codes.
    let (litlen, distance) = fixed();
    writer.bits(3, 3);
    let mut symbols = Symbols::new(&mut writer, &litlen, &distance);
    symbols.plain = plain;
    symbols.repeat(258, 32768).repeat(257, 32767);
    symbols.writer.code(symbols.litlen[284]).bits(31, 5).code(symbols.distance[0]);
    let byte = *symbols.plain.last().expect("it is not empty");
    symbols.plain.extend([byte; 258]);
    symbols.end();
    let plain = symbols.plain;
    let encoded = writer.done();
    assert!(flate2_decode(&encoded) == (plain.clone(), Ok(())));
    for spacing in [777, 65535, 65536, 1 << 20] {
        let reader = reader(&encoded[..], known(&plain, spacing));
        check_reads(&reader, &plain, &mut Random::new(spacing), 30);
    }
}

#[test]
fn one_giant_block_is_as_seekable_as_many() {
    for dynamic in [false, true] {
        let (encoded, plain) = giant_block(dynamic, 3_000_000);
        assert!(flate2_decode(&encoded) == (plain.clone(), Ok(())));
        let source = Probe::new(encoded);
        let memory = Memory::new(PLENTY);
        let reader = reader_within(&source, known(&plain, 64 << 10), &memory);
        assert!(read(&reader, 0, plain.len()).unwrap() == plain);
        let mut random = Random::new(3);
        for _ in 0..200 {
            let offset = random.below(plain.len() as u64 - 100);
            memory.clear();
            let before = source.bytes_read();
            assert!(read(&reader, offset, 100).unwrap() == slice(&plain, offset, 100));
            // Two spans at most, each with no more encoded than decoded bytes, and two headers.
            let cost = source.bytes_read() - before;
            assert!(cost < 130 << 10, "{cost} bytes read for 100");
        }
    }
}
