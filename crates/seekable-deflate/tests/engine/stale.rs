//! Indexes that the stream contradicts, because it had other bytes when they were written.

use std::{io, sync::Arc, thread};

use seekable_deflate::{Format, IndexError, Options, SavedIndex};

use crate::{
    saved::{load, options, resumed, written},
    support::*,
};

/// Two streams, encoded and decoded. They have the same length, start and end. In the middle, the
/// second stream has other bytes, and in gzip also blocks that end elsewhere.
fn rewritten(format: Format) -> [(Vec<u8>, Vec<u8>); 2] {
    let [start, one, other, end] = [1, 2, 3, 4].map(|seed| data(Data::Noise, 300_000, seed));
    let gzip = |plain: &[u8], level| {
        let mut encoder =
            flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        io::Write::write_all(&mut encoder, plain).expect("a vector takes all");
        encoder.finish().expect("a vector takes all")
    };
    [(one, 0), (other, 6)].map(|(middle, level)| match format {
        // The length of stored blocks does not depend on their bytes.
        Format::Deflate => {
            let plain = [&start[..], &middle, &end].concat();
            (deflate(&plain, Encoder::Flate2(0)), plain)
        }
        Format::Gzip => {
            let mut encoded = [gzip(&start, 6), gzip(&middle, level)].concat();
            // Zeros may follow a gzip member.
            encoded.resize(640_000, 0);
            encoded.extend(gzip(&end, 6));
            (encoded, [&start[..], &middle, &end].concat())
        }
    })
}

#[test]
fn an_index_of_what_the_stream_was_before_is_dropped_and_every_byte_is_right() {
    for format in [Format::Deflate, Format::Gzip] {
        let [(old, old_plain), (new, plain)] = rewritten(format);
        assert_eq!(old.len(), new.len());
        // No checksum of the whole stream is known, as for a gzip file.
        let options = Options { crc32: None, ..options(format, &plain, 50_000, true) };
        for known in [1, 350_000, 450_000, 700_000, plain.len() + 1] {
            let first = reader(&old[..], options.clone());
            read(&first, 0, known).unwrap();
            let Some(index) = written(&first) else { continue };
            assert!(read(&first, 0, plain.len()).unwrap() == old_plain);
            for offset in [0, 310_000, 400_000, 590_000, 899_000] {
                let later = resumed(&new[..], options.clone(), index.clone());
                assert!(!later.progress().has_dropped_index);
                let right = slice(&plain, offset, 20_000);
                assert!(read(&later, offset, 20_000).unwrap() == right, "{known} {offset}");
                assert!(read(&later, 0, plain.len() + 1).unwrap() == plain, "{known} {offset}");
                assert!(
                    later.progress().verdict.is_ended()
                        && later.progress().verdict.damage().is_none()
                );
                assert_eq!(later.progress().has_dropped_index, frontier_of(&index) > 300_000);
                check_reads(&later, &plain, &mut Random::new(1), 4);
                let again = written(&later).unwrap();
                later.adopt_index(load(again).unwrap()).unwrap();
                check_reads(&later, &plain, &mut Random::new(2), 4);
            }
        }
    }
}

/// The frontier of an index, from its header (docs/index-format.md).
fn frontier_of(index: &[u8]) -> u64 {
    u64::from_le_bytes(index[40..48].try_into().unwrap())
}

#[test]
fn damage_after_an_index_is_found_out_once_and_stays() {
    let plain = data(Data::Text, 900_000, 1);
    let good = deflate(&plain, Encoder::Flate2(6));
    let options = known(&plain, 50_000);
    let first = reader(&good[..], options.clone());
    read(&first, 0, plain.len() + 1).unwrap();
    let index = written(&first).unwrap();
    let mut damaged = good.clone();
    let half = damaged.len() / 2;
    damaged[half..half + 100].fill(0xff);
    let source = Probe::new(damaged);
    let later = resumed(&source, options, index.clone());
    assert!(read(&later, 800_000, 10).unwrap() == slice(&plain, 800_000, 10), "after the damage");
    assert!(!later.progress().has_dropped_index);
    let (mut failed, mut offset) = (0, 0);
    while offset < 900_000 {
        failed += u32::from(read(&later, offset, 10_000).is_err());
        offset += 10_000;
    }
    assert!((30..60).contains(&failed), "{failed}");
    assert!(later.progress().has_dropped_index);
    assert!(
        later.progress().verdict.stopped().is_some() || later.progress().verdict.damage().is_some()
    );
    let refused = later.adopt_index(load(index).unwrap());
    assert!(matches!(refused, Err(IndexError::Distrusted | IndexError::OtherSpans)));
    // The reader does not begin again for each read.
    let read_so_far = source.bytes_read();
    for _ in 0..20 {
        assert!(read(&later, 800_000, 10).is_err());
    }
    assert_eq!(source.bytes_read(), read_so_far);
}

#[test]
fn threads_that_find_an_index_wrong_at_once_all_get_the_right_bytes() {
    let [(old, _), (new, plain)] = rewritten(Format::Gzip);
    let options = Options { crc32: None, ..options(Format::Gzip, &plain, 50_000, true) };
    let first = reader(&old[..], options.clone());
    read(&first, 0, plain.len() + 1).unwrap();
    let index = written(&first).unwrap();
    for seed in 0..20 {
        let later = resumed(&new[..], options.clone(), index.clone());
        thread::scope(|scope| {
            for thread in 0..4 {
                let (later, plain) = (&later, &plain);
                scope.spawn(move || {
                    let mut random = Random::new(seed * 4 + thread);
                    for _ in 0..20 {
                        let offset = random.below(plain.len() as u64 - 1);
                        let found = read(later, offset, 30_000).unwrap();
                        assert!(found == slice(plain, offset, 30_000));
                    }
                });
            }
        });
    }
}

#[test]
fn a_complete_index_with_another_checksum_than_was_promised_is_refused() {
    let plain = data(Data::Text, 300_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let first = reader(&encoded[..], known(&plain, 50_000));
    read(&first, 0, plain.len() + 1).unwrap();
    let mut index = Vec::new();
    assert!(first.write_index(&mut index).unwrap());
    for (is_changed, fits) in [(false, true), (true, false)] {
        if is_changed {
            // Changes the checksum of all bytes, and corrects that of the header
            // (docs/index-format.md).
            index[76] ^= 1;
            let crc32 = crc32fast::hash(&index[..92]);
            index[92..96].copy_from_slice(&crc32.to_le_bytes());
        }
        let len = index.len() as u64;
        let saved = SavedIndex::new(Arc::new(index.clone()), 0..len).unwrap();
        let later = reader(&encoded[..], known(&plain, 50_000));
        assert_eq!(later.adopt_index(saved).is_ok(), fits);
    }
}

#[test]
fn after_a_wrong_index_no_other_is_believed_that_goes_farther() {
    for format in [Format::Deflate, Format::Gzip] {
        let [(old, _), (new, plain)] = rewritten(format);
        let options = Options { crc32: None, ..options(format, &plain, 50_000, true) };
        let first = reader(&old[..], options.clone());
        read(&first, 0, plain.len() + 1).unwrap();
        let wrong = written(&first).unwrap();
        let second = reader(&new[..], options.clone());
        read(&second, 0, plain.len() + 1).unwrap();
        let right = written(&second).unwrap();

        let later = resumed(&new[..], options.clone(), wrong);
        while !later.progress().has_dropped_index {
            let _ = read(&later, 310_000, 200_000).unwrap();
        }
        // The right index fits what the reader has decoded, but its further spans could be wrong.
        assert!(later.progress().frontier < plain.len() as u64);
        let refused = later.adopt_index(load(right.clone()).unwrap());
        assert!(matches!(refused, Err(IndexError::Distrusted)), "{refused:?}");
        // An index that reaches no farther than the reader needs no trust.
        assert!(read(&later, 0, plain.len() + 1).unwrap() == plain);
        later.adopt_index(load(right).unwrap()).unwrap();
    }
}
