//! Streams that RFC 1951 allows but encoders hardly ever write, and streams that it does not allow.
//! Each oddity is placed at the start of a stream and far into one, and read as a whole and at
//! random offsets through checkpoints. The errors are those of zlib-rs, word for word.

use seekable_deflate::{Error, Memory};

use crate::{
    bits::{Symbols, Writer, codes, fixed},
    support::*,
};

/// How zlib judges a stream: `Err` has its message.
type Verdict = Result<(), &'static str>;

/// Writes blocks, the last one final, and appends the bytes that they stand for.
type Write = Box<dyn Fn(&mut Writer, &mut Vec<u8>)>;

/// A stream, or the last blocks of a longer one.
struct Oddity {
    name: &'static str,
    verdict: Verdict,
    write: Write,
}

fn good(name: &'static str, write: impl Fn(&mut Writer, &mut Vec<u8>) + 'static) -> Oddity {
    Oddity { name, verdict: Ok(()), write: Box::new(write) }
}

/// Blocks of which no byte can be read. `message` is the error of zlib.
fn bad(name: &'static str, message: &'static str, write: impl Fn(&mut Writer) + 'static) -> Oddity {
    // More bits than any oddity reads, so that the stream is not cut off before its error.
    let write = move |writer: &mut Writer, _: &mut Vec<u8>| {
        write(writer);
        writer.zeros(4000);
    };
    Oddity { name, verdict: Err(message), write: Box::new(write) }
}

/// `count` code lengths: those of `set`, given by symbol, and 0 for all others.
fn lengths(count: usize, set: &[(usize, u8)]) -> Vec<u8> {
    let mut lengths = vec![0; count];
    for &(symbol, length) in set {
        lengths[symbol] = length;
    }
    lengths
}

const A: usize = b'a' as usize;

/// Code lengths for the literal "a", the end of the block, and the lengths 3 and 258.
fn few() -> Vec<u8> {
    lengths(286, &[(A, 2), (256, 2), (257, 2), (285, 2)])
}

/// Writes a dynamic block of the symbols that `symbols` writes, and appends their bytes to `plain`.
fn block(
    writer: &mut Writer,
    plain: &mut Vec<u8>,
    last: bool,
    (litlen, distance): (&[u8], &[u8]),
    symbols: impl Fn(&mut Symbols),
) {
    writer.dynamic(last, litlen, distance);
    let mut writing = Symbols::new(writer, litlen, distance);
    writing.plain = std::mem::take(plain);
    symbols(&mut writing);
    writing.end();
    *plain = writing.plain;
}

fn stored_blocks() -> [Oddity; 3] {
    [
        good("a stored block of no bytes", |writer, _| {
            writer.stored(true, b"");
        }),
        good("stored blocks of no bytes and of one in turn", |writer, plain| {
            for byte in 0..200 {
                writer.stored(false, b"").stored(byte == 199, &[byte]);
                plain.push(byte);
            }
        }),
        good("stored blocks of 65535 bytes", |writer, plain| {
            let full = data(Data::Noise, 65535, 1);
            for last in [false, false, true] {
                writer.stored(last, &full);
                plain.extend(&full);
            }
        }),
    ]
}

fn empty_blocks() -> [Oddity; 2] {
    [
        good("fixed blocks of no symbols", |writer, _| {
            for last in [0, 0, 0, 1] {
                writer.bits(last, 1).bits(1, 2).bits(0, 7);
            }
        }),
        good("dynamic blocks of no symbols", |writer, plain| {
            let end_only = lengths(257, &[(256, 1)]);
            for last in [false, false, true] {
                block(writer, plain, last, (&end_only, &[0]), |_| ());
                // The next round does the same after a byte.
                if !last {
                    writer.stored(false, b"x");
                    plain.push(b'x');
                }
            }
        }),
    ]
}

fn codes_of_few_symbols() -> Vec<Oddity> {
    let mut oddities = vec![
        good("no distance code, and no match", |writer, plain| {
            block(writer, plain, true, (&lengths(257, &[(A, 1), (256, 1)]), &[0]), |symbols| {
                for _ in 0..70_000 {
                    symbols.literal(b'a');
                }
            });
        }),
        good("a length repeated from the literals on into the distances", |writer, plain| {
            // Symbols 255 and 256 and the first two distances have codes of one bit: one length,
            // and three repetitions of it.
            writer.bits(5, 3).bits(0, 5).bits(1, 5).bits(14, 4);
            // The order of the code lengths: 16 17 18 0 8 7 9 6 10 5 11 4 12 3 13 2 14 1.
            for length in [2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] {
                writer.bits(length, 3);
            }
            let (one, repeat, zeros) = ((0, 1), (2, 2), (3, 2));
            writer.code(zeros).bits(127, 7).code(zeros).bits(117 - 11, 7);
            writer.code(one).code(repeat).bits(0, 2);
            let code = [(0, 1), (1, 1)];
            writer.code(code[0]).code(code[0]).code(code[1]);
            plain.extend([255, 255]);
        }),
    ];
    for symbol in [0, 1, 15, 29] {
        oddities.push(good("a single distance code of one bit", move |writer, plain| {
            let distance = lengths(30, &[(symbol, 1)]);
            writer.stored(false, &data(Data::Text, 40_000, 1));
            plain.extend(data(Data::Text, 40_000, 1));
            block(writer, plain, true, (&few(), &distance), |symbols| {
                let base = crate::bits::DISTANCES[symbol].0;
                for number in 0..9000 {
                    match number % 3 {
                        0 => symbols.literal(b'a'),
                        1 => symbols.repeat(3, base),
                        _ => symbols.repeat(258, base),
                    };
                }
            });
        }));
    }
    oddities
}

fn extremes() -> [Oddity; 3] {
    [
        good("distance 32768 at any place", |writer, plain| {
            let bytes = data(Data::Noise, 32768, 2);
            writer.stored(false, &bytes);
            plain.extend(bytes);
            block(writer, plain, true, (&few(), &lengths(30, &[(29, 1)])), |symbols| {
                for number in 0..3000 {
                    symbols.repeat(if number % 7 == 0 { 258 } else { 3 }, 32768 - number % 2);
                    if number % 5 == 0 {
                        symbols.literal(b'a');
                    }
                }
            });
        }),
        good("length 258 in both its codes, at distances from 1 to 300", |writer, plain| {
            let (litlen, distance) = fixed();
            writer.stored(false, b"seed").bits(3, 3);
            let mut symbols = Symbols::new(writer, &litlen, &distance);
            symbols.plain = std::mem::take(plain);
            symbols.plain.extend(b"seed");
            for distance in 1..300 {
                symbols.repeat(258, distance);
                // Length 258 as 227 plus 31 in the extra bits, which RFC 1951 does not list.
                symbols.writer.code(symbols.litlen[284]).bits(31, 5).code(symbols.distance[0]);
                let byte = *symbols.plain.last().expect("there are some");
                symbols.plain.extend([byte; 258]);
                symbols.literal(distance as u8);
            }
            symbols.end();
            *plain = symbols.plain;
        }),
        good("the ends of every distance code, at lengths from 3 to 258", |writer, plain| {
            let bytes = data(Data::Noise, 32768, 3);
            writer.stored(false, &bytes).bits(3, 3);
            plain.extend(bytes);
            let (litlen, distance) = fixed();
            let mut symbols = Symbols::new(writer, &litlen, &distance);
            symbols.plain = std::mem::take(plain);
            for (base, extra) in crate::bits::DISTANCES {
                for distance in [base, base + (1 << extra) - 1] {
                    for len in (3..=258).step_by(15) {
                        symbols.repeat(len, distance);
                    }
                }
            }
            symbols.end();
            *plain = symbols.plain;
        }),
    ]
}

/// Writes the header of a dynamic block up to the lengths of the code length code. `set` has those
/// that are not 0, by their index in this order: 16 17 18 0 8 7 9 6 10 5 11 4 12 3 13 2 14 1 15.
fn header(writer: &mut Writer, (litlens, distances): (usize, usize), set: &[(usize, usize)]) {
    writer.bits(5, 3).bits(litlens - 257, 5).bits(distances - 1, 5).bits(15, 4);
    for at in 0..19 {
        let length = set.iter().find(|(own, _)| *own == at).map_or(0, |(_, length)| *length);
        writer.bits(length, 3);
    }
}

fn code_sets_that_are_no_good() -> Vec<Oddity> {
    let distances = "invalid distances set";
    let litlens = "invalid literal/lengths set";
    let code_lengths = "invalid code lengths set";
    let sets: [(&str, &str, Vec<u8>, Vec<u8>); 9] = [
        ("one distance of two bits", distances, few(), vec![2]),
        ("two distances of two bits", distances, few(), vec![2, 2]),
        ("three distances of one bit", distances, few(), vec![1, 1, 1]),
        ("a distance of one bit and two of 15", distances, few(), vec![1, 15, 15]),
        ("incomplete literals", litlens, lengths(257, &[(A, 2), (256, 2)]), vec![1]),
        ("over-subscribed literals", litlens, lengths(257, &[(A, 1), (66, 1), (256, 1)]), vec![1]),
        ("the end of two bits alone", litlens, lengths(257, &[(256, 2)]), vec![1]),
        (
            "both sets bad: that of the literals is named",
            litlens,
            lengths(257, &[(256, 2)]),
            vec![1, 1, 1],
        ),
        (
            "no end of the block",
            "invalid code -- missing end-of-block",
            lengths(257, &[(A, 1), (66, 1)]),
            vec![1],
        ),
    ];
    let sets = sets.into_iter().map(|(name, message, litlen, distance)| {
        bad(name, message, move |writer| {
            writer.dynamic(true, &litlen, &distance);
        })
    });
    let mut oddities: Vec<_> = sets.collect();
    let mut header = |name, message, counts, set: &'static [(usize, usize)], rest: (usize, u32)| {
        oddities.push(bad(name, message, move |writer| {
            header(writer, counts, set);
            writer.bits(rest.0, rest.1);
        }));
    };
    let too_many = "too many length or distance symbols";
    header("287 literals", too_many, (287, 1), &[], (0, 0));
    header("31 distances", too_many, (286, 31), &[], (0, 0));
    header("one code length of one bit", code_lengths, (257, 1), &[(3, 1)], (0, 0));
    header("three of one bit", code_lengths, (257, 1), &[(0, 1), (3, 1), (4, 1)], (0, 0));
    let repeat = "invalid bit length repeat";
    header("a repetition of nothing", repeat, (257, 1), &[(0, 1), (3, 1)], (1, 1));
    let zeros = (0xffff, 16);
    header("more zeros than lengths", repeat, (257, 1), &[(2, 1), (3, 1)], zeros);
    oddities
}

fn symbols_that_are_no_good() -> Vec<Oddity> {
    let unused = |name, message, litlen: Vec<u8>, distance: Vec<u8>, code: &'static [usize]| {
        bad(name, message, move |writer| {
            writer.dynamic(true, &litlen, &distance);
            for &symbol in code {
                match symbol {
                    0 | 1 => writer.bits(symbol, 1),
                    symbol => writer.code(codes(&litlen)[symbol]),
                };
            }
        })
    };
    let mut oddities = vec![
        unused("the other half of one", "invalid distance code", few(), vec![1], &[257, 1]),
        unused("a match without distances", "invalid distance code", few(), vec![0], &[257, 1]),
        unused(
            "the other half of the end",
            "invalid literal/length code",
            lengths(257, &[(256, 1)]),
            vec![0],
            &[1],
        ),
        bad("block type 3", "invalid block type", |writer| {
            writer.bits(7, 3);
        }),
        bad("a stored block whose lengths differ", "invalid stored block lengths", |writer| {
            // After an empty stored block, the next block begins at a whole byte.
            writer.stored(false, b"").bits(1, 8).bits(1, 16).bits(1, 16);
        }),
    ];
    for symbol in [286, 287] {
        oddities.push(bad("a fixed length code", "invalid literal/length code", move |writer| {
            writer.bits(3, 3).code(codes(&fixed().0)[symbol]);
        }));
    }
    for symbol in [30, 31] {
        oddities.push(bad("a fixed distance code", "invalid distance code", move |writer| {
            let (litlen, distance) = fixed();
            writer.bits(3, 3).code(codes(&litlen)[257]).code(codes(&distance)[symbol]);
        }));
    }
    oddities
}

fn all() -> impl Iterator<Item = Oddity> {
    stored_blocks()
        .into_iter()
        .chain(empty_blocks())
        .chain(codes_of_few_symbols())
        .chain(extremes())
        .chain(code_sets_that_are_no_good())
        .chain(symbols_that_are_no_good())
}

/// Writes a block that is not the last and ends in the middle of a byte. It has 100 KB, so that what
/// follows it is decoded by the fast loops, and from a checkpoint.
fn write_block_before(writer: &mut Writer, plain: &mut Vec<u8>) {
    let (litlen, distance) = fixed();
    writer.bits(2, 3);
    let mut symbols = Symbols::new(writer, &litlen, &distance);
    let mut random = Random::new(1);
    while symbols.plain.len() < 100_000 {
        let known = symbols.plain.len() as u64;
        if known == 0 || random.below(3) == 0 {
            symbols.literal(random.below(256) as u8);
        } else {
            let distance = 1 + random.below(known.min(32768));
            symbols.repeat(3 + random.below(40) as usize, distance as usize);
        }
    }
    symbols.end();
    *plain = symbols.plain;
}

/// The bytes that zlib-rs decodes, and its verdict in its own words.
fn judge(encoded: &[u8]) -> (Vec<u8>, Result<(), String>) {
    let mut decoder = flate2::Decompress::new(false);
    let mut plain = vec![0; 1 << 20];
    loop {
        // With more room, zlib-rs uses its fast loop, whose message is "repeated call with bad
        // state".
        let room = decoder.total_out() as usize..decoder.total_out() as usize + 250;
        let encoded = &encoded[decoder.total_in() as usize..];
        let verdict =
            match decoder.decompress(encoded, &mut plain[room], flate2::FlushDecompress::None) {
                Ok(flate2::Status::StreamEnd) => Ok(()),
                Ok(flate2::Status::Ok) => continue,
                Ok(flate2::Status::BufError) => panic!("nothing here is cut off"),
                Err(error) => Err(error.message().expect("zlib-rs gives reasons").to_owned()),
            };
        plain.truncate(decoder.total_out() as usize);
        return (plain, verdict);
    }
}

/// Checks the bytes and the end of a stream at several spacings: read in order, then anywhere.
fn check(name: &str, encoded: &[u8], plain: &[u8], verdict: Verdict) {
    let (judged, words) = judge(encoded);
    assert_eq!(words.as_ref().map_err(String::as_str).copied(), verdict, "{name}, by zlib-rs");
    assert!(judged == plain, "{name}, by zlib-rs");
    let mut whole = Vec::new();
    assert_eq!(seekable_deflate::inflate(encoded, &mut whole).is_ok(), verdict.is_ok(), "{name}");
    assert!(whole == plain, "{name}, all at once");

    let mut random = Random::new(plain.len() as u64);
    for spacing in [1, 777, 32768, 1 << 20] {
        // A window for each byte of a megabyte would take too much memory.
        let spacing = spacing.max(plain.len() as u64 / 1000);
        let memory = Memory::new(PLENTY);
        let reader = reader_within(encoded, bare(spacing), &memory);
        let found = read(&reader, 0, plain.len() + 1);
        assert!(found.unwrap_or_default() == plain, "{name}, spacing {spacing}");
        let end = match reader.read_at(&mut [0], plain.len() as u64) {
            Ok(0) => Ok(()),
            Err(Error::Corrupt { what, .. }) => Err(what),
            end => panic!("{name}, spacing {spacing}: {end:?}"),
        };
        assert_eq!(end, verdict, "{name}, spacing {spacing}");
        for _ in 0..20 {
            memory.clear();
            let (at, len) = (random.below(plain.len() as u64), 1 + random.below(3000) as usize);
            let found = read(&reader, at, len.min(plain.len()));
            if !plain.is_empty() {
                assert!(found.unwrap() == slice(plain, at, len), "{name}, spacing {spacing}, {at}");
            }
        }
    }
}

#[test]
fn oddities_are_read_and_judged_as_zlib_does_at_the_start_of_a_stream() {
    for oddity in all() {
        let (mut writer, mut plain) = (Writer::new(), Vec::new());
        (oddity.write)(&mut writer, &mut plain);
        check(oddity.name, &writer.done(), &plain, oddity.verdict);
    }
}

#[test]
fn oddities_are_read_and_judged_as_zlib_does_far_into_a_stream() {
    for oddity in all() {
        let (mut writer, mut plain) = (Writer::new(), Vec::new());
        write_block_before(&mut writer, &mut plain);
        (oddity.write)(&mut writer, &mut plain);
        check(oddity.name, &writer.done(), &plain, oddity.verdict);
    }
}

#[test]
fn libdeflate_reads_every_oddity_that_is_good() {
    for oddity in all().filter(|oddity| oddity.verdict.is_ok()) {
        let (mut writer, mut plain) = (Writer::new(), Vec::new());
        (oddity.write)(&mut writer, &mut plain);
        let mut found = vec![0; plain.len()];
        let mut decoder = libdeflater::Decompressor::new();
        let len = decoder.deflate_decompress(&writer.done(), &mut found);
        assert_eq!(len, Ok(plain.len()), "{}", oddity.name);
        assert!(found == plain, "{}", oddity.name);
    }
}

#[test]
fn bits_and_streams_after_the_final_block_are_ignored() {
    for oddity in all().filter(|oddity| oddity.verdict.is_ok()) {
        let (mut writer, mut plain) = (Writer::new(), Vec::new());
        (oddity.write)(&mut writer, &mut plain);
        let len = writer.done().len();
        for after in 1..12 {
            writer.bits(1, 1);
            let mut encoded = writer.done();
            if after > 8 {
                encoded.extend(deflate(b"another stream", Encoder::Flate2(6)));
            }
            let mut whole = Vec::new();
            assert_eq!(seekable_deflate::inflate(&encoded, &mut whole).unwrap(), len);
            assert!(whole == plain, "{}", oddity.name);
            for options in [bare(5000), known(&plain, 5000)] {
                let reader = reader(&encoded[..], options);
                let found = read(&reader, 0, plain.len() + 100).unwrap();
                assert!(found == plain, "{}", oddity.name);
                assert!(
                    reader.progress().verdict.damage().is_none()
                        && reader.progress().verdict.stopped().is_none()
                );
            }
        }
    }
}
