//! Makes streams and readers for the tests.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use seekable_deflate::{DeflateReader, Format, Memory, Options, ReadAt, Work};

/// A memory budget in bytes that no test exceeds.
pub const PLENTY: u64 = 256 << 20;

/// Pseudo-random numbers, the same in each run (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// The kind of the decoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    Zeros,
    Noise,
    Text,
    Floats,
    Labels,
    Mixed,
}

pub const KINDS: [Data; 6] =
    [Data::Zeros, Data::Noise, Data::Text, Data::Floats, Data::Labels, Data::Mixed];

/// `len` bytes of a kind.
pub fn data(kind: Data, len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed ^ kind as u64);
    let mut bytes = Vec::with_capacity(len + 64);
    let mut walk = 0f32;
    while bytes.len() < len {
        match kind {
            Data::Zeros => bytes.resize(len, 0),
            Data::Noise => bytes.extend(random.next().to_le_bytes()),
            Data::Text => {
                const WORDS: [&str; 8] = [
                    "window ",
                    "span ",
                    "frontier, ",
                    "the ",
                    "of\n",
                    "a ",
                    "checkpoint ",
                    "1951 ",
                ];
                bytes.extend(WORDS[random.below(8) as usize].bytes());
            }
            Data::Floats => {
                walk += (random.below(64) as f32 - 31.5) / 1024.0;
                bytes.extend(walk.to_le_bytes());
            }
            Data::Labels => bytes.extend(random.below(10).to_le_bytes()),
            Data::Mixed => {
                let kind = KINDS[random.below(5) as usize];
                let len = random.below(40_000) as usize;
                bytes.extend(data(kind, len, random.next()));
            }
        }
    }
    bytes.truncate(len);
    bytes
}

/// The encoder of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoder {
    /// zlib-rs through flate2, at a level.
    Flate2(u32),
    /// libdeflate, at a level.
    Libdeflate(i32),
    Zopfli,
}

pub const ENCODERS: [Encoder; 9] = [
    Encoder::Flate2(0),
    Encoder::Flate2(1),
    Encoder::Flate2(4),
    Encoder::Flate2(6),
    Encoder::Flate2(9),
    Encoder::Libdeflate(1),
    Encoder::Libdeflate(6),
    Encoder::Libdeflate(12),
    Encoder::Zopfli,
];

/// Bytes that have hardly any matches, and codes of 7 and 8 bits.
pub fn literals(len: usize) -> Vec<u8> {
    let mut random = Random::new(1);
    (0..len).map(|_| random.below(150) as u8).collect()
}

/// A raw DEFLATE stream.
pub fn deflate(plain: &[u8], encoder: Encoder) -> Vec<u8> {
    match encoder {
        Encoder::Flate2(level) => {
            let level = flate2::Compression::new(level);
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(plain).expect("a vector takes all");
            encoder.finish().expect("a vector takes all")
        }
        Encoder::Libdeflate(level) => {
            let level = libdeflater::CompressionLvl::new(level).expect("a level from 0 to 12");
            let mut compressor = libdeflater::Compressor::new(level);
            let mut encoded = vec![0; compressor.deflate_compress_bound(plain.len())];
            let len = compressor.deflate_compress(plain, &mut encoded).expect("there is room");
            encoded.truncate(len);
            encoded
        }
        Encoder::Zopfli => {
            let mut encoded = Vec::new();
            let options = zopfli::Options {
                iteration_count: std::num::NonZeroU64::MIN,
                ..Default::default()
            };
            zopfli::compress(options, zopfli::Format::Deflate, plain, &mut encoded)
                .expect("a vector takes all");
            encoded
        }
    }
}

type Hook = Box<dyn Fn(u64, usize) -> io::Result<()> + Send + Sync>;

/// A source that counts the bytes read, and calls a hook that may fail, wait or panic.
pub struct Probe {
    pub bytes: Mutex<Vec<u8>>,
    len: usize,
    bytes_read: AtomicU64,
    hook: Hook,
}

impl Probe {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self::with_hook(bytes, |_, _| Ok(()))
    }

    /// Calls `hook` with the offset and the length of each read before the read.
    pub fn with_hook(
        bytes: Vec<u8>,
        hook: impl Fn(u64, usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let len = bytes.len();
        let (bytes, hook) = (Mutex::new(bytes), Box::new(hook));
        Self { bytes, len, bytes_read: AtomicU64::new(0), hook }
    }

    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::SeqCst)
    }
}

impl ReadAt for Probe {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.bytes_read.fetch_add(buf.len() as u64, Ordering::SeqCst);
        (self.hook)(offset, buf.len())?;
        self.bytes.lock().expect("no test panics here").read_exact_at(buf, offset)
    }
}

/// Sources whose length is known.
pub trait Source: ReadAt {
    fn encoded_len(&self) -> u64;
}

impl Source for &[u8] {
    fn encoded_len(&self) -> u64 {
        self.len() as u64
    }
}

impl Source for &Probe {
    fn encoded_len(&self) -> u64 {
        self.len as u64
    }
}

/// Options for a bare stream whose length and checksum are not known.
pub fn bare(spacing: u64) -> Options {
    Options { format: Format::Deflate, spacing, decoded_len: None, crc32: None }
}

/// Options for a bare stream that decodes to `plain`, as a zip's central directory has them.
pub fn known(plain: &[u8], spacing: u64) -> Options {
    Options {
        decoded_len: Some(plain.len() as u64),
        crc32: Some(crc32fast::hash(plain)),
        ..bare(spacing)
    }
}

/// A reader of the whole of `encoded`, with plenty of memory.
pub fn reader<R: Source>(encoded: R, options: Options) -> DeflateReader<R> {
    reader_within(encoded, options, &Memory::new(PLENTY))
}

pub fn reader_within<R: Source>(
    encoded: R,
    options: Options,
    memory: &Arc<Memory>,
) -> DeflateReader<R> {
    let range = 0..encoded.encoded_len();
    DeflateReader::new(encoded, range, options, Arc::clone(memory))
}

/// Reads up to `len` bytes at `offset`.
pub fn read<R: ReadAt>(
    reader: &DeflateReader<R>,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, seekable_deflate::Error> {
    let mut buf = vec![0; len];
    let len = reader.read_at(&mut buf, offset)?;
    buf.truncate(len);
    Ok(buf)
}

/// The `len` bytes of `plain` from `offset` on, or fewer at its end.
pub fn slice(plain: &[u8], offset: u64, len: usize) -> &[u8] {
    let start = (offset as usize).min(plain.len());
    &plain[start..(start + len).min(plain.len())]
}

/// Compares random reads of `reader` with `plain`, and a read of everything.
pub fn check_reads<R: ReadAt>(
    reader: &DeflateReader<R>,
    plain: &[u8],
    random: &mut Random,
    reads: usize,
) {
    for read_number in 0..reads {
        let offset = random.below(plain.len() as u64 + 10);
        let len = match random.below(3) {
            0 => random.below(10),
            1 => random.below(5000),
            _ => random.below(plain.len() as u64 / 2 + 1),
        } as usize;
        let (offset, len) =
            if read_number == reads / 2 { (0, plain.len() + 1) } else { (offset, len) };
        let found = read(reader, offset, len).expect("the stream is good");
        assert!(found == slice(plain, offset, len), "read of {len} bytes at {offset}");
    }
}

/// Whether a decoded byte is cached, so that an asker gets it at once.
pub fn is_cached<R: ReadAt>(reader: &DeflateReader<R>, offset: u64) -> bool {
    let (answer, answered) = mpsc::channel();
    // The receiver is gone if the answer comes later.
    let works = reader.ask(offset..offset + 1, move |byte| _ = answer.send(byte.is_ok()));
    let is_cached = answered.try_recv() == Ok(true);
    drop(works);
    is_cached
}

/// Bytes that the indexes and paused decoders of the readers of `memory` take.
pub fn index_bytes(memory: &Memory) -> u64 {
    memory.clear();
    memory.used()
}

/// Runs a work, and all that follow from it.
pub fn run<R: ReadAt>(work: Work<R>) {
    let mut works = vec![work];
    while let Some(work) = works.pop() {
        let outcome = work.run(true);
        outcome.answers.send();
        works.extend(outcome.next);
    }
}

/// The works for the spans that hold two decoded bytes.
pub fn expect_two<R: ReadAt>(reader: &DeflateReader<R>, offsets: [u64; 2]) -> Vec<Work<R>> {
    offsets.into_iter().flat_map(|offset| reader.expect(offset..offset + 1)).collect()
}

/// Whether one thread decodes the spans of two decoded bytes at once.
pub fn are_paired<R: ReadAt>(
    reader: &DeflateReader<R>,
    memory: &Memory,
    offsets: [u64; 2],
) -> bool {
    memory.clear();
    let mut works = expect_two(reader, offsets);
    if works.is_empty() {
        return false;
    }
    run(works.remove(0));
    !works.is_empty() && is_cached(reader, offsets[1])
}
