//! Reads of good streams equal the plain bytes.

use proptest::prelude::*;
use seekable_deflate::DEFAULT_SPACING;

use crate::support::*;

#[test]
fn random_reads_equal_the_plain_bytes_for_all_data_and_encoders() {
    let mut random = Random::new(1);
    for kind in KINDS {
        for encoder in ENCODERS {
            // zopfli takes a second for a megabyte.
            let len = if encoder == Encoder::Zopfli { 40_000 } else { 250_000 };
            let plain = data(kind, len, 7);
            let encoded = deflate(&plain, encoder);
            for spacing in [5000, 50_000, DEFAULT_SPACING] {
                for options in [bare(spacing), known(&plain, spacing)] {
                    let reader = reader(&encoded[..], options);
                    check_reads(&reader, &plain, &mut random, 8);
                    assert!(
                        reader.progress().verdict.damage().is_none(),
                        "{kind:?} {encoder:?} {spacing}"
                    );
                    assert!(
                        reader.progress().verdict.stopped().is_none(),
                        "{kind:?} {encoder:?} {spacing}"
                    );
                    assert_eq!(reader.progress().frontier, plain.len() as u64);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_spacing_gives_the_same_bytes(
        kind in prop::sample::select(&KINDS[..]),
        encoder in prop::sample::select(&ENCODERS[..8]),
        len in 0usize..100_000,
        spacing in prop_oneof![1u64..100, 1u64..40_000, 1u64..200_000, Just(u64::MAX)],
        seed in any::<u64>(),
    ) {
        let plain = data(kind, len, seed);
        let encoded = deflate(&plain, encoder);
        let reader = reader(&encoded[..], known(&plain, spacing));
        check_reads(&reader, &plain, &mut Random::new(seed), 20);
    }
}

#[test]
fn spans_of_one_byte_are_read_again_one_by_one() {
    let plain = data(Data::Text, 3000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let memory = seekable_deflate::Memory::new(PLENTY);
    let reader = reader_within(&encoded[..], bare(1), &memory);
    assert_eq!(read(&reader, 0, plain.len()).unwrap(), plain);
    memory.clear();
    for (offset, byte) in plain.iter().enumerate().rev() {
        assert_eq!(read(&reader, offset as u64, 1).unwrap(), [*byte]);
    }
}

#[test]
fn bytes_after_the_final_block_are_ignored() {
    let plain = data(Data::Floats, 10_000, 1);
    let mut encoded = deflate(&plain, Encoder::Flate2(6));
    encoded.extend([0xff; 100]);
    let reader = reader(&encoded[..], known(&plain, 4096));
    assert_eq!(read(&reader, 0, 20_000).unwrap(), plain);
    assert!(reader.progress().verdict.damage().is_none());
}

#[test]
fn a_stream_in_the_middle_of_its_source_is_read_from_there() {
    let plain = data(Data::Labels, 100_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(9));
    let mut source = vec![0xab; 1234];
    source.extend(&encoded);
    source.extend([0xcd; 77]);
    let range = 1234..1234 + encoded.len() as u64;
    let memory = seekable_deflate::Memory::new(PLENTY);
    let reader = seekable_deflate::DeflateReader::new(source, range, bare(10_000), memory);
    check_reads(&reader, &plain, &mut Random::new(5), 20);
}

#[test]
fn of_two_spans_at_once_only_that_fails_whose_bytes_are_damaged() {
    let plain = literals(300_000);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let source = Probe::new(encoded);
    let memory = seekable_deflate::Memory::new(PLENTY);
    let reader = reader_within(&source, known(&plain, 40_000), &memory);
    assert_eq!(read(&reader, 0, plain.len()).unwrap(), plain);
    // These bits are in the third span: a byte takes 7.3 bits.
    for bit in [600_000, 700_001, 850_002] {
        let flip = || source.bytes.lock().unwrap()[bit / 8] ^= 1 << (bit % 8);
        memory.clear();
        flip();
        for offsets in [[100_000, 50_000], [50_000, 100_000]] {
            memory.clear();
            let mut works = expect_two(&reader, offsets);
            run(works.remove(0));
            assert!(is_cached(&reader, 50_000) && !is_cached(&reader, 100_000));
        }
        assert!(read(&reader, 50_000, 60_000).is_err());
        assert_eq!(read(&reader, 50_000, 20_000).unwrap(), plain[50_000..70_000]);
        flip();
    }
}

#[test]
fn two_spans_of_noise_are_decoded_at_once_where_neither_is_cached() {
    let plain = literals(300_000);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let memory = seekable_deflate::Memory::new(PLENTY);
    let reader = reader_within(&encoded[..], known(&plain, 40_000), &memory);
    assert_eq!(expect_two(&reader, [0, 100_000]).len(), 1, "both lie beyond the frontier");
    assert_eq!(read(&reader, 0, plain.len()).unwrap(), plain);
    assert!(expect_two(&reader, [0, 100_000]).is_empty(), "both are cached");
    for [one, other] in [[0, 100_000], [250_000, 210_000], [130_000, 299_999]] {
        assert!(are_paired(&reader, &memory, [one, other]));
        for at in [one, other] {
            let span = reader.span_at(at).unwrap().unwrap();
            let range = span.start() as usize..span.start() as usize + span.bytes().len();
            assert!(range.contains(&(at as usize)) && span.bytes() == &plain[range]);
        }
    }
    assert!(!are_paired(&reader, &memory, [1, 2]), "they are in one span");
    assert!(!are_paired(&reader, &memory, [1, 300_000]), "there is one");
    // The whole stream, in pairs where two spans in a row are not cached.
    memory.clear();
    assert_eq!(read(&reader, 3, plain.len()).unwrap(), plain[3..]);
}

#[test]
fn spans_of_what_compresses_well_are_not_paired() {
    for kind in [Data::Text, Data::Labels, Data::Zeros] {
        let plain = data(kind, 300_000, 3);
        let encoded = deflate(&plain, Encoder::Flate2(6));
        let memory = seekable_deflate::Memory::new(PLENTY);
        let reader = reader_within(&encoded[..], known(&plain, 40_000), &memory);
        assert_eq!(read(&reader, 0, plain.len()).unwrap(), plain);
        assert!(!are_paired(&reader, &memory, [0, 100_000]), "{kind:?}");
    }
}
