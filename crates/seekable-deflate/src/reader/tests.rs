//! Threads that wait for a span which another thread decodes get an answer, however the decoding
//! ends.

use std::{
    io,
    ops::Range,
    slice,
    sync::{
        Arc, Condvar, Mutex,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use super::Work;
use crate::{DeflateReader, Error, Memory, ReadAt, SavedIndex, Span, testing};

/// Every test that passes is much faster than this.
const DEADLINE: Duration = Duration::from_secs(60);

/// How the source answers reads.
#[derive(Clone, Copy)]
enum OnRead {
    Block,
    Serve,
    Fail,
    /// Panic in the first read, serve later reads.
    Panic,
}

/// A source that answers reads as the test says.
struct Gated {
    encoded: Vec<u8>,
    on_read: Mutex<OnRead>,
    changed: Condvar,
}

impl Gated {
    fn set(&self, on_read: OnRead) {
        *self.on_read.lock().unwrap() = on_read;
        self.changed.notify_all();
    }
}

impl ReadAt for Gated {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let on_read = self.on_read.lock().unwrap();
        let is_waiting = |on_read: &mut OnRead| matches!(on_read, OnRead::Block);
        let mut on_read = self.changed.wait_while(on_read, is_waiting).unwrap();
        let now = *on_read;
        if let OnRead::Panic = now {
            *on_read = OnRead::Serve;
        }
        drop(on_read);
        match now {
            OnRead::Fail => Err(io::Error::other("unplugged")),
            OnRead::Panic => panic!("a broken source"),
            OnRead::Block | OnRead::Serve => self.encoded.read_exact_at(buf, offset),
        }
    }
}

type Reader = Arc<DeflateReader<Arc<Gated>>>;

/// A stream of 50,000 decoded bytes in spans of 10,000. Each byte has the value offset / 1000. No
/// span is cached. The source blocks reads at first.
fn stream() -> (Reader, Arc<Gated>) {
    let (encoded, options) = testing::fifty_blocks();
    let len = encoded.len() as u64;
    let source = Gated { encoded, on_read: Mutex::new(OnRead::Block), changed: Condvar::new() };
    let source = Arc::new(source);
    let reader = DeflateReader::new(Arc::clone(&source), 0..len, options, Memory::new(0));
    (Arc::new(reader), source)
}

type Answer = Result<Option<Span>, Error>;

/// Waits for the answer, which must be a span.
fn span(answered: &Receiver<Answer>) -> Span {
    answered.recv_timeout(DEADLINE).expect("nobody is left waiting").unwrap().unwrap()
}

/// Asks for the span that holds decoded byte `offset`, on a new thread.
fn ask(reader: &Reader, offset: u64) -> Receiver<Answer> {
    let (answer, answered) = mpsc::channel();
    let reader = Arc::clone(reader);
    thread::spawn(move || answer.send(reader.span_at(offset)));
    answered
}

fn is_right(answered: &Receiver<Answer>, offset: u64) -> bool {
    let span = span(answered);
    span.bytes()[(offset - span.start()) as usize] == (offset / 1000) as u8
}

fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "it does not come to that");
        thread::yield_now();
    }
}

/// Number of askers of the span that a thread is decoding. That thread is one of them.
fn askers(reader: &Reader) -> usize {
    reader.shared.table.lock().running_askers()
}

/// Asks for these offsets on new threads, one after the other: the first thread decodes the first
/// span, the others wait for the same entry.
fn together<const N: usize>(reader: &Reader, offsets: [u64; N]) -> [Receiver<Answer>; N] {
    let mut count = 0;
    offsets.map(|offset| {
        let answered = ask(reader, offset);
        count += 1;
        until(|| askers(reader) == count);
        answered
    })
}

/// Like `together`, but after a complete pass: all wait for a span before the frontier.
fn together_before_the_frontier<const N: usize>(
    reader: &Reader,
    source: &Arc<Gated>,
    offsets: [u64; N],
) -> [Receiver<Answer>; N] {
    source.set(OnRead::Serve);
    assert!(is_right(&ask(reader, 49_999), 49_999));
    source.set(OnRead::Block);
    together(reader, offsets)
}

#[test]
fn a_failure_at_the_frontier_reaches_all_who_wait() {
    let (reader, source) = stream();
    let both = together(&reader, [49_999, 30_000]);
    source.set(OnRead::Fail);
    for answered in both {
        let answer = answered.recv_timeout(DEADLINE).expect("nobody is left waiting");
        assert!(matches!(answer, Err(Error::Source(_))));
    }
    source.set(OnRead::Serve);
    assert!(is_right(&ask(&reader, 30_000), 30_000));
}

#[test]
fn a_panic_at_the_frontier_leaves_nobody_waiting() {
    let (reader, source) = stream();
    let [first, second] = together(&reader, [49_999, 30_000]);
    source.set(OnRead::Panic);
    assert!(first.recv_timeout(DEADLINE).is_err(), "it panicked");
    assert!(is_right(&second, 30_000));
}

#[test]
fn all_who_want_a_span_get_one_decode_of_it_though_no_memory_keeps_it() {
    let (reader, source) = stream();
    let all = together_before_the_frontier(&reader, &source, [5000, 6000, 7000, 8000]);
    source.set(OnRead::Serve);
    let spans = all.map(|answered| span(&answered));
    let first = spans[0].bytes();
    assert_eq!([0, 5000, 9999].map(|at| first[at]), [0, 5, 9]);
    assert!(spans.iter().all(|span| span.bytes().as_ptr() == first.as_ptr()));
    assert!(!reader.shared.table.lock().has(0));
}

#[test]
fn a_panic_before_the_frontier_leaves_nobody_waiting() {
    let (reader, source) = stream();
    let [first, second] = together_before_the_frontier(&reader, &source, [5000, 6000]);
    source.set(OnRead::Panic);
    assert!(first.recv_timeout(DEADLINE).is_err(), "it panicked");
    assert!(is_right(&second, 6000));
    assert!(!reader.shared.table.lock().has(0));
}

#[test]
fn an_index_that_is_adopted_during_a_pass_takes_effect_after_its_span() {
    let (other, source) = stream();
    source.set(OnRead::Serve);
    assert!(is_right(&ask(&other, 49_999), 49_999));
    let mut index = Vec::new();
    assert!(other.write_index(&mut index).unwrap());
    let len = index.len() as u64;
    let saved = SavedIndex::new(Arc::new(index), 0..len).unwrap();

    let (reader, source) = stream();
    let [first, second] = together(&reader, [49_999, 30_000]);
    reader.adopt_index(saved).unwrap();
    assert_eq!(reader.progress().frontier, 0, "a thread decodes there");
    source.set(OnRead::Serve);
    assert!(is_right(&first, 49_999) && is_right(&second, 30_000));
    assert_eq!((reader.shared.core().spans(), reader.progress().frontier), (5, 50_000));
    for offset in (0..50_000).step_by(1000) {
        assert!(is_right(&ask(&reader, offset), offset));
    }
}

/// The number of a range, and its bytes.
type Called = (usize, Result<Vec<u8>, Error>);

type Works = Vec<Work<Arc<Gated>>>;

/// The answers to `ask` for these ranges, with the number of the range, and the works to be run.
fn called(reader: &Reader, ranges: &[Range<u64>]) -> (Receiver<Called>, Works) {
    let (answer, answered) = mpsc::channel();
    let works = ranges.iter().enumerate().flat_map(|(number, range)| {
        let answer = answer.clone();
        reader.ask(range.clone(), move |bytes| {
            answer.send((number, bytes.map(<[u8]>::to_vec))).unwrap();
        })
    });
    (answered, works.collect())
}

/// Runs `works` and all that follow from them.
fn run_all(mut works: Works) {
    while let Some(work) = works.pop() {
        let outcome = work.run(false);
        outcome.answers.send();
        works.extend(outcome.next);
    }
}

#[test]
fn each_span_has_one_work_however_many_ask_for_it() {
    let (reader, source) = stream();
    source.set(OnRead::Serve);
    let (answered, works) = called(&reader, &[49_000..49_500, 0..500, 20_000..20_001]);
    assert_eq!(works.len(), 1, "all wait at the frontier");
    run_all(works);
    let mut answers: Vec<_> = answered.iter().collect();
    answers.sort_unstable_by_key(|(number, _)| *number);
    let expected = [vec![49; 500], vec![0; 500], vec![20]];
    assert!(answers.into_iter().map(|(_, bytes)| bytes.unwrap()).eq(expected));

    let (answered, works) = called(&reader, &[9_999..10_001, 5..6, 10_500..10_501, 30_000..30_001]);
    assert_eq!(works.len(), 3, "of the spans that begin at 0, 10,000 and 30,000");
    run_all(works);
    assert!(answered.iter().all(|(_, bytes)| bytes.is_ok()));
}

#[test]
fn those_who_wait_for_a_work_that_is_dropped_get_an_error() {
    let (reader, source) = stream();
    source.set(OnRead::Serve);
    let (answered, works) = called(&reader, &[49_000..49_500, 0..500]);
    drop(works);
    assert!(answered.iter().all(|(_, bytes)| matches!(bytes, Err(Error::Source(_)))));
    let (answered, works) = called(&reader, slice::from_ref(&(0..3)));
    run_all(works);
    assert_eq!(answered.recv().unwrap().1.unwrap(), [0; 3]);
}

#[test]
fn a_blocked_thread_runs_the_work_that_another_drops() {
    let (reader, source) = stream();
    source.set(OnRead::Serve);
    let (answered, works) = called(&reader, slice::from_ref(&(49_000..49_500)));
    let blocked = ask(&reader, 30_000);
    until(|| reader.shared.table.lock().queued_askers() == 2);
    drop(works);
    assert!(is_right(&blocked, 30_000));
    assert_eq!(answered.recv_timeout(DEADLINE).unwrap().1.unwrap(), [49; 500]);
}

#[test]
fn a_work_that_another_thread_took_over_does_nothing() {
    let (reader, source) = stream();
    source.set(OnRead::Serve);
    run_all(called(&reader, slice::from_ref(&(49_999..50_000))).1);
    let (answered, works) = called(&reader, slice::from_ref(&(5..6)));
    let stale = Work::new(&reader.shared, works[0].ticket());
    run_all(works);
    answered.recv().unwrap().1.unwrap();
    let (answered, works) = called(&reader, slice::from_ref(&(6..7)));
    assert!(stale.run(true).answers.is_empty());
    run_all(works);
    answered.recv().unwrap().1.unwrap();
}

/// A source that runs something before its next read.
struct Hooked {
    encoded: Vec<u8>,
    before: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl ReadAt for Hooked {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let before = self.before.lock().unwrap().take();
        before.into_iter().for_each(|before| before());
        self.encoded.read_exact_at(buf, offset)
    }
}

#[test]
fn a_work_counts_only_what_it_has_decoded_at_the_frontier() {
    let (encoded, options) = testing::fifty_blocks();
    let len = encoded.len() as u64;
    let source = Arc::new(Hooked { encoded, before: Mutex::default() });
    let memory = Memory::new(1 << 20);
    let reader = DeflateReader::new(Arc::clone(&source), 0..len, options, Arc::clone(&memory));
    let reader = Arc::new(reader);
    let first = reader.expect(0..1).remove(0).run(false);
    assert_eq!(first.advanced, 10_000);

    // While a work decodes the first span again, another reads the next two.
    memory.clear();
    let work = reader.expect(0..1).remove(0);
    let other = Arc::clone(&reader);
    *source.before.lock().unwrap() = Some(Box::new(move || {
        other.span_at(29_999).unwrap().unwrap();
    }));
    assert_eq!(work.run(false).advanced, 0);
    assert_eq!(reader.progress().frontier, 30_000);
}
