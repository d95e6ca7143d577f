//! Makes data of several kinds: the same bytes in each run.

use std::io::{self, Read, Write};

/// Makes this number of bytes of one kind.
pub type Make = fn(usize) -> Vec<u8>;

/// All kinds by name.
pub const KINDS: [(&str, Make); 7] = [
    ("sensor", sensor),
    ("labels", labels),
    ("noise", noise),
    ("text", text),
    ("masks", masks),
    ("one-hot", one_hot),
    ("zeros", |len| vec![0; len]),
];

/// Deflates at level 6, which is zlib's default and the level of `np.savez_compressed`.
pub fn deflate(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(plain).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

/// Deflates `len` zeros at level 1.
pub fn deflate_zeros(len: u64) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    io::copy(&mut io::repeat(0).take(len), &mut encoder).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

/// A slow signal of 16-bit samples with some noise, scaled to float32.
fn sensor(len: usize) -> Vec<u8> {
    let mut random = Random::new(1);
    let mut phase = 0.0f32;
    let sample = || {
        phase = (phase + 0.0007) % std::f32::consts::TAU;
        let signal = 900.0 * phase.sin() + 250.0 * (phase * 7.0).sin();
        let noise = (random.below(4) + random.below(4)) as f32 - 3.0;
        ((signal + noise).round() / 64.0).to_le_bytes()
    };
    std::iter::repeat_with(sample).flatten().take(len).collect()
}

/// Random classes from 0 to 17, as int64.
fn labels(len: usize) -> Vec<u8> {
    let mut random = Random::new(2);
    std::iter::repeat_with(|| random.below(18).to_le_bytes()).flatten().take(len).collect()
}

/// Normally distributed float32: everything but sign and exponent is incompressible.
fn noise(len: usize) -> Vec<u8> {
    let mut random = Random::new(3);
    let mut uniform = move || (random.below(1 << 31) + 1) as f64 / (1u64 << 31) as f64;
    let sample = || {
        let radius = (-2.0 * uniform().ln()).sqrt();
        ((radius * (std::f64::consts::TAU * uniform()).cos()) as f32).to_le_bytes()
    };
    std::iter::repeat_with(sample).flatten().take(len).collect()
}

/// Lines of numbers, as in a CSV file.
fn text(len: usize) -> Vec<u8> {
    let mut random = Random::new(4);
    let mut text = Vec::with_capacity(len + 100);
    for line in 0.. {
        let (a, b) = (random.below(1000), random.below(100_000));
        writeln!(text, "{line},run{},{}.{:03},{},ok", line % 7, b, a, a * b)
            .expect("a vector takes all");
        if text.len() >= len {
            break;
        }
    }
    text.truncate(len);
    text
}

/// Images of 512 by 512 int8 classes: some ellipses with ragged edges on a background.
fn masks(len: usize) -> Vec<u8> {
    const SIDE: usize = 512;
    let mut random = Random::new(5);
    let mut masks = vec![0; len.next_multiple_of(SIDE * SIDE)];
    for image in masks.chunks_exact_mut(SIDE * SIDE) {
        for _ in 0..3 + random.below(6) {
            let class = 1 + random.below(8) as u8;
            let mut number = |bound| random.below(bound) as f32;
            let (x, y) = (number(512), number(512));
            let (width, height) = (12.0 + number(120), 12.0 + number(120));
            for (row, pixels) in image.chunks_exact_mut(SIDE).enumerate() {
                let slope = (row as f32 - y) / height;
                let half = width * (1.0 - slope * slope).max(0.0).sqrt();
                let edge = number(4);
                if half > 0.0 {
                    // A cast to unsigned stops at 0.
                    let (from, to) = ((x - half - edge) as usize, (x + half + edge) as usize);
                    pixels[from.min(SIDE)..to.min(SIDE)].fill(class);
                }
            }
        }
    }
    masks.truncate(len);
    masks
}

/// Rows of 100 float32 values: one 1.0, and zeros.
fn one_hot(len: usize) -> Vec<u8> {
    let mut random = Random::new(6);
    let mut bytes = vec![0; len];
    for row in bytes.chunks_exact_mut(400) {
        let class = random.below(100) as usize;
        row[class * 4..][..4].copy_from_slice(&1f32.to_le_bytes());
    }
    bytes
}

/// Pseudo-random numbers (xorshift64*).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence that the seed determines. The seed 0 would give only zeros.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }
}
