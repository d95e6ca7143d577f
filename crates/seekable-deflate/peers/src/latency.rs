//! Measures how long a read of 4 KiB takes by an index, if the bytes are not cached.

use std::{
    io::{Read, Seek, SeekFrom},
    sync::Arc,
    time::{Duration, Instant},
};

use rapidgzip_core::IndexedReader;

use crate::{
    cases::{Outcome, Stream},
    data::Random,
    ours::Indexed,
    peers,
};

const READ: usize = 4096;

/// Number of timed reads of each reader.
const READS: usize = 2000;

/// Random reads by seekable-deflate and by rapidgzip-core, the only other decoder that has an
/// index. They take turns, and read the same bytes.
///
/// Another row has the rate, in decoded bytes, of packing the windows and writing our index.
pub fn random_reads(stream: &Stream) -> [Outcome; 3] {
    let indexed = Indexed::new(stream);
    let index = peers::index(stream);
    let index_bytes = [indexed.saved_len, peers::native_len(&index)];
    let mut seekable =
        IndexedReader::new(Arc::clone(stream.encoded), index).expect("it is its own");

    let mut times = [const { Vec::new() }; 2];
    let mut bytes = [0; READ];
    for at in offsets(&indexed.starts, stream.plain.len()) {
        let expected = &stream.plain[at as usize..][..READ];
        let began = Instant::now();
        let len = indexed.reader.read_at(&mut bytes, at).expect("the stream is good");
        times[0].push(began.elapsed());
        assert!(len == READ && bytes == expected);

        let began = Instant::now();
        seekable.seek(SeekFrom::Start(at)).expect("it is before the end");
        seekable.read_exact(&mut bytes).expect("the stream is good");
        times[1].push(began.elapsed());
        assert!(bytes == expected);
    }

    let [ours, theirs] = times.map(|mut times| {
        times.sort();
        let at = |share: usize| micros(times[times.len() * share / 100]);
        (at(50), at(99))
    });
    let outcome = |case, (p50, p99), index_bytes| Outcome {
        data: stream.kind,
        case,
        threads: 1,
        p50_us: Some(p50),
        p99_us: Some(p99),
        index_bytes: Some(index_bytes),
        decoded_bytes: stream.plain.len() as u64,
        ..Outcome::default()
    };
    let saving = Outcome {
        data: stream.kind,
        case: "saving the index",
        threads: 1,
        mb_per_s: Some(stream.plain.len() as f64 / indexed.saving.as_secs_f64() / 1e6),
        decoded_bytes: stream.plain.len() as u64,
        ..Outcome::default()
    };
    [
        saving,
        outcome("random 4 KiB", ours, index_bytes[0]),
        outcome("rapidgzip-core, random 4 KiB", theirs, index_bytes[1]),
    ]
}

/// A random offset in each span. The spans come in an order that is shuffled once: before a span
/// comes again, all others are read, which are more than fit into the memory.
fn offsets(starts: &[u64], len: usize) -> impl Iterator<Item = u64> {
    let mut random = Random::new(7);
    let ends = starts[1..].iter().copied().chain([len as u64]);
    let mut spans: Vec<_> = starts.iter().copied().zip(ends).collect();
    for at in (1..spans.len()).rev() {
        spans.swap(at, random.below(at as u64 + 1) as usize);
    }
    let last = (len - READ) as u64;
    let offsets = spans.into_iter().cycle().take(READS);
    offsets.map(move |(start, end)| last.min(start + random.below(end - start)))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
