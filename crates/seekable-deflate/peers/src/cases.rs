//! Runs decoders in turns, checks what they give, and compares the medians of their times.

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

/// A DEFLATE stream and what it decodes to.
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
    /// What npzfs would take as the distance between checkpoints, in decoded bytes.
    pub fn spacing(&self) -> u64 {
        spacing_for(self.encoded.len() as u64, self.plain.len() as u64)
    }
}

/// Takes decoded bytes and the offset at which they lie; called by any thread.
pub type Take<'a> = &'a (dyn Fn(u64, &[u8]) + Sync);

/// A way to decode a stream as a whole.
pub struct Case<'a> {
    /// What decodes, and how.
    pub name: &'static str,
    /// On how many threads, the caller's included.
    pub threads: usize,
    /// Decodes all and hands on each byte once.
    pub decode: Box<dyn FnMut(Take) + 'a>,
    /// What a server does when it is idle: done before each run, and not timed.
    pub idle: Box<dyn FnMut() + 'a>,
}

impl<'a> Case<'a> {
    /// One that has nothing to do when it is idle.
    pub fn new(name: &'static str, threads: usize, decode: impl FnMut(Take) + 'a) -> Self {
        Self { name, threads, decode: Box::new(decode), idle: Box::new(|| ()) }
    }
}

/// A row of the results. Where a field does not apply it is `None`.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The kind of data.
    pub data: &'static str,
    /// What decoded, and how.
    pub case: &'static str,
    /// On how many threads.
    pub threads: usize,
    /// Decoded megabytes (10^6 bytes) in a second.
    pub mb_per_s: Option<f64>,
    /// The same in units of libdeflate's.
    pub ratio_to_libdeflate: Option<f64>,
    /// Median time of a random read, in microseconds.
    pub p50_us: Option<f64>,
    /// The time that one random read in a hundred exceeds, in microseconds.
    pub p99_us: Option<f64>,
    /// Bytes of the index, as it is saved.
    pub index_bytes: Option<u64>,
    /// Bytes of the stream when decoded.
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

/// Runs a case once and compares all that it gives.
fn check(case: &mut Case, plain: &[u8]) {
    let count = AtomicU64::new(0);
    (case.decode)(&|at, bytes| {
        assert!(plain[at as usize..].starts_with(bytes), "{} is wrong at {at}", case.name);
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    });
    assert_eq!(count.into_inner(), plain.len() as u64, "{}", case.name);
}
