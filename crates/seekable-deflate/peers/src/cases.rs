//! Runs decoders in turns, checks their output, and compares their median times.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use seekable_deflate::spacing_for;

use crate::{options::Options, ours, peers};

/// A DEFLATE stream and its decoded bytes.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    /// The kind of data.
    pub kind: &'static str,
    /// The decoded bytes.
    pub plain: &'a [u8],
    /// The encoded bytes.
    pub encoded: &'a Arc<Vec<u8>>,
    /// CRC-32 of the decoded bytes.
    pub crc32: u32,
}

impl Stream<'_> {
    /// The distance between checkpoints that npzfs would choose, in decoded bytes.
    pub fn spacing(&self) -> u64 {
        spacing_for(self.encoded.len() as u64, self.plain.len() as u64)
    }
}

/// Receives a decoded offset and the bytes from there on. Called by any thread.
pub type Take<'a> = &'a (dyn Fn(u64, &[u8]) + Sync);

/// A way to decode a stream as a whole.
pub struct Case<'a> {
    /// The decoder and its way to decode, as the table shows it.
    pub name: &'static str,
    /// Number of threads that decode, the caller's included.
    pub threads: usize,
    /// Decodes the whole stream and hands on each byte once.
    pub decode: Box<dyn FnMut(Take) + 'a>,
    /// Work that a server does while it is idle: done before each run, and not timed.
    pub idle: Box<dyn FnMut() + 'a>,
}

impl<'a> Case<'a> {
    /// A case without idle work.
    pub fn new(name: &'static str, threads: usize, decode: impl FnMut(Take) + 'a) -> Self {
        Self { name, threads, decode: Box::new(decode), idle: Box::new(|| ()) }
    }
}

/// A row of the results. A field that does not apply is `None`.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The kind of data.
    pub data: &'static str,
    /// The name of the case.
    pub case: &'static str,
    /// Number of threads that decoded.
    pub threads: usize,
    /// Decoded megabytes (10^6 bytes) in a second.
    pub mb_per_s: Option<f64>,
    /// `mb_per_s` divided by that of libdeflate.
    pub ratio_to_libdeflate: Option<f64>,
    /// Median time of a random read, in microseconds.
    pub p50_us: Option<f64>,
    /// The time that one random read in a hundred exceeds, in microseconds.
    pub p99_us: Option<f64>,
    /// Length of the saved index in bytes.
    pub index_bytes: Option<u64>,
    /// Length of the decoded stream in bytes.
    pub decoded_bytes: u64,
}

/// The speed of every decoder on one stream.
pub fn rates(stream: &Stream, options: &Options) -> Vec<Outcome> {
    let mut cases = peers::sequential(stream);
    cases.extend(ours::cases(stream, &options.threads));
    cases.extend(peers::parallel(stream, &options.threads));

    let mut seconds = vec![Vec::with_capacity(options.runs); cases.len()];
    for case in &mut cases {
        check(case, stream.plain);
    }
    for _ in 0..options.runs {
        for (case, seconds) in cases.iter_mut().zip(&mut seconds) {
            (case.idle)();
            let began = Instant::now();
            (case.decode)(&|_, bytes| {
                black_box(bytes);
            });
            seconds.push(began.elapsed().as_secs_f64());
        }
    }

    let rates = seconds.iter_mut().map(|seconds| {
        seconds.sort_by(f64::total_cmp);
        stream.plain.len() as f64 / seconds[seconds.len() / 2] / 1e6
    });
    let rates: Vec<f64> = rates.collect();
    let libdeflate = cases.iter().position(|case| case.name == "libdeflate");
    let libdeflate = rates[libdeflate.expect("it is one of the sequential ones")];
    let outcomes = cases.iter().zip(rates).map(|(case, rate)| Outcome {
        data: stream.kind,
        case: case.name,
        threads: case.threads,
        mb_per_s: Some(rate),
        ratio_to_libdeflate: Some(rate / libdeflate),
        decoded_bytes: stream.plain.len() as u64,
        ..Outcome::default()
    });
    outcomes.collect()
}

/// Runs a case once and compares every byte with `plain`.
fn check(case: &mut Case, plain: &[u8]) {
    let count = AtomicU64::new(0);
    (case.decode)(&|at, bytes| {
        assert!(plain[at as usize..].starts_with(bytes), "{} is wrong at {at}", case.name);
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    });
    assert_eq!(count.into_inner(), plain.len() as u64, "{}", case.name);
}
