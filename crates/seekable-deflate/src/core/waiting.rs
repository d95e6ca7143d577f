//! Threads that wait for a span which another thread decodes get an answer, however the decoding
//! ends.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Memory, ReadAt, SavedIndex, Span, core::Core, testing};

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
    fn tell(&self, on_read: OnRead) {
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

/// A stream of 50,000 decoded bytes in spans of 10,000. Each byte has the value offset / 1000. No
/// span is cached. The source blocks reads at first.
fn stream() -> (Arc<Core>, Arc<Gated>) {
    let (encoded, options) = testing::fifty_blocks();
    let core = Core::new(0..encoded.len() as u64, options, Memory::new(0));
    let source = Gated { encoded, on_read: Mutex::new(OnRead::Block), changed: Condvar::new() };
    (core, Arc::new(source))
}

type Answer = Result<Option<Span>, Error>;

/// Waits for the answer, which must be a span.
fn span(answered: &Receiver<Answer>) -> Span {
    answered.recv_timeout(DEADLINE).expect("nobody is left waiting").unwrap().unwrap()
}

/// Asks for the span that holds decoded byte `offset`, on a new thread.
fn ask(core: &Arc<Core>, source: &Arc<Gated>, offset: u64) -> Receiver<Answer> {
    let (answer, answered) = mpsc::channel();
    let (core, source) = (Arc::clone(core), Arc::clone(source));
    thread::spawn(move || answer.send(core.span_at(&source, offset)));
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

/// Two threads ask for bytes beyond the frontier: the first decodes at the frontier, the second
/// waits.
fn two_at_the_frontier(core: &Arc<Core>, source: &Arc<Gated>) -> [Receiver<Answer>; 2] {
    let first = ask(core, source, 49_999);
    until(|| core.lock().is_in_flight(0));
    let second = ask(core, source, 30_000);
    until(|| core.lock().waiting_for(0) == 1);
    [first, second]
}

#[test]
fn a_failure_at_the_frontier_is_told_to_all_who_wait() {
    let (core, source) = stream();
    let both = two_at_the_frontier(&core, &source);
    source.tell(OnRead::Fail);
    for answered in both {
        let answer = answered.recv_timeout(DEADLINE).expect("nobody is left waiting");
        assert!(matches!(answer, Err(Error::Source(_))));
    }
    source.tell(OnRead::Serve);
    assert!(is_right(&ask(&core, &source, 30_000), 30_000));
}

#[test]
fn a_panic_at_the_frontier_leaves_nobody_waiting() {
    let (core, source) = stream();
    let [first, second] = two_at_the_frontier(&core, &source);
    source.tell(OnRead::Panic);
    assert!(first.recv_timeout(DEADLINE).is_err(), "it panicked");
    assert!(is_right(&second, 30_000));
}

/// After a complete pass, threads ask for bytes of the first span: one thread decodes the span, the
/// others wait.
fn all_behind<const N: usize>(
    core: &Arc<Core>,
    source: &Arc<Gated>,
    offsets: [u64; N],
) -> [Receiver<Answer>; N] {
    source.tell(OnRead::Serve);
    assert!(is_right(&ask(core, source, 49_999), 49_999));
    source.tell(OnRead::Block);
    let all = offsets.map(|offset| {
        let answered = ask(core, source, offset);
        until(|| core.lock().is_in_flight(0));
        answered
    });
    until(|| core.lock().waiting_for(0) == N - 1);
    all
}

#[test]
fn all_who_want_a_span_get_one_decode_of_it_though_no_memory_keeps_it() {
    let (core, source) = stream();
    let all = all_behind(&core, &source, [5000, 6000, 7000, 8000]);
    source.tell(OnRead::Serve);
    let spans = all.map(|answered| span(&answered));
    let first = spans[0].bytes();
    assert_eq!([0, 5000, 9999].map(|at| first[at]), [0, 5, 9]);
    assert!(spans.iter().all(|span| span.bytes().as_ptr() == first.as_ptr()));
    assert!(!core.lock().is_in_flight(0));
}

#[test]
fn a_panic_behind_the_frontier_leaves_nobody_waiting() {
    let (core, source) = stream();
    let [first, second] = all_behind(&core, &source, [5000, 6000]);
    source.tell(OnRead::Panic);
    assert!(first.recv_timeout(DEADLINE).is_err(), "it panicked");
    assert!(is_right(&second, 6000));
    assert!(!core.lock().is_in_flight(0));
}

#[test]
fn an_index_that_is_adopted_during_a_pass_takes_effect_behind_its_span() {
    let (other, source) = stream();
    source.tell(OnRead::Serve);
    assert!(is_right(&ask(&other, &source, 49_999), 49_999));
    let mut index = Vec::new();
    assert!(other.write_index(&source, &mut index).unwrap());
    let len = index.len() as u64;
    let saved = SavedIndex::new(Arc::new(index), 0..len).unwrap();

    let (core, source) = stream();
    let [first, second] = two_at_the_frontier(&core, &source);
    core.adopt(&saved).unwrap();
    assert_eq!(core.lock().index().frontier(), 0, "somebody is at work there");
    source.tell(OnRead::Serve);
    assert!(is_right(&first, 49_999) && is_right(&second, 30_000));
    let state = core.lock();
    assert_eq!((state.index().len(), state.index().frontier()), (5, 50_000));
    drop(state);
    for offset in (0..50_000).step_by(1000) {
        assert!(is_right(&ask(&core, &source, offset), offset));
    }
}
