//! Threads on one reader, in thousands of random schedules: each asker gets one answer, and no
//! thread waits for ever.
//!
//! The engine is compiled with the locks and channels of a schedule explorer, which runs one thread
//! at a time and changes to another at every lock (`../build.rs`, `../../src/sync.rs`).

use std::{
    io,
    ops::Range,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use seekable_deflate::{DeflateReader, Error, Format, Memory, Options, ReadAt, SavedIndex, Work};
use shuttle::{
    Config, Runner,
    rand::{Rng, thread_rng},
    scheduler::RandomScheduler,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

/// Random schedules that each test runs.
const SCHEDULES: usize = 3000;

/// Decoded bytes between two checkpoints.
const SPACING: u64 = 10_000;

const LEN: u64 = 5 * SPACING;

/// Two streams of `LEN` decoded bytes, each with these bytes. They differ in one byte of the first
/// span, which is stored. Every other span is a copy of the span before it: with a window of the
/// other stream, a span decodes without a fault, but to bytes of the other stream.
static STREAMS: LazyLock<[(Vec<u8>, Vec<u8>); 2]> = LazyLock::new(|| {
    let mut number = 1u64;
    let noise = std::iter::repeat_with(|| {
        number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (number >> 56) as u8
    });
    let first: Vec<u8> = noise.take(SPACING as usize).collect();
    let mut encoder = flate2::Compress::new(flate2::Compression::new(6), false);
    encoder.set_dictionary(&first).unwrap();
    let mut copies = Vec::with_capacity(1 << 16);
    let flush = flate2::FlushCompress::Finish;
    encoder.compress_vec(&first.repeat(4), &mut copies, flush).unwrap();
    // The header of a stored block that is not the last: its length, and the complement.
    let len = SPACING as u16;
    let header = [&[0][..], &len.to_le_bytes(), &(!len).to_le_bytes()].concat();
    let mut other = first.clone();
    other[77] ^= 1;
    [first, other].map(|first| ([&header[..], &first, &copies].concat(), first.repeat(5)))
});

/// A stream of `LEN` decoded bytes, whose spans one thread decodes in pairs, and these bytes.
static DENSE: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let mut number = 1u64;
    let literals = std::iter::repeat_with(|| {
        number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (number >> 56) as u8 % 150
    });
    let plain: Vec<u8> = literals.take(LEN as usize).collect();
    let mut encoded = Vec::with_capacity(1 << 16);
    let mut encoder = flate2::Compress::new(flate2::Compression::new(6), false);
    encoder.compress_vec(&plain, &mut encoded, flate2::FlushCompress::Finish).unwrap();
    (encoded, plain)
});

fn options() -> Options {
    let (format, decoded_len) = (Format::Deflate, Some(LEN));
    Options { format, spacing: SPACING, decoded_len, crc32: None }
}

/// A source that fails one read in four, on average, while `fails` is set.
struct Source {
    encoded: Vec<u8>,
    fails: AtomicBool,
}

impl ReadAt for Source {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.fails.load(Ordering::Relaxed) && thread_rng().gen_range(0..4) == 0 {
            return Err(io::Error::other("unplugged"));
        }
        self.encoded.read_exact_at(buf, offset)
    }
}

type Reader = DeflateReader<Arc<Source>>;
type Works = Vec<Work<Arc<Source>>>;

/// A reader of the first stream.
fn stream() -> (Arc<Reader>, Arc<Source>, Arc<Memory>) {
    reader(STREAMS[0].0.clone())
}

/// A reader, its source, and its budget. By chance, the budget holds all, some or none of the spans.
fn reader(encoded: Vec<u8>) -> (Arc<Reader>, Arc<Source>, Arc<Memory>) {
    let len = encoded.len() as u64;
    let source = Arc::new(Source { encoded, fails: AtomicBool::new(false) });
    let memory = Memory::new([0, 30_000, 1 << 20][thread_rng().gen_range(0..3)]);
    let reader = DeflateReader::new(Arc::clone(&source), 0..len, options(), Arc::clone(&memory));
    (Arc::new(reader), source, memory)
}

fn range() -> Range<u64> {
    let start = thread_rng().gen_range(0..LEN - 1);
    start..LEN.min(start + thread_rng().gen_range(1..25_000))
}

/// Whether `bytes` are those that the stream of this number has in `range`.
fn are_of(stream: usize, bytes: &[u8], range: &Range<u64>) -> bool {
    bytes == &STREAMS[stream].1[range.start as usize..range.end as usize]
}

fn is_right(bytes: &[u8], range: &Range<u64>) -> bool {
    are_of(0, bytes, range)
}

/// Whether all bytes are of the same stream. Those of the first span must be of the first stream:
/// decoding that span shows that the index is wrong, before any byte is handed out.
fn is_of_one(bytes: &[u8], range: &Range<u64>) -> bool {
    is_right(bytes, range) || range.start >= SPACING && are_of(1, bytes, range)
}

/// A pool of threads that run works, as in a server. It ends when all its senders are dropped.
fn pool(threads: usize) -> (Sender<Works>, Vec<thread::JoinHandle<()>>) {
    let (queue, works) = mpsc::channel::<Works>();
    let works = Arc::new(shuttle::sync::Mutex::new(works));
    let threads = (0..threads).map(|_| {
        let works: Arc<shuttle::sync::Mutex<Receiver<Works>>> = Arc::clone(&works);
        thread::spawn(move || {
            loop {
                let taken = works.lock().unwrap().recv();
                let Ok(mut taken) = taken else { return };
                while let Some(work) = taken.pop() {
                    let outcome = work.run(thread_rng().r#gen());
                    outcome.answers.send();
                    taken.extend(outcome.next);
                }
            }
        })
    });
    (queue, threads.collect())
}

/// Asks for `count` random ranges; `pool` runs the works. Returns a receiver of each answer.
fn call(
    reader: &Reader,
    count: usize,
    pool: &Sender<Works>,
    is_fine: fn(&[u8], &Range<u64>) -> bool,
) -> Vec<Receiver<Result<(), Error>>> {
    let ask = |_| {
        let (answer, answered) = mpsc::channel();
        let range = range();
        let works = reader.ask(range.clone(), move |bytes| {
            let checked = bytes.map(|bytes| assert!(is_fine(bytes, &range)));
            answer.send(checked).unwrap();
        });
        pool.send(works).unwrap();
        answered
    };
    (0..count).map(ask).collect()
}

/// Reads `count` random ranges on a new thread, blocked in each read.
fn block(
    reader: &Arc<Reader>,
    count: usize,
    is_fine: fn(&[u8], &Range<u64>) -> bool,
) -> thread::JoinHandle<()> {
    let reader = Arc::clone(reader);
    thread::spawn(move || {
        for _ in 0..count {
            let range = range();
            let mut bytes = vec![0; (range.end - range.start) as usize];
            assert_eq!(reader.read_at(&mut bytes, range.start).unwrap(), bytes.len());
            assert!(is_fine(&bytes, &range));
        }
    })
}

fn explore(test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    // A decoder needs more stack than the 32 KiB that threads have by default in shuttle.
    config.stack_size = 512 << 10;
    Runner::new(RandomScheduler::new(SCHEDULES), config).run(test);
}

#[test]
fn all_who_read_one_stream_get_their_bytes() {
    explore(|| {
        let (reader, _, memory) = stream();
        let (queue, threads) = pool(2);
        let blocked = block(&reader, 2, is_right);
        let answers = call(&reader, 3, &queue, is_right);
        memory.clear();
        queue.send(reader.expect(range())).unwrap();
        drop(queue);
        for answered in answers {
            answered.recv().expect("an answer").unwrap();
            assert!(answered.try_recv().is_err(), "one answer");
        }
        blocked.join().unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn spans_that_are_decoded_two_at_once_reach_all_who_wait() {
    let is_right = |bytes: &[u8], range: &Range<u64>| {
        bytes == &DENSE.1[range.start as usize..range.end as usize]
    };
    explore(move || {
        let (reader, _, memory) = reader(DENSE.0.clone());
        reader.read_at(&mut [0], LEN - 1).unwrap();
        memory.clear();
        let (queue, threads) = pool(1);
        let blocked = block(&reader, 1, is_right);
        let answers = call(&reader, 4, &queue, is_right);
        drop(queue);
        answers.into_iter().for_each(|answered| answered.recv().expect("an answer").unwrap());
        blocked.join().unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_source_that_fails_and_works_that_are_dropped_leave_nobody_waiting() {
    explore(|| {
        let (reader, source, _) = stream();
        source.fails.store(true, Ordering::Relaxed);
        let blocked: Vec<_> = (0..2)
            .map(|_| {
                let reader = Arc::clone(&reader);
                thread::spawn(move || {
                    let range = range();
                    let mut bytes = vec![0; (range.end - range.start) as usize];
                    match reader.read_at(&mut bytes, range.start) {
                        Ok(len) => assert!(len == bytes.len() && is_right(&bytes, &range)),
                        Err(error) => assert!(matches!(error, Error::Source(_)), "{error}"),
                    }
                })
            })
            .collect();
        // This pool drops every work.
        let (queue, works) = mpsc::channel::<Works>();
        let dropping = thread::spawn(move || works.into_iter().for_each(drop));
        let answers = call(&reader, 2, &queue, is_right);
        drop(queue);
        for answered in answers {
            let answer = answered.recv().expect("an answer");
            assert!(matches!(answer, Ok(()) | Err(Error::Source(_))));
        }
        blocked.into_iter().for_each(|thread| thread.join().unwrap());
        dropping.join().unwrap();
    });
}

#[test]
fn a_wrong_index_gives_nobody_bytes_of_two_streams() {
    explore(|| {
        let encoded = STREAMS[1].0.clone();
        let len = encoded.len() as u64;
        let other = DeflateReader::new(encoded, 0..len, options(), Memory::new(1 << 20));
        other.read_at(&mut [0], LEN - 1).unwrap();
        let mut index = Vec::new();
        assert!(other.write_index(&mut index).unwrap());
        let len = index.len() as u64;
        let saved = SavedIndex::new(Arc::new(index), 0..len).unwrap();

        let (reader, _, _) = stream();
        let (queue, threads) = pool(1);
        let blocked = block(&reader, 1, is_of_one);
        let mut answers = call(&reader, 1, &queue, is_of_one);
        // Fails if the reader has already decoded more than the index has.
        let _ = reader.adopt_index(saved);
        answers.extend(call(&reader, 2, &queue, is_of_one));
        drop(queue);
        answers.into_iter().for_each(|answered| answered.recv().expect("an answer").unwrap());
        blocked.join().unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
