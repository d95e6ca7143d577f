//! Writes indexes, and continues from them.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex},
    thread,
};

use proptest::prelude::*;
use seekable_deflate::{
    DeflateReader, Error, Format, IndexError, Memory, Options, ReadAt, SavedIndex,
};

use crate::{bits::giant_block, support::*};

/// The index of what `reader` has decoded, if there is one worth writing.
pub fn written<R: ReadAt>(reader: &DeflateReader<R>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let wrote = reader.write_index(&mut bytes).expect("a vector takes all");
    assert_eq!(wrote, !bytes.is_empty());
    wrote.then_some(bytes)
}

pub fn load(bytes: Vec<u8>) -> Result<SavedIndex, IndexError> {
    let range = 0..bytes.len() as u64;
    SavedIndex::new(Arc::new(bytes), range)
}

/// Where the windows of `index` begin (docs/index-format.md).
pub fn windows_at(index: &[u8]) -> usize {
    let number = |at: usize| u32::from_le_bytes(*index[at..].first_chunk().expect("a header"));
    let (checkpoints, block_crcs) = (number(56), number(88));
    96 + 48 * checkpoints as usize + 4 * block_crcs as usize
}

/// A reader that continues from `index`.
pub fn resumed<R: Source>(source: R, options: Options, index: Vec<u8>) -> DeflateReader<R> {
    let reader = reader(source, options);
    reader.adopt_index(load(index).expect("it was just written")).expect("it is of this stream");
    reader
}

/// Streams of all kinds: the name, the format, the encoded bytes, and the decoded bytes.
pub fn streams() -> Vec<(&'static str, Format, Vec<u8>, Vec<u8>)> {
    let mut streams = Vec::new();
    for (name, kind, encoder) in [
        ("labels", Data::Labels, Encoder::Flate2(6)),
        ("floats", Data::Floats, Encoder::Libdeflate(6)),
        ("noise, stored", Data::Noise, Encoder::Flate2(0)),
        ("zeros", Data::Zeros, Encoder::Flate2(9)),
        ("mixed", Data::Mixed, Encoder::Flate2(1)),
        ("nothing", Data::Noise, Encoder::Flate2(6)),
    ] {
        let plain = data(kind, if name == "nothing" { 0 } else { 400_000 }, 7);
        streams.push((name, Format::Deflate, deflate(&plain, encoder), plain));
    }
    let (encoded, plain) = giant_block(true, 300_000);
    streams.push(("one block", Format::Deflate, encoded, plain));

    let (mut encoded, mut plain) = (Vec::new(), Vec::new());
    for number in 0..9 {
        let part = data(Data::Mixed, [0, 70_000, 1, 20_000][number % 4], number as u64);
        let mut encoder = flate2::write::GzEncoder::new(encoded, flate2::Compression::new(6));
        io::Write::write_all(&mut encoder, &part).expect("a vector takes all");
        encoded = encoder.finish().expect("a vector takes all");
        plain.extend(part);
    }
    streams.push(("gzip members", Format::Gzip, encoded, plain));
    streams
}

pub fn options(format: Format, plain: &[u8], spacing: u64, is_known: bool) -> Options {
    let options = if is_known { known(plain, spacing) } else { bare(spacing) };
    Options { format, ..options }
}

#[test]
fn from_every_frontier_a_later_reader_goes_on_and_decodes_nothing_twice() {
    for (name, format, encoded, plain) in streams() {
        for (spacing, is_known) in [(20_000, true), (50_000, false), (70_000, true)] {
            let options = options(format, &plain, spacing, is_known);
            let first = reader(&encoded[..], options.clone());
            let mut saves = 0;
            loop {
                if let Some(index) = written(&first) {
                    saves += 1;
                    let source = Probe::new(encoded.clone());
                    let later = resumed(&source, options.clone(), index);
                    assert_eq!(source.bytes_read(), 0);
                    assert_eq!(later.progress().frontier, first.progress().frontier);
                    assert_eq!(
                        later.progress().verdict.is_ended(),
                        first.progress().verdict.is_ended()
                    );
                    check_reads(&later, &plain, &mut Random::new(saves), 4);
                    read(&later, plain.len() as u64, 1).unwrap();
                    assert!(
                        later.progress().verdict.is_ended()
                            && later.progress().verdict.damage().is_none(),
                        "{name}"
                    );
                    // An index that the continuing reader writes is as good.
                    if let Some(index) = written(&later) {
                        let last = resumed(&encoded[..], options.clone(), index);
                        assert!(last.progress().verdict.is_ended());
                        check_reads(&last, &plain, &mut Random::new(saves), 2);
                    }
                }
                if first.progress().verdict.is_ended()
                    || first.span_at(first.progress().frontier).unwrap().is_none()
                {
                    break;
                }
            }
            let fewest = (plain.len() as u64 / spacing).saturating_sub(1);
            assert!(saves >= fewest, "{name}: {saves} of {fewest}");
        }
    }
}

#[test]
fn a_read_with_an_adopted_index_reads_the_source_of_one_span() {
    let plain = data(Data::Noise, 4 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(0));
    let options = known(&plain, 256 << 10);
    let first = reader(&encoded[..], options.clone());
    read(&first, 0, plain.len()).unwrap();
    let index = written(&first).unwrap();
    let source = Probe::new(encoded.clone());
    let later = resumed(&source, options, index);
    let mut random = Random::new(1);
    for reads in 1..10 {
        let offset = random.below(plain.len() as u64 - 100);
        assert!(read(&later, offset, 1).unwrap() == slice(&plain, offset, 1));
        // A stored stream has as many encoded bytes as decoded ones. Reads are of 64 KiB.
        assert!(source.bytes_read() <= reads * (384 << 10), "{}", source.bytes_read());
    }
}

#[test]
fn the_promised_checksum_is_judged_over_both_halves_of_a_pass() {
    let plain = data(Data::Text, 300_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let mut options = known(&plain, 50_000);
    for right in [true, false] {
        if !right {
            options.crc32 = options.crc32.map(|crc| !crc);
        }
        let first = reader(&encoded[..], options.clone());
        read(&first, 0, 120_000).unwrap();
        let later = resumed(&encoded[..], options.clone(), written(&first).unwrap());
        let end = read(&later, plain.len() as u64 - 1, 1);
        assert_eq!(end.is_ok(), right);
        assert_eq!(
            matches!(later.progress().verdict.damage(), Some(Error::Checksum { .. })),
            !right
        );
        assert_eq!(written(&later).is_some(), right);
    }
}

/// With checkpoints 1 MiB apart. Nearly all of the saved index is deflated windows.
#[test]
fn an_index_takes_one_percent_of_the_decoded_length_at_most() {
    let len = 8 << 20;
    for (kind, most) in [(Data::Floats, 5), (Data::Labels, 5), (Data::Noise, 10)] {
        let plain = data(kind, len, 1);
        let encoded = deflate(&plain, Encoder::Flate2(6));
        let reader = reader(&encoded[..], known(&plain, 1 << 20));
        reader.read_at(&mut [0], len as u64 - 1).unwrap();
        let index = written(&reader).unwrap();
        let thousandths = index.len() * 1000 / len;
        assert!(thousandths <= most, "{kind:?}: {} bytes", index.len());
        check_reads(
            &resumed(&encoded[..], known(&plain, 1 << 20), index),
            &plain,
            &mut Random::new(1),
            4,
        );
    }
}

#[test]
fn a_stream_with_damage_or_of_a_single_span_is_not_saved() {
    let plain = data(Data::Text, 300_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let cut = reader(&encoded[..encoded.len() / 2], known(&plain, 10_000));
    assert!(read(&cut, plain.len() as u64 - 1, 1).is_err());
    assert!(cut.progress().verdict.stopped().is_some() && written(&cut).is_none());

    let single = reader(&encoded[..], known(&plain, 1 << 20));
    assert!(written(&single).is_none());
    read(&single, 0, plain.len()).unwrap();
    assert!(single.progress().verdict.is_ended() && written(&single).is_none());
}

/// A small stream whose index has windows of all kinds: encoded, decoded, options, and index.
pub fn small() -> (Vec<u8>, Vec<u8>, Options, Vec<u8>) {
    let plain = data(Data::Text, 1200, 3);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let options = known(&plain, 300);
    let first = reader(&encoded[..], options.clone());
    read(&first, 0, 800).unwrap();
    let index = written(&first).unwrap();
    drop(first);
    (encoded, plain, options, index)
}

#[test]
fn a_span_that_is_too_long_for_the_memory_is_refused() {
    let plain = data(Data::Labels, 3 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let first = reader(&encoded[..], known(&plain, 1 << 20));
    read(&first, 0, plain.len()).unwrap();
    let saved = load(written(&first).unwrap()).unwrap();
    let little = reader_within(&encoded[..], known(&plain, 1 << 20), &Memory::new(1 << 20));
    let refused = little.adopt_index(saved);
    assert!(matches!(refused, Err(IndexError::SpanTooLong { len: 1_048_576.., .. })));
    assert!(read(&little, 0, plain.len()).unwrap() == plain);
}

#[test]
fn windows_that_are_saved_take_no_memory_and_an_index_that_reaches_less_takes_none_away() {
    let plain = data(Data::Floats, 2 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let memory = Memory::new(PLENTY);
    let reader = reader_within(&encoded[..], known(&plain, 64 << 10), &memory);
    read(&reader, 0, 1 << 20).unwrap();
    let half = load(written(&reader).unwrap()).unwrap();
    read(&reader, 0, 2 << 20).unwrap();
    let raw = index_bytes(&memory);
    reader.adopt_index(half).unwrap();
    assert!(reader.progress().verdict.is_ended());
    assert!(memory.used() < raw, "{} of {raw}", memory.used());

    let whole = load(written(&reader).unwrap()).unwrap();
    assert!(whole.is_complete() && whole.frontier() == 2 << 20);
    reader.adopt_index(whole.clone()).unwrap();
    // Only the checkpoints themselves take memory.
    assert!(index_bytes(&memory) < 33 * 100, "{}", memory.used());
    check_reads(&reader, &plain, &mut Random::new(1), 6);
    assert!(written(&reader).unwrap() == written(&reader).unwrap());
}

#[test]
fn packing_changes_no_byte_and_takes_less_memory() {
    for (name, format, encoded, plain) in streams() {
        // If spans are shorter than a window, several spans make up a window.
        for spacing in [3000, 40_000] {
            let memory = Memory::new(PLENTY);
            let options = options(format, &plain, spacing, false);
            let reader = reader_within(&encoded[..], options, &memory);
            for end in [plain.len() / 2, plain.len() + 1] {
                read(&reader, 0, end).unwrap();
                let before = index_bytes(&memory);
                reader.write_index(&mut std::io::sink()).unwrap();
                let after = index_bytes(&memory);
                assert!(after <= before || name == "noise, stored", "{name}: {before} to {after}");
                for _ in 0..6 {
                    memory.clear();
                    check_reads(&reader, slice(&plain, 0, end), &mut Random::new(1), 0);
                    let offset = Random::new(end as u64).below(end as u64);
                    let found = read(&reader, offset, 100).unwrap();
                    assert!(found == slice(&plain, offset, 100), "{name}");
                }
            }
            memory.clear();
            check_reads(&reader, &plain, &mut Random::new(2), 10);
        }
    }
}

/// A disk that is full.
pub struct Full;

impl io::Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("full"))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_of_source_or_sink_is_told_and_the_next_write_succeeds() {
    let plain = data(Data::Text, 300_000, 1);
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let fails = Arc::clone(&broken);
    let source = Probe::with_hook(deflate(&plain, Encoder::Flate2(6)), move |_, _| {
        match fails.load(std::sync::atomic::Ordering::SeqCst) {
            true => Err(io::Error::other("unplugged")),
            false => Ok(()),
        }
    });
    let reader = reader(&source, known(&plain, 50_000));
    read(&reader, 0, 300_000).unwrap();
    broken.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(reader.write_index(&mut Vec::new()), Err(Error::Source(_))));
    broken.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(reader.write_index(&mut Full), Err(Error::Sink(_))));
    assert!(written(&reader).is_some());
}

#[test]
fn threads_read_pack_write_and_adopt_at_once() {
    let plain = data(Data::Mixed, 6 << 20, 5);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let options = known(&plain, 32 << 10);
    let whole = reader(&encoded[..], options.clone());
    read(&whole, 0, plain.len() + 1).unwrap();
    let whole = load(written(&whole).unwrap()).unwrap();
    for limit in [4 << 20, PLENTY] {
        let reader = reader_within(&encoded[..], options.clone(), &Memory::new(limit));
        let (reader, plain, whole) = (&reader, &plain, &whole);
        thread::scope(|scope| {
            for seed in 0..3 {
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    for step in 1..100 {
                        let offset = random.below(plain.len() as u64) * step / 100;
                        let found = read(reader, offset, 3000).unwrap();
                        assert!(found == slice(plain, offset, 3000));
                    }
                });
            }
            scope.spawn(move || {
                for _ in 0..5 {
                    reader.write_index(&mut std::io::sink()).unwrap();
                }
            });
            scope.spawn(move || {
                for _ in 0..5 {
                    if let Some(index) = written(reader) {
                        reader.adopt_index(load(index).unwrap()).unwrap();
                    }
                }
                reader.adopt_index(whole.clone()).unwrap();
            });
        });
        check_reads(reader, plain, &mut Random::new(1), 4);
        assert!(
            reader.progress().verdict.is_ended() && reader.progress().verdict.damage().is_none()
        );
    }
}

#[test]
fn an_index_may_lie_anywhere_in_its_bytes() {
    let (encoded, plain, options, index) = small();
    let around = [&[1; 33][..], &index, &[2; 7]].concat();
    let at: Range<u64> = 33..33 + index.len() as u64;
    let saved = SavedIndex::new(Arc::new(around), at).unwrap();
    assert!(saved.frontier() >= 800 && !saved.is_complete());
    let reader = reader(&encoded[..], options);
    reader.adopt_index(saved).unwrap();
    assert!(read(&reader, 0, 2000).unwrap() == plain);
    let outside = SavedIndex::new(Arc::new(vec![0u8; 10]), 5..11);
    assert!(matches!(outside, Err(IndexError::Corrupt(_))));
    assert!(matches!(load(b"an index of another kind".repeat(9)), Err(IndexError::Foreign)));
    let mut newer = index;
    newer[8] = 3;
    assert!(matches!(load(newer), Err(IndexError::Version(3))));
}

#[test]
fn the_frontier_is_known_from_the_header_alone() {
    let (.., index) = small();
    let frontier = load(index.clone()).unwrap().frontier();
    let of = |index: &[u8]| SavedIndex::frontier_in(&index, 0..index.len() as u64);
    let mut no_table = index.clone();
    no_table[96..].fill(0);
    assert_eq!(of(&no_table), Ok(frontier));
    let mut damaged = index;
    damaged[40] ^= 1;
    assert!(matches!(of(&damaged), Err(IndexError::Corrupt(_))));
    assert!(of(&damaged[..95]).is_err());
}

/// Bytes that change while others read them.
struct Changing(Mutex<Vec<u8>>);

impl ReadAt for Changing {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.lock().unwrap().read_exact_at(buf, offset)
    }
}

#[test]
fn the_table_that_was_checked_is_adopted() {
    let (encoded, plain, options, index) = small();
    let len = index.len() as u64;
    let bytes = Arc::new(Changing(Mutex::new(index)));
    let saved = SavedIndex::new(bytes.clone(), 0..len).unwrap();
    bytes.0.lock().unwrap()[96..].fill(0);
    let reader = reader(&encoded[..], options);
    reader.adopt_index(saved.clone()).unwrap();
    assert_eq!(reader.progress().frontier, saved.frontier());
    assert!(read(&reader, 900, 2000).unwrap() == plain[900..]);
}

proptest! {
    /// The checksums are corrected, so nonsense is not found by them. Reads may then give the bytes
    /// that the index describes, but nothing panics, hangs or takes much memory.
    #[test]
    fn an_index_of_nonsense_panics_nowhere(
        at in 8usize..288,
        bytes in prop::collection::vec(any::<u8>(), 1..9),
        offset in 0u64..1300,
    ) {
        let (encoded, _, options, mut index) = small();
        for (index, byte) in index[at..].iter_mut().zip(bytes) {
            *index = byte;
        }
        let table = crc32fast::hash(&index[96..288]);
        index[84..88].copy_from_slice(&table.to_le_bytes());
        let header = crc32fast::hash(&index[..92]);
        index[92..96].copy_from_slice(&header.to_le_bytes());
        if let Ok(saved) = load(index) {
            let reader = reader(&encoded[..], options);
            if reader.adopt_index(saved).is_ok() {
                let _ = read(&reader, offset, 700);
                let _ = read(&reader, 0, 1300);
                let _ = reader.write_index(&mut Vec::new());
            }
        }
    }
}
