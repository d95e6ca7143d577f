//! Any bytes, read at random offsets through checkpoints within little memory: what is read is
//! what zlib-rs decodes there.
//!
//! Four bytes choose the spacing, the memory, the framing and the reads. The rest is a stream, or
//! what a stream decodes to: of random bytes few are a stream that decodes to much.

#![no_main]

use std::io::Write;

use flate2::{Compression, Decompress, FlushDecompress, Status, write::DeflateEncoder};
use libfuzzer_sys::fuzz_target;
use seekable_deflate::{DeflateReader, Error, Format, Memory, Options};

/// Decoded bytes that are looked at.
const MOST: usize = 100_000;

fuzz_target!(|input: &[u8]| {
    let Some((&[spacing, memory, shape, seed], rest)) = input.split_first_chunk() else { return };
    let (is_gzip, is_known) = (shape & 1 != 0, shape & 2 != 0);
    let encoded = if shape & 4 != 0 { encode(rest, shape >> 3) } else { rest.to_vec() };
    let Some(judged) = judge(&encoded) else { return };
    let (encoded, plain, is_good) =
        if is_gzip { gzip(&encoded, judged) } else { (encoded, judged.plain, judged.is_good) };

    let spacing = [1, 100, 4096, 40_000, u64::MAX][usize::from(spacing) % 5];
    let options = Options {
        format: if is_gzip { Format::Gzip } else { Format::Deflate },
        // Without memory for windows each span takes decoding all before it: with a thousand spans
        // there were 5 runs a second, with 50 there were 30.
        spacing: spacing.max(plain.len() as u64 / 20),
        decoded_len: (is_good && is_known).then_some(plain.len() as u64),
        crc32: (is_good && is_known).then(|| crc32fast::hash(&plain)),
    };
    let memory = Memory::new([0, 1, 40_000, 150_000, 1 << 20, 64 << 20][usize::from(memory) % 6]);
    let range = 0..encoded.len() as u64;
    let reader = DeflateReader::new(&encoded[..], range, options, memory.clone());

    let mut random = Random(u64::from(seed) + 1);
    let mut bytes = vec![0; plain.len() + 10];
    let mut works = Vec::new();
    for number in 0..8 {
        let at = random.below(plain.len() as u64 + 10);
        let len = match number {
            4 => bytes.len(),
            _ => bytes.len().min(1 + random.below(5000) as usize),
        };
        let bytes = &mut bytes[..len];
        let result = reader.read_at(bytes, at);
        let expected = plain.get(at as usize..).unwrap_or_default();
        match result {
            Ok(len) if is_good => {
                assert_eq!(len, bytes.len().min(expected.len()), "read {number} at {at}");
                assert!(bytes[..len] == expected[..len], "read {number} at {at}");
            }
            // Nobody promises how much is decoded before damage is seen.
            Ok(len) => {
                let known = len.min(expected.len());
                assert!(bytes[..known] == expected[..known], "read {number} at {at}");
            }
            Err(Error::Corrupt { .. } | Error::Truncated { .. } | Error::Checksum { .. })
                if !is_good => {}
            Err(error) => panic!("{error}, which zlib-rs does not find"),
        }
        if random.below(4) == 0 {
            memory.clear();
        }
        // Two who are called back, and whose works one thread runs.
        for at in [at, random.below(plain.len() as u64 + 10)] {
            let (plain, len) = (plain.clone(), 1 + random.below(5000));
            works.extend(reader.ask(at..at + len, move |bytes| match bytes {
                Ok(bytes) => {
                    let expected = plain.get(at as usize..).unwrap_or_default();
                    let known = bytes.len().min(expected.len());
                    assert!(bytes[..known] == expected[..known], "a call at {at}");
                    assert!(!is_good || bytes.len() == expected.len().min(len as usize));
                }
                Err(error) => assert!(!is_good, "{error}, which zlib-rs does not find"),
            }));
        }
        while let Some(work) = works.pop() {
            let outcome = work.run(number % 2 == 0);
            outcome.answers.send();
            works.extend(outcome.next);
        }
    }
});

/// What zlib-rs makes of a stream.
struct Judged {
    /// The decoded bytes, or those before the fault.
    plain: Vec<u8>,
    encoded_len: usize,
    is_good: bool,
}

/// `None` if it decodes to more than is looked at.
fn judge(encoded: &[u8]) -> Option<Judged> {
    let mut plain = vec![0; MOST];
    let mut decoder = Decompress::new(false);
    let verdict = decoder.decompress(encoded, &mut plain, FlushDecompress::Finish);
    plain.truncate(decoder.total_out() as usize);
    let is_good = matches!(verdict, Ok(Status::StreamEnd));
    let encoded_len = decoder.total_in() as usize;
    (is_good || plain.len() < MOST).then_some(Judged { plain, encoded_len, is_good })
}

fn encode(plain: &[u8], level: u8) -> Vec<u8> {
    let level = Compression::new(u32::from(level) % 10);
    let mut encoder = DeflateEncoder::new(Vec::new(), level);
    encoder.write_all(plain).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

/// The stream as two gzip members in a row; a bad one as the only, without a trailer.
fn gzip(encoded: &[u8], judged: Judged) -> (Vec<u8>, Vec<u8>, bool) {
    let mut framed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    if !judged.is_good {
        framed.extend(encoded);
        return (framed, judged.plain, false);
    }
    framed.extend(&encoded[..judged.encoded_len]);
    framed.extend(crc32fast::hash(&judged.plain).to_le_bytes());
    framed.extend((judged.plain.len() as u32).to_le_bytes());
    (framed.repeat(2), judged.plain.repeat(2), true)
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }
}
