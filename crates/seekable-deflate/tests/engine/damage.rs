//! Streams that are cut off, have flipped bits, or differ from the promised length or checksum.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use seekable_deflate::{Error, Memory};

use crate::{support::*, verdicts::flate2_decode};

/// A small stream with dynamic codes, stored bytes and matches.
fn small() -> (Vec<u8>, Vec<u8>) {
    let mut plain = data(Data::Text, 700, 3);
    plain.extend(data(Data::Labels, 500, 3));
    let mut writer = crate::bits::Writer::new();
    writer.stored(false, b"a stored block first");
    let mut encoded = writer.done();
    encoded.extend(deflate(&plain, Encoder::Flate2(6)));
    plain.splice(0..0, *b"a stored block first");
    (encoded, plain)
}

/// All bytes that can be read, and the error that ends them, if there is one.
fn read_all(
    reader: &seekable_deflate::DeflateReader<&[u8]>,
    at_once: usize,
) -> (Vec<u8>, Option<Error>) {
    let mut plain = Vec::new();
    loop {
        match read(reader, plain.len() as u64, at_once) {
            Ok(bytes) if bytes.is_empty() => return (plain, None),
            Ok(bytes) => plain.extend(bytes),
            Err(error) => return (plain, Some(error)),
        }
    }
}

#[test]
fn a_stream_cut_off_at_any_byte_is_readable_up_to_there() {
    let (encoded, plain) = small();
    for cut in 0..encoded.len() {
        let encoded = &encoded[..cut];
        let (expected, _) = flate2_decode(encoded);
        for spacing in [1, 100, 1 << 20] {
            for known in [false, true] {
                let options = if known { self::known(&plain, spacing) } else { bare(spacing) };
                let reader = reader(encoded, options);
                let (found, error) = read_all(&reader, 97);
                assert!(found == expected, "cut at {cut}");
                // If no promised byte is missing, reads need not fail.
                let complete = known && found.len() == plain.len();
                match error {
                    Some(Error::Truncated { decoded }) => assert_eq!(decoded, found.len() as u64),
                    error => assert!(error.is_none() && complete, "cut at {cut}: {error:?}"),
                }
                assert_eq!(reader.progress().frontier, found.len() as u64);
                let is_stopped =
                    matches!(reader.progress().verdict.stopped(), Some(Error::Truncated { .. }));
                // If all bytes are there, with the promised CRC-32, the stream has ended well.
                assert_eq!(is_stopped, !complete);
                assert_eq!(reader.progress().verdict.is_ended(), complete);
                // Reads again, now that the damage is known: a read stops short at the damage.
                let again = read(&reader, 0, plain.len());
                assert_eq!(again.ok(), (!found.is_empty()).then_some(found));
            }
        }
    }
}

#[test]
fn a_stream_with_any_bit_flipped_never_yields_wrong_bytes_once_that_is_known() {
    let (encoded, plain) = small();
    for bit in 0..encoded.len() * 8 {
        let mut encoded = encoded.clone();
        encoded[bit / 8] ^= 1 << (bit % 8);
        let (expected, end) = flate2_decode(&encoded);
        for spacing in [64, 1 << 20] {
            let bare_reader = reader(&encoded[..], bare(spacing));
            let (found, error) = read_all(&bare_reader, 500);
            assert!(found == expected, "bit {bit}");
            assert_eq!(error.is_none(), end.is_ok(), "bit {bit}: {error:?}");

            let reader = reader(&encoded[..], known(&plain, spacing));
            let (found, error) = read_all(&reader, 500);
            if reader.progress().verdict.damage().is_some() {
                assert!(reader.read_at(&mut [0], 0).is_err());
                assert!(!is_cached(&reader, 0));
            }
            match error {
                // Only padding bits may change without an error.
                None => assert!(found == plain && expected == plain, "bit {bit}"),
                Some(_) => assert!(expected.starts_with(&found), "bit {bit}"),
            }
        }
    }
}

#[test]
fn a_wrong_checksum_is_known_at_the_end_and_fails_every_read_from_then_on() {
    let plain = data(Data::Floats, 300_000, 1);
    let source = Probe::new(deflate(&plain, Encoder::Flate2(6)));
    let mut options = known(&plain, 32 << 10);
    options.crc32 = options.crc32.map(|crc| !crc);
    let memory = Memory::new(PLENTY);
    let reader = reader_within(&source, options, &memory);

    assert!(read(&reader, 0, 200_000).unwrap() == plain[..200_000]);
    assert!(reader.progress().verdict.damage().is_none() && is_cached(&reader, 0));
    let error = read(&reader, 250_000, 50_000).unwrap_err();
    let crc = crc32fast::hash(&plain);
    assert!(matches!(
        error,
        Error::Checksum { start: 0, end: 300_000, expected, found }
            if expected == !crc && found == crc
    ));
    let bytes_read = source.bytes_read();
    for offset in [0, 100_000, 299_999] {
        assert!(matches!(read(&reader, offset, 1), Err(Error::Checksum { .. })));
        assert!(!is_cached(&reader, offset));
    }
    assert!(matches!(reader.progress().verdict.damage(), Some(Error::Checksum { .. })));
    assert_eq!(source.bytes_read(), bytes_read);
    // The spans, which nobody may read any more, are not kept.
    let used = memory.used();
    assert_eq!(used, index_bytes(&memory));
}

#[test]
fn a_stream_longer_than_promised_is_unfit() {
    let plain = data(Data::Text, 200_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    for spacing in [1000, 65536, 1 << 20] {
        for promised in [1u64, 65535, 65536, 199_999] {
            let mut options = bare(spacing);
            options.decoded_len = Some(promised);
            let reader = reader(&encoded[..], options);
            let error = read(&reader, promised - 1, 10).unwrap_err();
            let Error::Length { expected, found } = error else { panic!("{error:?}") };
            assert_eq!(expected, promised);
            // Decoding stops as soon as it is clear that the stream is too long.
            assert!((promised + 1..promised + 259).contains(&found), "{found}");
            assert!(reader.progress().verdict.damage().is_some());
            assert!(reader.read_at(&mut [0], 0).is_err());
        }
    }
}

#[test]
fn a_stream_shorter_than_promised_ends_in_damage_and_with_a_checksum_is_unfit() {
    let plain = data(Data::Text, 200_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    for spacing in [1000, 65536, 1 << 20] {
        for promised in [200_001, 300_000, u64::MAX] {
            let is_length = |error: &Error| matches!(error, Error::Length { expected, found: 200_000 } if *expected == promised);
            let mut options = bare(spacing);
            options.decoded_len = Some(promised);
            let short = reader(&encoded[..], options.clone());
            assert!(is_length(&read(&short, 200_000, 1).unwrap_err()));
            assert!(
                short.progress().verdict.damage().is_none()
                    && is_length(short.progress().verdict.stopped().unwrap())
            );
            assert!(read(&short, 0, 300_000).unwrap() == plain);

            options.crc32 = Some(0);
            let unfit = reader(&encoded[..], options);
            assert!(is_length(&read(&unfit, 200_000, 1).unwrap_err()));
            assert!(is_length(unfit.progress().verdict.damage().unwrap()));
            assert!(is_length(&read(&unfit, 0, 1).unwrap_err()));
        }
    }
}

#[test]
fn an_error_of_the_source_is_no_short_read_of_a_stream_that_is_cut_off() {
    let plain = data(Data::Noise, 100_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(0));
    let broken = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&broken);
    let source = Probe::with_hook(encoded[..80_000].to_vec(), move |_, _| {
        match fails.load(Ordering::SeqCst) {
            true => Err(io::Error::other("unplugged")),
            false => Ok(()),
        }
    });
    let memory = Memory::new(PLENTY);
    let reader = reader_within(&source, known(&plain, 10_000), &memory);
    assert!(read(&reader, 90_000, 1).is_err() && reader.progress().verdict.stopped().is_some());

    memory.clear();
    assert!(read(&reader, 0, 10).unwrap() == plain[..10]);
    broken.store(true, Ordering::SeqCst);
    // The first span is cached, the next cannot be read.
    let error = read(&reader, 5000, 10_000).unwrap_err();
    assert!(matches!(error, Error::Source(_)), "{error:?}");
}

#[test]
fn little_is_decoded_of_a_stream_that_is_longer_than_promised() {
    let encoded = deflate(&data(Data::Noise, 2_000_000, 0), Encoder::Flate2(6));
    let source = Probe::new(encoded);
    let mut options = bare(1 << 20);
    options.decoded_len = Some(1000);
    let reader = reader(&source, options);
    assert!(matches!(read(&reader, 0, 1), Err(Error::Length { expected: 1000, .. })));
    assert!(source.bytes_read() <= 64 << 10);
}

#[test]
fn damage_in_the_middle_is_remembered_and_bytes_before_it_stay_readable() {
    let plain = data(Data::Text, 300_000, 1);
    let mut encoded = deflate(&plain[..200_000], Encoder::Flate2(6));
    // A stored block that is not the last, then a block of the reserved type.
    let mut writer = crate::bits::Writer::new();
    writer.stored(false, &plain[..200]).bits(7, 3);
    encoded = [&writer.done()[..], &encoded].concat();
    let source = Probe::new(encoded);
    let memory = Memory::new(PLENTY);
    let reader = reader_within(&source, bare(64), &memory);

    let error = read(&reader, 200, 1).unwrap_err();
    let Error::Corrupt { at, what: "invalid block type" } = error else { panic!("{error:?}") };
    assert_eq!(at.0, 205 * 8);
    assert!(reader.progress().verdict.damage().is_none());
    let bytes_read = source.bytes_read();
    for offset in [200, 201, 250_000] {
        assert!(matches!(read(&reader, offset, 1), Err(Error::Corrupt { .. })));
    }
    assert_eq!(source.bytes_read(), bytes_read, "it was decoded again to fail again");
    for cached in [true, false] {
        if !cached {
            memory.clear();
        }
        assert_eq!(read(&reader, 0, 200).unwrap(), plain[..200]);
        assert_eq!(read(&reader, 150, 1000).unwrap(), plain[150..200], "short at the damage");
    }
    assert_eq!(reader.progress().frontier, 200);
}

#[test]
fn bytes_that_change_before_the_frontier_are_never_returned() {
    let plain = data(Data::Noise, 100_000, 1);
    let source = Probe::new(deflate(&plain, Encoder::Flate2(0)));
    let memory = Memory::new(PLENTY);
    let reader = reader_within(&source, known(&plain, 10_000), &memory);
    assert!(read(&reader, 0, 100_000).unwrap() == plain);

    memory.clear();
    source.bytes.lock().unwrap()[45_000] ^= 1;
    let error = read(&reader, 40_000, 10).unwrap_err();
    assert!(matches!(error, Error::Checksum { start: 40_000, end: 50_000, .. }), "{error:?}");
    assert!(!is_cached(&reader, 40_000));
    assert!(read(&reader, 39_990, 10).unwrap() == plain[39_990..40_000]);
    assert!(reader.progress().verdict.damage().is_none());

    // After the source is repaired, reads succeed again.
    source.bytes.lock().unwrap()[45_000] ^= 1;
    assert!(read(&reader, 40_000, 10).unwrap() == plain[40_000..40_010]);
}

#[test]
fn spans_of_a_damaged_stream_are_no_pair() {
    let plain = literals(400_000);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let mut options = known(&plain, 32 << 10);
    options.crc32 = options.crc32.map(|crc| !crc);
    let memory = Memory::new(PLENTY);
    let reader = reader_within(&encoded[..], options, &memory);
    let offsets = [10, 100_010];
    read(&reader, 0, 300_000).unwrap();
    assert!(are_paired(&reader, &memory, offsets));
    memory.clear();
    let works = expect_two(&reader, offsets);
    read(&reader, 300_000, 100_000).unwrap_err();
    works.into_iter().for_each(run);
    assert!(offsets.into_iter().all(|offset| !is_cached(&reader, offset)));
    assert!(expect_two(&reader, offsets).is_empty());
}
