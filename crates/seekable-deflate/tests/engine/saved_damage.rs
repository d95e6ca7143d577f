//! Saved indexes that are cut short, changed, or of another stream.

use seekable_deflate::{Error, Format, IndexError, Memory, Options};

use crate::{saved::*, support::*};

/// Checks that reads give no wrong bytes, whatever the index says. Returns whether the index could
/// be loaded.
fn is_rejected_or_right(encoded: &[u8], plain: &[u8], options: &Options, index: Vec<u8>) -> bool {
    let Ok(saved) = load(index) else { return false };
    let reader = reader(encoded, options.clone());
    if reader.adopt_index(saved).is_ok() {
        for offset in [1100, 650, 350, 0] {
            assert!(read(&reader, offset, 1200).unwrap() == slice(plain, offset, 1200));
        }
        assert!(
            reader.progress().verdict.is_ended() && reader.progress().verdict.damage().is_none()
        );
    }
    true
}

#[test]
fn an_index_cut_off_anywhere_is_rejected() {
    let (encoded, plain, options, index) = small();
    for len in 0..index.len() {
        let cut = index[..len].to_vec();
        assert!(!is_rejected_or_right(&encoded, &plain, &options, cut), "{len} bytes");
    }
    let longer = [&index[..], &[0]].concat();
    assert!(!is_rejected_or_right(&encoded, &plain, &options, longer));
    assert!(is_rejected_or_right(&encoded, &plain, &options, index));
}

#[test]
fn a_flipped_bit_rejects_header_and_table_and_only_slows_reads_in_a_window() {
    let (encoded, plain, options, index) = small();
    let windows = windows_at(&index);
    assert!(index.len() > windows);
    for bit in 0..index.len() * 8 {
        let mut index = index.clone();
        index[bit / 8] ^= 1 << (bit % 8);
        let loaded = is_rejected_or_right(&encoded, &plain, &options, index);
        assert_eq!(loaded, bit / 8 >= windows, "bit {bit}");
    }
}

#[test]
fn an_index_whose_windows_are_all_damaged_still_tells_where_to_go_on() {
    for (name, format, encoded, plain) in streams() {
        let options = options(format, &plain, 30_000, false);
        let first = reader(&encoded[..], options.clone());
        read(&first, 0, plain.len() / 2).unwrap();
        let Some(mut index) = written(&first) else { continue };
        let windows = windows_at(&index);
        for byte in &mut index[windows..] {
            *byte = !*byte;
        }
        let later = resumed(&encoded[..], options, index);
        assert_eq!(later.progress().frontier, first.progress().frontier);
        let end = read(&later, plain.len() as u64 - 1, 1);
        assert!(end.unwrap() == plain[plain.len() - 1..], "{name}");
        check_reads(&later, &plain, &mut Random::new(1), 4);
    }
}

#[test]
fn damaged_windows_are_made_anew_and_the_index_written_next_has_them() {
    for (name, format, encoded, plain) in streams() {
        for spacing in [3000, 40_000] {
            let options = options(format, &plain, spacing, true);
            let first = reader(&encoded[..], options.clone());
            read(&first, 0, plain.len() + 1).unwrap();
            let Some(good) = written(&first) else { continue };
            let windows = windows_at(&good);
            let mut damaged = good.clone();
            for byte in damaged[windows..].iter_mut().step_by(50) {
                *byte = !*byte;
            }
            if damaged == good {
                continue;
            }
            let later = resumed(&encoded[..], options.clone(), damaged);
            assert!(!later.progress().has_damaged_windows);
            read(&later, plain.len() as u64 - 1, 1).unwrap();
            assert!(later.progress().has_damaged_windows, "{name}");
            assert!(matches!(later.write_index(&mut Full), Err(Error::Sink(_))));
            assert!(
                later.progress().has_damaged_windows,
                "{name}: there is none that was written since"
            );
            let again = written(&later).unwrap();
            assert!(
                !later.progress().has_damaged_windows && !later.progress().has_dropped_index,
                "{name}"
            );
            let last = resumed(&encoded[..], options, again);
            check_reads(&last, &plain, &mut Random::new(1), 6);
            read(&last, 0, plain.len() + 1).unwrap();
            assert!(!last.progress().has_damaged_windows, "{name}");
        }
    }
}

#[test]
fn the_window_that_was_damaged_is_looked_for_once() {
    let plain = data(Data::Noise, 4 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(0));
    let options = known(&plain, 256 << 10);
    let first = reader(&encoded[..], options.clone());
    read(&first, 0, plain.len()).unwrap();
    let mut index = written(&first).unwrap();
    let windows = windows_at(&index);
    index[windows..].fill(0);
    let source = Probe::new(encoded.clone());
    let memory = Memory::new(PLENTY);
    let later = reader_within(&source, options, &memory);
    later.adopt_index(load(index).unwrap()).unwrap();
    let end = plain.len() as u64 - 1;
    assert!(read(&later, end, 1).unwrap() == slice(&plain, end, 1));
    assert!(source.bytes_read() > 3 << 20, "from the start");
    for offset in [end, 2 << 20, 3 << 20] {
        memory.clear();
        let before = source.bytes_read();
        assert!(read(&later, offset, 1).unwrap() == slice(&plain, offset, 1));
        assert!(source.bytes_read() - before <= 384 << 10, "{}", source.bytes_read() - before);
    }
}

#[test]
fn an_index_of_another_stream_is_refused() {
    let (encoded, plain, options, index) = small();
    let other = |change: fn(&mut Options)| {
        let mut options = options.clone();
        change(&mut options);
        reader(&encoded[..], options).adopt_index(load(index.clone()).unwrap())
    };
    assert_eq!(other(|_| ()), Ok(()));
    assert_eq!(other(|options| options.spacing = 7), Ok(()));
    for (change, what) in [
        ((|options| options.format = Format::Gzip) as fn(&mut Options), "format"),
        (|options| options.decoded_len = Some(1201), "promised length"),
        (|options| options.decoded_len = None, "promised length"),
        (|options| options.crc32 = None, "promised checksum"),
    ] {
        assert_eq!(other(change), Err(IndexError::OtherStream(what)));
    }
    let shorter = reader(&encoded[1..], options.clone());
    let refused = shorter.adopt_index(load(index.clone()).unwrap());
    assert_eq!(refused, Err(IndexError::OtherStream("encoded length")));

    // This reader has already read the stream, with other checkpoints.
    let mut options = options.clone();
    options.spacing = 100;
    let apart = reader(&encoded[..], options);
    read(&apart, 0, 150).unwrap();
    assert_eq!(apart.adopt_index(load(index).unwrap()), Err(IndexError::OtherSpans));
    assert!(read(&apart, 0, 1200).unwrap() == plain);
}
