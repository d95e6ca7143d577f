//! Compares a pass with help to a pass without: bytes, checkpoints, windows, checksums and errors.

use std::{
    io::{self, Write},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    Speculation, Task, Tuning, Unfinished,
    buffers::Buffers,
    chunk::{Piece, Speculator, Worked},
    find::Finder,
    jobs::Edge,
    markers,
    settled::Settled,
};
use crate::{
    ByteOffset, Error, Format, Memory, Options, ReadAt, SavedIndex,
    core::Core,
    crc::SpanCrcs,
    index::{Checkpoint, Known},
    inflate::HISTORY,
    windows::Window,
};

mod gzip;
mod memory;
mod parts;

const EAGER: Tuning =
    Tuning { warm_up: 1, least: 1, highest_ratio: 32, chunk: 512 << 10, watched: false };
const PLENTY: u64 = 256 << 20;

/// Pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn floats(len: usize) -> Vec<u8> {
    let mut random = Random(3);
    let values = (0..len / 4).map(|at| {
        let wave = (at as f32 / 40.0).sin() + (random.next() % 41) as f32 / 100.0;
        (20.0 + (wave * 100.0).round() / 100.0).to_le_bytes()
    });
    values.flatten().collect()
}

fn labels(len: usize) -> Vec<u8> {
    let mut random = Random(5);
    (0..len / 8).flat_map(|_| (random.next() % 18).to_le_bytes()).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = Random(7);
    // Compresses a little: the two highest bits of each half are always zero.
    (0..len / 8).flat_map(|_| (random.next() & 0x3fff_ffff_3fff_ffff).to_le_bytes()).collect()
}

/// Floats, labels, zeros, a DEFLATE stream and noise, in turn.
fn mixed(len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        bytes.extend(floats(200_000));
        bytes.extend(labels(300_000));
        bytes.resize(bytes.len() + 400_000, 0);
        bytes.extend(deflate(&floats(300_000), 6));
        bytes.extend(noise(100_000));
    }
    bytes.truncate(len);
    bytes
}

fn deflate(plain: &[u8], level: u32) -> Vec<u8> {
    let level = flate2::Compression::new(level);
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn libdeflate(plain: &[u8], level: i32) -> Vec<u8> {
    let level = libdeflater::CompressionLvl::new(level).unwrap();
    let mut compressor = libdeflater::Compressor::new(level);
    let mut encoded = vec![0; compressor.deflate_compress_bound(plain.len())];
    let len = compressor.deflate_compress(plain, &mut encoded).unwrap();
    encoded.truncate(len);
    encoded
}

/// Many small blocks, with empty stored blocks between them.
fn flushed(plain: &[u8]) -> Vec<u8> {
    let mut encoder =
        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    for piece in plain.chunks(3000) {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
    }
    encoder.finish().unwrap()
}

/// A stream with stored blocks that hold another DEFLATE stream: block headers in them are not
/// headers of the outer stream.
fn planted(plain: &[u8]) -> Vec<u8> {
    let inner = deflate(plain, 6);
    let mut encoder =
        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&plain[..plain.len() / 2]).unwrap();
    // Ends the first part at a whole byte, without a final block.
    encoder.flush().unwrap();
    let mut encoded = encoder.get_ref().clone();
    for piece in inner.chunks(60_000) {
        let len = piece.len() as u16;
        encoded.push(0);
        encoded.extend(len.to_le_bytes());
        encoded.extend((!len).to_le_bytes());
        encoded.extend(piece);
    }
    encoded.extend(deflate(plain, 6));
    encoded
}

#[derive(Debug, PartialEq)]
struct Left {
    bytes: Vec<u8>,
    /// For each span: its decoded offset, its encoded place, its checksum, and whether its
    /// checkpoint has a window.
    spans: Vec<(u64, String, SpanCrcs, bool)>,
    error: Option<String>,
}

fn core(encoded: &[u8], options: &Options, tuning: Tuning, memory: u64) -> Arc<Core> {
    let range = 0..encoded.len() as u64;
    let mut core = Core::new(range.clone(), options.clone(), Memory::new(memory));
    let memory = Arc::clone(&core.memory);
    let only = Arc::get_mut(&mut core).expect("nobody else has it yet");
    only.speculation = Speculation::new(tuning, range, memory);
    core
}

/// Reads the whole stream in sequence; calls `before` before each span.
fn pass(core: &Arc<Core>, source: &dyn ReadAt, mut before: impl FnMut()) -> Left {
    let (mut bytes, mut error) = (Vec::new(), None);
    loop {
        before();
        match core.span_at(source, bytes.len() as u64) {
            Ok(Some(span)) => {
                assert_eq!(span.start(), bytes.len() as u64);
                bytes.extend_from_slice(span.bytes());
            }
            Ok(None) => break,
            Err(found) => {
                error = Some(format!("{found:?}"));
                break;
            }
        }
    }
    let state = core.lock();
    let known: Vec<_> = (0..state.index().len()).map(|number| state.index().span(number)).collect();
    let spans = known.iter().map(|known| {
        let place = format!("{:?} {:?}", known.start.encoded, known.start.place);
        (known.start.decoded, place, known.crcs.clone(), known.start.window.is_some())
    });
    let spans = spans.collect();
    let frontier = state.index().frontier();
    drop(state);
    for Known { start, end, crcs, .. } in &known {
        assert_eq!(*crcs, SpanCrcs::naive(&bytes[start.decoded as usize..*end as usize]));
        check_window(core, source, start, &bytes, frontier);
    }
    Left { bytes, spans, error }
}

/// Checks that a raw window has all bytes before the checkpoint, and that any other window has the
/// bytes that `Packer` finds to be needed by decoding again.
fn check_window(
    core: &Core,
    source: &dyn ReadAt,
    checkpoint: &Checkpoint,
    bytes: &[u8],
    frontier: u64,
) {
    let Some(window) = &checkpoint.window else { return };
    let found = window.unpack().unwrap();
    let at = checkpoint.decoded as usize;
    let before = &bytes[at - found.len()..at];
    if let Window::Sparse(_) | Window::Packed(_) = window {
        let packer = &mut core.packer();
        let packed = core.packed(packer, source, checkpoint, before, frontier, false).unwrap();
        let needed = Window::Packed(Arc::new(packed)).unpack().unwrap();
        assert!(found == needed, "the window of {checkpoint:?}");
    } else {
        assert!(found == before, "the window of {checkpoint:?}");
    }
}

fn alone(encoded: &[u8], options: &Options) -> Left {
    pass(&core(encoded, options, Tuning::DEFAULT, PLENTY), &encoded, || ())
}

/// A pass with help between the spans by the reading thread, so each run does the same. Also
/// returns how many bytes the frontier took over.
fn in_turns(encoded: &[u8], options: &Options, turns: usize, memory: u64) -> (Left, u64) {
    let core = core(encoded, options, EAGER, memory);
    let left = pass(&core, &encoded, || {
        for _ in 0..turns {
            core.speculation.help(&encoded);
        }
        assert!(core.memory.used() <= memory);
    });
    let taken = core.speculation.state.lock().taken;
    (left, taken)
}

/// A pass with help from `helpers` threads.
fn with_threads(source: &dyn ReadAt, encoded: &[u8], options: &Options, helpers: usize) -> Left {
    let core = core(encoded, options, EAGER, PLENTY);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let help = std::panic::AssertUnwindSafe(|| core.speculation.help(source));
                    if !std::panic::catch_unwind(help).unwrap_or(true) {
                        thread::yield_now();
                    }
                }
            });
        }
        let left = pass(&core, source, || ());
        over.store(true, Ordering::Relaxed);
        left
    })
}

fn bare(spacing: u64) -> Options {
    Options { format: Format::Deflate, spacing, decoded_len: None, crc32: None }
}

fn check(name: &str, encoded: &[u8], options: &Options) -> u64 {
    let expected = alone(encoded, options);
    let mut taken = 0;
    for turns in [1, 4, 1000] {
        let (left, now) = in_turns(encoded, options, turns, PLENTY);
        assert!(left == expected, "{name}, {turns} turns: {:?}", left.error);
        taken = now;
    }
    for helpers in [1, 3] {
        let left = with_threads(&encoded, encoded, options, helpers);
        assert!(left == expected, "{name}, {helpers} helpers: {:?}", left.error);
    }
    taken
}

const LEN: usize = 4 << 20;

#[test]
fn windows_of_noise_keep_what_is_needed_as_the_pass_goes_on() {
    let encoded = deflate(&noise(LEN), 6);
    for turns in [0, 4] {
        let core = core(&encoded, &bare(128 << 10), EAGER, PLENTY);
        let left = pass(&core, &&encoded[..], || {
            (0..turns).for_each(|_| _ = core.speculation.help(&encoded));
        });
        assert_eq!(left.bytes.len(), LEN);
        let state = core.lock();
        let (checkpoints, _) = state.index().parts();
        let is_sparse = |start: &&Checkpoint| matches!(start.window, Some(Window::Sparse(_)));
        let sparse = checkpoints.iter().filter(is_sparse).count();
        // All windows but these are sparse: the first, which is empty, the last, and the windows
        // where the frontier reaches a chunk.
        assert!(sparse >= checkpoints.len() * 3 / 4, "{sparse} of {}", checkpoints.len());
        assert!(state.index().bytes() < LEN as u64 / 32);
    }
}

#[test]
fn a_pass_with_help_leaves_what_one_without_leaves() {
    for (name, plain) in [("floats", floats(LEN)), ("labels", labels(LEN)), ("noise", noise(LEN))] {
        for (how, encoded) in [
            ("flate2 2", deflate(&plain, 2)),
            ("flate2 6", deflate(&plain, 6)),
            ("libdeflate 6", libdeflate(&plain, 6)),
            ("libdeflate 12", libdeflate(&plain, 12)),
            ("flushed", flushed(&plain)),
        ] {
            let options = Options {
                decoded_len: Some(plain.len() as u64),
                crc32: Some(crc32fast::hash(&plain)),
                ..bare(100_000)
            };
            let taken = check(&format!("{name}, {how}"), &encoded, &options);
            assert!(taken > LEN as u64 / 2, "{name}, {how}: {taken} bytes taken over");
        }
    }
}

#[test]
fn complete_chunks_are_settled_before_the_frontier_gets_there() {
    let encoded = deflate(&floats(LEN), 6);
    let source = &encoded[..];
    let core = core(&encoded, &bare(100_000), EAGER, PLENTY);
    let mut at = 0;
    let chain_end = loop {
        (0..1000).for_each(|_| _ = core.speculation.help(&source));
        at += core.span_at(&source, at).unwrap().unwrap().bytes().len() as u64;
        if let Some(end) = core.speculation.state.lock().chain.end() {
            break end.decoded;
        }
    };
    assert!(chain_end > at + 3 * EAGER.chunk, "the frontier at {at}, the chain up to {chain_end}");
    // After enough help, all spans in the chain are made, and the frontier only takes them.
    while core.speculation.help(&source) {}
    assert!(core.speculation.state.lock().chain.claim(&core.memory).is_none());
}

#[test]
fn a_chunk_that_somebody_else_works_on_by_now_is_not_ended() {
    let encoded = deflate(&floats(LEN), 6);
    let core = core(&encoded, &bare(100_000), EAGER, PLENTY);
    core.span_at(&&encoded[..], 0).unwrap();
    let Some(Task::Chunk { id, .. }) = core.speculation.task() else { panic!("there is no chunk") };
    drop(Unfinished { speculation: &core.speculation, id });
    assert!(!core.speculation.state.lock().slots[0].ended);
}

#[test]
fn a_chunk_whose_helper_panicked_is_ended() {
    struct Broken;
    impl ReadAt for Broken {
        fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            std::panic::resume_unwind(Box::new("of the test"));
        }
    }
    let encoded = deflate(&floats(LEN), 6);
    let core = core(&encoded, &bare(100_000), EAGER, PLENTY);
    core.span_at(&&encoded[..], 0).unwrap();
    let help = std::panic::AssertUnwindSafe(|| core.speculation.help(&Broken));
    assert!(std::panic::catch_unwind(help).is_err());
    assert!(core.speculation.state.lock().slots[0].ended);
}

#[test]
fn where_no_block_can_be_found_nothing_is_taken_over() {
    // The stream is one block with the fixed code.
    assert_eq!(check("fixed", &deflate(&floats(LEN), 1), &bare(100_000)), 0);
}

#[test]
fn spans_of_any_spacing_are_the_same() {
    let (small, large) = (floats(1 << 20), mixed(LEN));
    for (spacing, plain) in [(200, &small), (3000, &small), (33_000, &large), (1 << 20, &large)] {
        let taken = check(&format!("spacing {spacing}"), &deflate(plain, 6), &bare(spacing));
        let enough = plain.len() as u64 / 4;
        assert!(taken > enough, "spacing {spacing}: {taken} bytes taken over");
    }
}

#[test]
fn stored_blocks_and_streams_in_them_are_told_from_blocks() {
    let plain = floats(LEN);
    check("stored", &deflate(&plain, 0), &bare(100_000));
    let taken = check("planted", &planted(&plain), &bare(100_000));
    assert!(taken > 0);
    let encoded = deflate(&mixed(LEN), 1);
    check("mixed", &encoded, &bare(100_000));
}

#[test]
fn damage_is_told_as_without_help() {
    let plain = mixed(LEN);
    let encoded = deflate(&plain, 6);
    let mut random = Random(11);
    for round in 0..12 {
        let at = encoded.len() / 3 + random.next() as usize % (encoded.len() / 2);
        let mut damaged = encoded.clone();
        match round % 3 {
            0 => damaged.truncate(at),
            1 => damaged[at] ^= 1 << (random.next() % 8),
            _ => damaged[at..at + 8].fill(0xff),
        }
        check(&format!("round {round}"), &damaged, &bare(100_000));
        let known = Options { decoded_len: Some(LEN as u64), ..bare(100_000) };
        check(&format!("round {round}, length known"), &damaged, &known);
    }
    for wrong in [LEN as u64 / 2, LEN as u64 - 1, LEN as u64 + 1, LEN as u64 / 100_000 * 100_000] {
        let options = Options { decoded_len: Some(wrong), ..bare(100_000) };
        check(&format!("length {wrong}"), &encoded, &options);
    }
}

/// A source that is sometimes slow, and sometimes fails or panics.
struct Shaky<'a> {
    encoded: &'a [u8],
    reads: AtomicU64,
    /// The thread whose reads never fail or panic.
    owner: thread::ThreadId,
    fails: bool,
}

impl ReadAt for Shaky<'_> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        match number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60 {
            0 => thread::sleep(Duration::from_micros(300)),
            1 => thread::yield_now(),
            2 if self.fails && thread::current().id() != self.owner => {
                return Err(io::Error::other("of the test"));
            }
            3 if self.fails && thread::current().id() != self.owner => {
                std::panic::resume_unwind(Box::new("of the test"));
            }
            _ => {}
        }
        self.encoded.read_exact_at(buf, offset)
    }
}

#[test]
fn helpers_that_are_late_or_fail_or_panic_change_nothing() {
    let encoded = deflate(&mixed(LEN), 6);
    let expected = alone(&encoded, &bare(50_000));
    for round in 0..8 {
        let source = Shaky {
            encoded: &encoded,
            reads: AtomicU64::new(round),
            owner: thread::current().id(),
            fails: round % 2 == 1,
        };
        for helpers in [1, 2, 4, 7] {
            let left = with_threads(&source, &encoded, &bare(50_000), helpers);
            assert!(left == expected, "round {round}, {helpers} helpers: {:?}", left.error);
        }
    }
}

#[test]
fn readers_anywhere_are_served_while_others_help() {
    let plain = floats(LEN);
    let encoded = deflate(&plain, 6);
    let source = &encoded[..];
    let core = core(&encoded, &bare(30_000), EAGER, 8 << 20);
    thread::scope(|scope| {
        for reader in 0..3u64 {
            let (core, plain) = (&core, &plain);
            scope.spawn(move || {
                let mut random = Random(reader + 1);
                for _ in 0..200 {
                    let at = random.next() % plain.len() as u64;
                    core.speculation.help(&source);
                    let span = core.span_at(&source, at).unwrap().unwrap();
                    let range: Range<usize> =
                        span.start() as usize..span.start() as usize + span.bytes().len();
                    assert!(span.bytes() == &plain[range]);
                }
            });
        }
    });
}

#[test]
fn an_error_of_the_source_is_told_and_not_remembered() {
    let plain = floats(LEN);
    let encoded = deflate(&plain, 6);
    struct Failing<'a>(&'a [u8], AtomicBool);
    impl ReadAt for Failing<'_> {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            match self.1.load(Ordering::Relaxed) {
                true => Err(io::Error::other("of the test")),
                false => self.0.read_exact_at(buf, offset),
            }
        }
    }
    let source = Failing(&encoded, AtomicBool::new(false));
    let core = core(&encoded, &bare(100_000), EAGER, PLENTY);
    let mut at = 0;
    while at < plain.len() as u64 {
        (0..3).for_each(|_| _ = core.speculation.help(&source));
        source.1.store(true, Ordering::Relaxed);
        let failed = core.span_at(&source, at);
        source.1.store(false, Ordering::Relaxed);
        let span = match failed {
            Err(Error::Source(_)) => core.span_at(&source, at).unwrap().unwrap(),
            other => other.unwrap().unwrap(),
        };
        assert!(span.bytes() == &plain[at as usize..at as usize + span.bytes().len()]);
        at += span.bytes().len() as u64;
    }
}
