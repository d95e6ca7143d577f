//! One table: a whole first pass through a reader, with checkpoints and CRC-32, beside whole
//! decodes by others that can neither stop nor resume.
//!
//! `cargo bench -p seekable-deflate [-- NAME...]`: the kinds of data to run, default all.
//! `RUNS` in the environment is the number of runs of each (5).

use std::{cell::RefCell, hint::black_box, io::Write, time::Instant};

use seekable_deflate::{DEFAULT_SPACING, DeflateReader, Format, Memory, Options};

/// Decoded bytes of each kind of data.
const LEN: usize = 16 << 20;

/// Smaller than the data, so that buffers are used again as in a server that has run for a while.
const MEMORY: u64 = 8 << 20;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(5);
    println!(
        "{:<8} {:>6}  {:>16}  {:>10}  {:>10}  {:>16}  {:>16}",
        "MB/s", "ratio", "seekable-deflate", "zlib-rs", "libdeflate", "/ zlib-rs", "/ libdeflate"
    );
    for (name, make) in DATA {
        if !chosen.is_empty() && !chosen.iter().any(|chosen| chosen == name) {
            continue;
        }
        let plain = make();
        let encoded = deflate(&plain);
        let [ours, zlib_rs, libdeflate] = compare(&encoded, &plain, runs);
        println!(
            "{name:<8} {:>6.2}  {ours:>16.0}  {zlib_rs:>10.0}  {libdeflate:>10.0}  \
             {:>16.2}  {:>16.2}",
            plain.len() as f64 / encoded.len() as f64,
            ours / zlib_rs,
            ours / libdeflate,
        );
    }
}

/// Median decoded MB/s of the three decoders, which run in turn.
fn compare(encoded: &[u8], plain: &[u8], runs: usize) -> [f64; 3] {
    type Decode<'a> = Box<dyn Fn(&mut [u8]) + 'a>;
    let memory = Memory::new(MEMORY);
    let options = Options {
        format: Format::Deflate,
        spacing: DEFAULT_SPACING,
        decoded_len: Some(plain.len() as u64),
        crc32: Some(crc32fast::hash(plain)),
    };
    // The reader before, whose spans give up their buffers to this one: in a server that has run for
    // a while they are always somebody's. Fresh ones cost page faults, which on zeros take longer
    // than the decoding.
    let before = RefCell::new(None);
    let decoders: [Decode; 3] = [
        Box::new(|_| {
            let range = 0..encoded.len() as u64;
            let reader = DeflateReader::new(encoded, range, options.clone(), memory.clone());
            let mut at = 0;
            while let Some(span) = reader.span_at(at).expect("the stream is good") {
                at += black_box(span.bytes()).len() as u64;
            }
            assert!(at == plain.len() as u64 && reader.damage().is_none());
            before.replace(Some(reader));
        }),
        Box::new(|out| {
            let mut decoder = flate2::Decompress::new(false);
            let finish = flate2::FlushDecompress::Finish;
            let status = decoder.decompress(encoded, out, finish).expect("the stream is good");
            assert_eq!(status, flate2::Status::StreamEnd);
        }),
        Box::new(|out| {
            let mut decoder = libdeflater::Decompressor::new();
            let len = decoder.deflate_decompress(encoded, out).expect("the stream is good");
            assert_eq!(len, out.len());
        }),
    ];

    let mut out = vec![1; plain.len()];
    let mut seconds = [const { Vec::new() }; 3];
    // The first round warms up.
    for round in 0..=runs {
        for (decode, seconds) in decoders.iter().zip(&mut seconds) {
            let start = Instant::now();
            decode(&mut out);
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
            black_box(&out);
        }
    }
    seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        plain.len() as f64 / seconds[seconds.len() / 2] / 1e6
    })
}

/// As zlib at its default level does.
fn deflate(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(plain).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

type Make = fn() -> Vec<u8>;

const DATA: [(&str, Make); 6] = [
    ("sensor", sensor),
    ("labels", labels),
    ("noise", noise),
    ("text", text),
    ("zeros", || vec![0; LEN]),
    ("one-hot", one_hot),
];

/// A slow signal of 16-bit samples with some noise, scaled to float32.
fn sensor() -> Vec<u8> {
    let mut random = Random(1);
    let mut phase = 0.0f32;
    let sample = || {
        phase += 0.0007;
        let signal = 900.0 * phase.sin() + 250.0 * (phase * 7.3).sin();
        let noise = (random.below(4) + random.below(4)) as f32 - 3.0;
        ((signal + noise).round() / 64.0).to_le_bytes()
    };
    std::iter::repeat_with(sample).take(LEN / 4).flatten().collect()
}

/// Classes as int64.
fn labels() -> Vec<u8> {
    let mut random = Random(2);
    std::iter::repeat_with(|| random.below(18).to_le_bytes()).take(LEN / 8).flatten().collect()
}

/// Normally distributed float32: all but sign and exponent is incompressible.
fn noise() -> Vec<u8> {
    let mut random = Random(3);
    let mut uniform = move || (random.below(1 << 31) + 1) as f64 / (1u64 << 31) as f64;
    let sample = || {
        let radius = (-2.0 * uniform().ln()).sqrt();
        ((radius * (std::f64::consts::TAU * uniform()).cos()) as f32).to_le_bytes()
    };
    std::iter::repeat_with(sample).take(LEN / 4).flatten().collect()
}

/// Lines of numbers, as a CSV file has them.
fn text() -> Vec<u8> {
    let mut random = Random(4);
    let mut text = Vec::with_capacity(LEN + 100);
    for line in 0.. {
        let (a, b) = (random.below(1000), random.below(100_000));
        writeln!(text, "{line},run{},{}.{:03},{},ok", line % 7, b, a, a * b)
            .expect("a vector takes all");
        if text.len() >= LEN {
            break;
        }
    }
    text.truncate(LEN);
    text
}

/// float32 rows of 100, a single 1.0 in each.
fn one_hot() -> Vec<u8> {
    let mut random = Random(5);
    let mut bytes = vec![0; LEN];
    for row in bytes.chunks_exact_mut(400) {
        let class = random.below(100) as usize;
        row[class * 4..][..4].copy_from_slice(&1f32.to_le_bytes());
    }
    bytes
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
