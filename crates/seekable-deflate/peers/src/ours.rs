//! The cases of seekable-deflate: the decoder alone; first passes, which leave checkpoints and a
//! CRC-32 of each span; and decoding by an index, which compares these checksums.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use seekable_deflate::{DEFAULT_SPACING, DeflateReader, Format, Memory, Options};

use crate::{
    cases::{Case, Stream, Take},
    data,
};

/// Memory budget of a first pass with any number of threads, in bytes: the default of npzfs.
const MEMORY: u64 = 64 << 20;

/// The decoder alone, and with each number of threads a first pass and decoding by an index.
pub fn cases<'a>(stream: &Stream<'a>, threads: &[usize]) -> Vec<Case<'a>> {
    let mut cases = vec![plain(stream)];
    cases.extend(threads.iter().map(|threads| first_pass(stream, *threads)));
    let indexed = Rc::new(Indexed::new(stream));
    for &threads in threads {
        let indexed = Rc::clone(&indexed);
        let decode = move |take: Take| indexed.decode(threads, take);
        cases.push(Case::new("with an index", threads, decode));
    }
    cases
}

/// The decoder without checkpoints, CRC-32 and spans. What a first pass takes longer than this is
/// their cost.
fn plain<'a>(stream: &Stream<'a>) -> Case<'a> {
    let encoded = &stream.encoded[..];
    let mut decoded = Vec::new();
    let decode = move |take: Take| {
        seekable_deflate::inflate(encoded, &mut decoded).expect("the stream is good");
        take(0, &decoded);
    };
    Case::new("without checkpoints", 1, decode)
}

/// One thread reads in sequence, while the others help.
fn first_pass<'a>(stream: &Stream<'a>, threads: usize) -> Case<'a> {
    let memory = Memory::new(MEMORY);
    // Readers of earlier runs. Their spans fill the memory, and the next pass uses their buffers
    // again, as in a server that has run for a while. Fresh buffers cost page faults, which take
    // longer than the decoding of zeros.
    let kept = 2 + MEMORY as usize / stream.plain.len();
    let before = Rc::new(RefCell::new(VecDeque::from([filler(MEMORY, &memory)])));
    let stream = *stream;
    let readers = Rc::clone(&before);
    let decode = move |take: Take| {
        let reader = reader(&stream, &memory);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        if !reader.help() {
                            thread::sleep(Duration::from_micros(50));
                        }
                    }
                });
            }
            let mut at = 0;
            while let Some(span) = reader.span_at(at).expect("the stream is good") {
                take(at, span.bytes());
                let start = at;
                at += span.bytes().len() as u64;
                // As npzfs does for a sequential reader: the next spans are decoded into buffers
                // that are still in the caches of the processor.
                drop(span);
                reader.give_up(start..at);
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(reader.progress().verdict.damage().is_none());
        readers.borrow_mut().push_back(reader);
    };
    // Without this idle work, the next pass would have to make room for its own windows.
    let idle = move || {
        let mut before = before.borrow_mut();
        while before.len() > kept {
            before.pop_front();
        }
        for reader in before.iter() {
            reader.write_index(&mut std::io::sink()).expect("a sink takes all");
        }
    };
    Case { idle: Box::new(idle), ..Case::new("first pass", threads, decode) }
}

/// A reader of `len` zeros, all of which have been read, so that its spans fill `memory`.
fn filler(len: u64, memory: &Arc<Memory>) -> DeflateReader<Arc<Vec<u8>>> {
    let encoded = data::deflate_zeros(len);
    let (format, spacing) = (Format::Deflate, DEFAULT_SPACING);
    let options = Options { format, spacing, decoded_len: None, crc32: None };
    let range = 0..encoded.len() as u64;
    let reader = DeflateReader::new(Arc::new(encoded), range, options, Arc::clone(memory));
    reader.read_at(&mut [0], len - 1).expect("the stream is good");
    reader
}

/// A reader from which nothing has been read yet.
fn reader(stream: &Stream, memory: &Arc<Memory>) -> DeflateReader<Arc<Vec<u8>>> {
    let options = Options {
        format: Format::Deflate,
        spacing: stream.spacing(),
        decoded_len: Some(stream.plain.len() as u64),
        crc32: Some(stream.crc32),
    };
    let encoded = 0..stream.encoded.len() as u64;
    DeflateReader::new(Arc::clone(stream.encoded), encoded, options, Arc::clone(memory))
}

/// A reader whose frontier is at the end: every byte has been read once.
#[derive(Debug)]
pub struct Indexed {
    /// The reader, whose memory holds half of the decoded bytes.
    pub reader: DeflateReader<Arc<Vec<u8>>>,
    /// The decoded offsets at which spans start.
    pub starts: Vec<u64>,
    /// The time that packing the windows and writing the index took.
    pub saving: Duration,
    /// Length of the saved index in bytes.
    pub saved_len: u64,
}

impl Indexed {
    /// Reads all of `stream` once, and saves the index. The memory holds half of the bytes: each
    /// later run in the same order finds none of them cached, but buffers to use again.
    pub fn new(stream: &Stream) -> Self {
        let reader = reader(stream, &Memory::new(stream.plain.len() as u64 / 2));
        let mut starts = Vec::new();
        let mut at = 0;
        while let Some(span) = reader.span_at(at).expect("the stream is good") {
            starts.push(at);
            at += span.bytes().len() as u64;
        }
        let began = Instant::now();
        let mut saved = Vec::new();
        reader.write_index(&mut saved).expect("a vector takes all");
        Self { reader, starts, saving: began.elapsed(), saved_len: saved.len() as u64 }
    }

    /// Decodes the whole stream; each thread decodes two spans at once where that is faster.
    fn decode(&self, threads: usize, take: Take) {
        let (next, cached) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            while let Some(starts) = self.starts.chunks(2).nth(next.fetch_add(1, Ordering::Relaxed))
            {
                let ask = |start: &u64| self.reader.expect(*start..*start + 1);
                let works: Vec<_> = starts.iter().flat_map(ask).collect();
                cached.fetch_add(starts.len() - works.len(), Ordering::Relaxed);
                // Nobody waits, so no answers and no works follow.
                works.into_iter().for_each(|work| drop(work.run(true)));
                for &start in starts {
                    let span = self.reader.span_at(start).expect("the stream is good");
                    take(start, span.expect("a span starts here").bytes());
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        // A few spans may be cached: those that a delayed thread inserted last in the run before.
        let cached = cached.into_inner();
        if cached > 2 * threads {
            eprintln!("{cached} of {} spans were not decoded", self.starts.len());
        }
    }
}
