//! Reads that need only a part of a span decode it to the end of a block of 64 KiB. A later read
//! that needs more decodes from there.

use std::{ops::Range, sync::mpsc};

use seekable_deflate::{DeflateReader, Format, Memory, ReadAt, Work};

use crate::{
    saved::{load, options, windows_at, written},
    support::*,
};

const BLOCK: u64 = 64 << 10;

/// A budget that holds a few of the spans of a stream of `LEN` bytes.
const BUDGET: u64 = 1 << 20;
const LEN: usize = 6_400_000;

/// Asks for bytes. Returns the works, and what receives the bytes.
fn asked<R: ReadAt>(
    reader: &DeflateReader<R>,
    range: Range<u64>,
) -> (Vec<Work<R>>, mpsc::Receiver<Vec<u8>>) {
    let (answer, answered) = mpsc::channel();
    let works = reader.ask(range, move |bytes| {
        answer.send(bytes.expect("the stream is good").to_vec()).expect("the test waits");
    });
    (works, answered)
}

fn ask<R: ReadAt>(reader: &DeflateReader<R>, range: Range<u64>) -> Vec<u8> {
    let (works, answered) = asked(reader, range);
    works.into_iter().for_each(run);
    answered.try_recv().expect("all works were run")
}

#[test]
fn a_row_is_decoded_to_the_end_of_its_block_and_more_of_its_span_from_there() {
    for (kind, spacing) in [(Data::Floats, 250_000), (Data::Noise, 250_000), (Data::Text, 250_000)]
    {
        let plain = data(kind, LEN, 1);
        let encoded = deflate(&plain, Encoder::Flate2(6));
        let options = known(&plain, spacing);
        let first = reader(&encoded[..], options.clone());
        read(&first, 0, plain.len() + 1).unwrap();
        let start = first.span_at(700_000).unwrap().unwrap().start();
        let index = written(&first).unwrap();

        let source = Probe::new(encoded);
        let later = reader_within(&source, options, &Memory::new(BUDGET));
        later.adopt_index(load(index).unwrap()).unwrap();
        let mut read_before = source.bytes_read();
        let mut read_for = Vec::new();
        for end in [1, 2, 3].map(|blocks| start + blocks * BLOCK) {
            let row = end - 20..end - 10;
            assert!(ask(&later, row.clone()) == plain[row.start as usize..row.end as usize]);
            assert!(is_cached(&later, start) && is_cached(&later, end - 1));
            assert!(!is_cached(&later, end), "{kind:?}");
            read_for.push(source.bytes_read() - read_before);
            read_before = source.bytes_read();
        }
        let span = later.span_at(start + 3 * BLOCK).unwrap().unwrap();
        let whole = start as usize..start as usize + span.bytes().len();
        assert!(span.start() == start && span.bytes() == &plain[whole]);
        assert!(is_cached(&later, start + 240_000));
        // Each block takes about as many encoded bytes: none is decoded again for the next one.
        let (first, others) = (read_for[0], read_for[1] + read_for[2]);
        assert!(others < 3 * first, "{kind:?}: {read_for:?}");
    }
}

#[test]
fn a_row_in_two_spans_needs_the_end_of_one_and_the_first_block_of_the_other() {
    let plain = data(Data::Floats, LEN, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let memory = Memory::new(BUDGET);
    let reader = reader_within(&encoded[..], known(&plain, 250_000), &memory);
    read(&reader, 0, plain.len() + 1).unwrap();
    let edge = reader.span_at(700_000).unwrap().unwrap().start();
    reader.give_up(0..plain.len() as u64);
    let row = edge - 10..edge + 10;
    assert!(ask(&reader, row.clone()) == plain[row.start as usize..row.end as usize]);
    assert!(is_cached(&reader, edge - 200_000) && is_cached(&reader, edge + BLOCK - 1));
    assert!(!is_cached(&reader, edge + BLOCK));
}

#[test]
fn random_rows_of_parts_of_spans_equal_the_plain_bytes() {
    for (kind, format, spacing) in [
        (Data::Floats, Format::Deflate, 250_000),
        (Data::Noise, Format::Deflate, 200_000),
        (Data::Mixed, Format::Gzip, 131_072),
        (Data::Zeros, Format::Deflate, 250_000),
    ] {
        let plain = data(kind, LEN, 3);
        let encoded = match format {
            Format::Deflate => deflate(&plain, Encoder::Flate2(6)),
            Format::Gzip => {
                let compression = flate2::Compression::new(6);
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), compression);
                std::io::Write::write_all(&mut encoder, &plain).unwrap();
                encoder.finish().unwrap()
            }
        };
        let memory = Memory::new(BUDGET);
        let reader = reader_within(&encoded[..], options(format, &plain, spacing, true), &memory);
        read(&reader, 0, plain.len() + 1).unwrap();
        let mut random = Random::new(5);
        for round in 0..300 {
            let rows = [0; 2].map(|_| {
                let offset = random.below(plain.len() as u64 - 1);
                let longest = [10, 5000, 200_000][random.below(3) as usize];
                offset..(offset + 1 + random.below(longest)).min(plain.len() as u64)
            });
            // Both are asked for before one is decoded, so that dense spans are decoded at once.
            let asked = rows.clone().map(|row| asked(&reader, row));
            let (works, answers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
            works.into_iter().flatten().for_each(run);
            for (row, answered) in rows.into_iter().zip(answers) {
                let found = answered.try_recv().expect("all works were run");
                let right = &plain[row.start as usize..row.end as usize];
                assert!(found == right, "{kind:?} round {round} {row:?}");
            }
            if round % 7 == 0 {
                memory.clear();
            }
        }
    }
}

#[test]
fn an_index_with_a_wrong_checksum_of_a_block_is_dropped() {
    let plain = data(Data::Floats, LEN, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let options = known(&plain, 250_000);
    let first = reader(&encoded[..], options.clone());
    read(&first, 0, plain.len() + 1).unwrap();
    let mut index = written(&first).unwrap();
    let windows = windows_at(&index);
    // Before the windows are the checksums of three ends of blocks for each span of 250,000 bytes.
    // This is the first one of the second span.
    let checksums = 3 * (LEN / 250_000) + (LEN % 250_000 - 1) / BLOCK as usize;
    index[windows - 4 * checksums + 4 * 3] ^= 1;
    let table = crc32fast::hash(&index[96..windows]);
    index[84..88].copy_from_slice(&table.to_le_bytes());
    let header = crc32fast::hash(&index[..92]);
    index[92..96].copy_from_slice(&header.to_le_bytes());

    let later = reader_within(&encoded[..], options, &Memory::new(BUDGET));
    later.adopt_index(load(index).unwrap()).unwrap();
    assert!(ask(&later, 10..20) == plain[10..20]);
    assert!(!later.progress().has_dropped_index);
    let row = 251_000..251_010;
    assert!(ask(&later, row.clone()) == plain[row.start as usize..row.end as usize]);
    assert!(later.progress().has_dropped_index);
}
