//! Many threads that read one stream.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use seekable_deflate::Memory;

use crate::support::*;

/// Every test that passes is much faster than this.
const DEADLINE: Duration = Duration::from_secs(60);

/// Blocks threads until it is opened.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    reached: AtomicBool,
}

impl Gate {
    fn pass(&self) {
        self.reached.store(true, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        let (open, _) = self.opened.wait_timeout_while(open, DEADLINE, |open| !*open).unwrap();
        assert!(*open, "the gate was never opened");
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn wait_until_reached(&self) {
        let start = std::time::Instant::now();
        while !self.reached.load(Ordering::SeqCst) {
            assert!(start.elapsed() < DEADLINE, "nobody came to the gate");
            thread::yield_now();
        }
    }
}

/// A source whose reads of bytes from `from` on block until the gate is opened.
fn gated(encoded: Vec<u8>, from: u64) -> (Probe, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let own = Arc::clone(&gate);
    let probe = Probe::with_hook(encoded, move |offset, len| {
        if offset + len as u64 > from {
            own.pass();
        }
        Ok(())
    });
    (probe, gate)
}

#[test]
fn eight_threads_read_one_stream() {
    for (limit, spacing) in [(PLENTY, 32 << 10), (1 << 20, 64 << 10), (0, 100_000)] {
        let plain = data(Data::Mixed, 2_000_000, 1);
        let encoded = deflate(&plain, Encoder::Flate2(6));
        let memory = Memory::new(limit);
        let reader = reader_within(&encoded[..], known(&plain, spacing), &memory);
        thread::scope(|scope| {
            for seed in 0..8 {
                let (reader, plain) = (&reader, &plain);
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    for _ in 0..40 {
                        let offset = random.below(plain.len() as u64);
                        let len = random.below(20_000) as usize;
                        let found = read(reader, offset, len).unwrap();
                        assert!(found == slice(plain, offset, len), "{len} bytes at {offset}");
                    }
                });
            }
        });
        assert!(reader.progress().verdict.damage().is_none());
    }
}

#[test]
fn threads_that_decode_two_spans_at_once_get_their_bytes_and_wait_for_nobody_for_ever() {
    for (limit, spacing) in [(PLENTY, 32 << 10), (1 << 20, 64 << 10), (0, 100_000)] {
        let plain = literals(1_000_000);
        let encoded = deflate(&plain, Encoder::Flate2(6));
        let memory = Memory::new(limit);
        let reader = reader_within(&encoded[..], known(&plain, spacing), &memory);
        thread::scope(|scope| {
            for seed in 0..8 {
                let (reader, plain, memory) = (&reader, &plain, &memory);
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    for _ in 0..40 {
                        let ats = [0; 2].map(|_| random.below(plain.len() as u64));
                        expect_two(reader, ats).into_iter().for_each(run);
                        for at in ats {
                            let span = reader.span_at(at).unwrap().unwrap();
                            assert!(plain[span.start() as usize..].starts_with(span.bytes()));
                        }
                        let len = random.below(200_000) as usize;
                        let found = read(reader, ats[0], len).unwrap();
                        assert!(found == slice(plain, ats[0], len), "{len} bytes at {ats:?}");
                        memory.clear();
                    }
                });
            }
        });
        assert!(reader.progress().verdict.damage().is_none());
    }
}

#[test]
fn threads_that_read_everything_at_once_decode_it_once() {
    let plain = data(Data::Noise, 2_000_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let len = encoded.len() as u64;
    let source = Probe::new(encoded);
    let reader = reader(&source, known(&plain, 64 << 10));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert!(read(&reader, 0, plain.len()).unwrap() == plain));
        }
    });
    assert_eq!(source.bytes_read(), len);
}

#[test]
fn a_reader_before_the_frontier_is_not_held_up_by_one_beyond_it() {
    let plain = data(Data::Noise, 1_000_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let (source, gate) = gated(encoded, 700_000);
    let memory = Memory::new(PLENTY);
    let reader = reader_within(&source, known(&plain, 64 << 10), &memory);
    read(&reader, 400_000, 1).unwrap();
    thread::scope(|scope| {
        let beyond = scope.spawn(|| read(&reader, 999_990, 10));
        gate.wait_until_reached();
        // The frontier is stuck. Reads before it succeed, cached or not; asking beyond it does not
        // block.
        assert!(read(&reader, 0, 400_000).unwrap() == plain[..400_000]);
        memory.clear();
        assert!(read(&reader, 0, 400_000).unwrap() == plain[..400_000]);
        assert!(!is_cached(&reader, 999_990));
        assert!(reader.progress().frontier < 800_000);
        gate.open();
        assert!(beyond.join().unwrap().unwrap() == plain[999_990..]);
    });
}

#[test]
fn a_reader_beyond_the_frontier_wakes_others_as_it_passes_them() {
    let plain = data(Data::Noise, 1_000_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    // The far reader is blocked at once, and then again near the end.
    let (first, last) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let gates = (Arc::clone(&first), Arc::clone(&last));
    let source = Probe::with_hook(encoded, move |offset, len| {
        if offset + len as u64 > 800_000 {
            gates.1.pass();
        } else {
            gates.0.pass();
        }
        Ok(())
    });
    // Without memory, the waiting readers can get their spans only from the one that decodes them.
    let reader = reader_within(&source, known(&plain, 64 << 10), &Memory::new(0));
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        let far = scope.spawn(|| read(&reader, 999_990, 10));
        first.wait_until_reached();
        for offset in [100_000, 100_001, 300_000, 500_000] {
            let (done, reader) = (done.clone(), &reader);
            scope.spawn(move || done.send((offset, read(reader, offset, 10))).unwrap());
        }
        first.open();
        for _ in 0..4 {
            let (offset, result) = results.recv_timeout(DEADLINE).expect("it was woken");
            assert!(result.unwrap() == slice(&plain, offset, 10));
        }
        assert!(!far.is_finished());
        last.open();
        assert!(far.join().unwrap().unwrap() == plain[999_990..]);
    });
}

#[test]
fn a_panic_at_the_frontier_leaves_nobody_waiting() {
    let plain = data(Data::Noise, 300_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let (gate, panicked) = (Arc::new(Gate::default()), AtomicBool::new(false));
    let own = Arc::clone(&gate);
    let source = Probe::with_hook(encoded, move |_, _| {
        own.pass();
        assert!(panicked.swap(true, Ordering::SeqCst), "a broken source");
        Ok(())
    });
    let reader = reader(&source, known(&plain, 64 << 10));
    thread::scope(|scope| {
        let first = scope.spawn(|| read(&reader, 299_000, 10));
        gate.wait_until_reached();
        let others: Vec<_> = (0..4)
            .map(|at| {
                scope.spawn({
                    let reader = &reader;
                    move || read(reader, at * 60_000, 10)
                })
            })
            .collect();
        gate.open();
        assert!(first.join().is_err());
        for (at, other) in others.into_iter().enumerate() {
            assert!(other.join().unwrap().unwrap() == slice(&plain, at as u64 * 60_000, 10));
        }
    });
}

#[test]
fn readers_of_one_budget_on_many_threads_stay_within_it() {
    let plain = data(Data::Floats, 1_500_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let memory = Memory::new(1 << 20);
    thread::scope(|scope| {
        for seed in 0..6 {
            let (encoded, plain, memory) = (&encoded, &plain, &memory);
            scope.spawn(move || {
                for round in 0..3 {
                    let reader = reader_within(&encoded[..], known(plain, 32 << 10), memory);
                    let mut random = Random::new(seed * 10 + round);
                    check_reads(&reader, plain, &mut random, 6);
                }
            });
        }
    });
    assert_eq!(memory.used(), 0);
}
