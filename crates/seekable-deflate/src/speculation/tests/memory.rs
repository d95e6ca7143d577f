//! The memory that speculative decoding takes.

use super::*;

#[test]
fn what_was_decoded_speculatively_can_be_given_up_at_any_time() {
    let plain = floats(LEN);
    let encoded = deflate(&plain, 6);
    let source = &encoded[..];
    let core = core(&encoded, &bare(100_000), EAGER, PLENTY);
    let mut at = 0;
    let mut dropped = 0;
    for turns in (1..).map(|number| number % 40) {
        for _ in 0..turns {
            assert_eq!(core.speculation.wants_help(), core.speculation.help(&source));
        }
        let Some(span) = core.span_at(&source, at as u64).unwrap() else { break };
        assert!(span.bytes() == &plain[at..at + span.bytes().len()]);
        at += span.bytes().len();
        // Helpers get no memory after `clear` until the frontier advances.
        if turns % 3 == 0 {
            dropped += u64::from(core.memory.reserved() > 0);
            core.speculation.clear();
            assert!(!core.speculation.help(&source));
            assert_eq!(core.memory.reserved(), 0);
        }
    }
    assert!(at == plain.len() && dropped > 10, "{dropped} times");
}

#[test]
fn a_job_that_runs_while_speculation_is_cleared_keeps_no_memory() {
    let encoded = deflate(&floats(LEN), 6);
    let source = &encoded[..];
    let core = core(&encoded, &bare(100_000), EAGER, PLENTY);
    let mut at = 0;
    let job = loop {
        (0..20).for_each(|_| _ = core.speculation.help(&source));
        at += core.span_at(&source, at).unwrap().unwrap().bytes().len() as u64;
        if let Some(job) = core.speculation.state.lock().chain.claim(&core.memory) {
            break job;
        }
    };
    core.speculation.clear();
    assert!(core.memory.reserved() > 0, "the job has it");
    core.speculation.run(job, &source);
    assert_eq!(core.memory.reserved(), 0);
}

#[test]
fn what_was_decoded_speculatively_goes_when_an_index_is_adopted() {
    let encoded = deflate(&floats(LEN), 6);
    let source = &encoded[..];
    let whole = core(&encoded, &bare(100_000), Tuning::DEFAULT, PLENTY);
    pass(&whole, &source, || ());
    let mut index = Vec::new();
    assert!(whole.write_index(&source, &mut index).unwrap());
    let len = index.len() as u64;
    let saved = SavedIndex::new(Arc::new(index), 0..len).unwrap();

    let core = core(&encoded, &bare(100_000), EAGER, PLENTY);
    core.span_at(&source, 0).unwrap();
    (0..20).for_each(|_| _ = core.speculation.help(&source));
    assert!(core.memory.reserved() > 0);
    core.adopt(&saved).unwrap();
    assert_eq!(core.memory.reserved(), 0);
}

#[test]
fn what_is_decoded_speculatively_stays_within_the_memory() {
    let plain = [labels(2 << 20), vec![0; 20 << 20], labels(2 << 20), floats(2 << 20)].concat();
    let encoded = deflate(&plain, 6);
    for memory in [1 << 20, 4 << 20, 16 << 20] {
        let (left, _) = in_turns(&encoded, &bare(100_000), 50, memory);
        assert!(left.bytes == plain, "{memory}");
    }
}

/// A core with a waiting job.
fn with_a_job(source: &&[u8]) -> Arc<Core> {
    let core = core(source, &bare(100_000), EAGER, PLENTY);
    let mut at = 0;
    while !core.speculation.state.lock().chain.has_waiting() {
        (0..20).for_each(|_| _ = core.speculation.help(source));
        at += core.span_at(source, at).unwrap().unwrap().bytes().len() as u64;
    }
    core
}

#[test]
fn a_span_that_is_made_speculatively_is_counted_with_its_window() {
    let encoded = deflate(&floats(LEN), 6);
    let core = with_a_job(&&encoded[..]);
    let before = core.memory.reserved();
    let job = core.speculation.state.lock().chain.claim(&core.memory).unwrap();
    assert_eq!(core.memory.reserved() - before, 100_000 + HISTORY as u64);
    drop(job);
    assert_eq!(core.memory.reserved(), before);
}

#[test]
fn no_span_is_made_speculatively_that_there_is_no_memory_for() {
    let encoded = deflate(&floats(LEN), 6);
    let core = with_a_job(&&encoded[..]);
    let others = core.memory.reserve_anyway(PLENTY / 8 * 3 - core.memory.reserved());
    assert!(core.speculation.state.lock().chain.claim(&core.memory).is_none());
    drop(others);
    assert!(core.speculation.state.lock().chain.claim(&core.memory).is_some());
}
