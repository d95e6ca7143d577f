//! Sources that fail, end early or panic, and the number of bytes read from a good source.

use std::{
    io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use seekable_deflate::{DeflateReader, Error, Memory};

use crate::support::*;

/// A source that calls `fail` in one read: in the `n`-th one after the counter is set to `n`.
fn failing(encoded: Vec<u8>, fail: fn() -> io::Result<()>) -> (Probe, Arc<AtomicU64>) {
    let countdown = Arc::new(AtomicU64::new(u64::MAX));
    let left = Arc::clone(&countdown);
    let probe = Probe::with_hook(encoded, move |_, _| match left.fetch_sub(1, Ordering::SeqCst) {
        1 => fail(),
        _ => Ok(()),
    });
    (probe, countdown)
}

#[test]
fn an_error_of_the_source_is_passed_on_and_the_next_read_goes_on() {
    let plain = data(Data::Noise, 300_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    for fail_at in 1..12 {
        let (source, countdown) = failing(encoded.clone(), || Err(io::Error::other("unplugged")));
        let memory = Memory::new(PLENTY);
        let reader = reader_within(&source, known(&plain, 100_000), &memory);
        for round in ["first pass", "before the frontier"] {
            countdown.store(fail_at, Ordering::SeqCst);
            let mut failures = 0;
            for offset in (0..300_000).step_by(50_000) {
                let frontier = reader.progress().frontier;
                match read(&reader, offset, 50_000) {
                    Ok(bytes) => assert!(bytes == slice(&plain, offset, 50_000)),
                    Err(Error::Source(error)) => {
                        assert_eq!(error.to_string(), "unplugged");
                        assert_eq!(reader.progress().frontier, frontier);
                        failures += 1;
                        let again = read(&reader, offset, 50_000).unwrap();
                        assert!(again == slice(&plain, offset, 50_000));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            // Each round reads at least five chunks.
            assert!(failures == 1 || failures == 0 && fail_at > 5, "{round}, read {fail_at}");
            assert!(
                reader.progress().verdict.damage().is_none()
                    && reader.progress().verdict.stopped().is_none()
            );
            memory.clear();
        }
    }
}

#[test]
fn a_source_that_panics_leaves_the_reader_as_it_was() {
    let plain = data(Data::Noise, 300_000, 1);
    let (source, countdown) =
        failing(deflate(&plain, Encoder::Flate2(6)), || panic!("a broken source"));
    let memory = Memory::new(PLENTY);
    let reader = reader_within(&source, known(&plain, 100_000), &memory);
    for offset in [150_000, 0] {
        countdown.store(2, Ordering::SeqCst);
        let result = catch_unwind(AssertUnwindSafe(|| read(&reader, offset, 100_000)));
        assert!(result.is_err());
        assert!(read(&reader, offset, 100_000).unwrap() == slice(&plain, offset, 100_000));
        memory.clear();
    }
}

#[test]
fn a_source_shorter_than_the_range_is_an_error_of_the_source() {
    let plain = data(Data::Noise, 200_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let range = 0..encoded.len() as u64;
    let short = &encoded[..150_000];
    let reader = DeflateReader::new(short, range, bare(10_000), Memory::new(PLENTY));
    assert!(read(&reader, 0, 100_000).unwrap() == plain[..100_000]);
    let error = read(&reader, 199_999, 1).unwrap_err();
    assert!(
        matches!(&error, Error::Source(error) if error.kind() == io::ErrorKind::UnexpectedEof),
        "{error:?}"
    );
    assert!(reader.progress().verdict.stopped().is_none());
}

#[test]
fn ranges_that_cannot_be_are_errors_and_not_panics() {
    for range in [0..u64::MAX, u64::MAX - 1..u64::MAX, 5..5, Range { start: 9, end: 3 }] {
        let reader = DeflateReader::new(&b""[..], range, bare(1), Memory::new(PLENTY));
        assert!(matches!(read(&reader, 0, 1), Err(Error::Source(_) | Error::Truncated { .. })));
    }
}

#[test]
fn nothing_is_read_before_the_first_read() {
    let source = Probe::new(vec![0; 100]);
    let reader = reader(&source, bare(1000));
    assert_eq!(reader.progress().frontier, 0);
    assert!(!is_cached(&reader, 0));
    assert_eq!(read(&reader, 0, 0).unwrap(), []);
    assert_eq!(source.bytes_read(), 0);
}

#[test]
fn the_first_pass_reads_each_encoded_byte_once() {
    let plain = data(Data::Noise, 3_000_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let len = encoded.len() as u64;
    let source = Probe::new(encoded);
    let reader = reader(&source, known(&plain, 1 << 20));
    for offset in (0..plain.len() as u64).step_by(100_000) {
        assert!(read(&reader, offset, 100_000).unwrap() == slice(&plain, offset, 100_000));
    }
    assert_eq!(source.bytes_read(), len);
}

#[test]
fn a_row_before_the_frontier_costs_the_encoded_bytes_of_its_span() {
    let plain = data(Data::Floats, 4 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let ratio = plain.len() as u64 / encoded.len() as u64;
    assert!(ratio >= 1);
    let source = Probe::new(encoded);
    let memory = Memory::new(PLENTY);
    let spacing = 128 << 10;
    let reader = reader_within(&source, known(&plain, spacing), &memory);
    read(&reader, plain.len() as u64 - 1, 1).unwrap();
    let mut random = Random::new(1);
    for _ in 0..100 {
        memory.clear();
        let before = source.bytes_read();
        let offset = random.below(plain.len() as u64 / 4096 - 1) * 4096;
        assert!(read(&reader, offset, 4096).unwrap() == slice(&plain, offset, 4096));
        let cost = source.bytes_read() - before;
        // At most two spans, if the row crosses a boundary, and the headers of their blocks.
        assert!(cost <= 2 * (spacing + 1000), "{cost} bytes");
    }
}
