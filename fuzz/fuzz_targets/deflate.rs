//! Any bytes: a reader gives what zlib-rs gives, and fails where it fails.

#![no_main]

use flate2::{Decompress, FlushDecompress, Status};
use libfuzzer_sys::fuzz_target;
use seekable_deflate::{DeflateReader, Error, Format, Memory, Options};

/// Decoded bytes that are looked at.
const MOST: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    // The first byte chooses where checkpoints are.
    let Some((&choice, encoded)) = input.split_first() else { return };
    let spacing = [1 << 10, 40_000, 1 << 20, u64::MAX][usize::from(choice % 4)];

    let mut plain = vec![0; MOST];
    let mut judge = Decompress::new(false);
    let verdict = judge.decompress(encoded, &mut plain, FlushDecompress::Finish);
    plain.truncate(judge.total_out() as usize);

    let mut whole = Vec::new();
    let end = seekable_deflate::inflate(encoded, &mut whole);
    if plain.len() < MOST {
        assert_eq!(end.is_ok(), matches!(verdict, Ok(Status::StreamEnd)), "{end:?}");
    }
    let known = whole.len().min(plain.len());
    assert!(whole[..known] == plain[..known]);
    if end.is_ok() {
        assert!(plain.len() == whole.len().min(MOST));
    }

    let options = Options { format: Format::Deflate, spacing, decoded_len: None, crc32: None };
    let range = 0..encoded.len() as u64;
    let memory = Memory::new(64 << 20);
    let reader = DeflateReader::new(encoded, range, options, memory.clone());
    let mut bytes = vec![0; MOST];
    let len = reader.read_at(&mut bytes, 0);
    match verdict {
        Ok(Status::StreamEnd) => {
            assert_eq!(len.expect("zlib-rs finds no fault"), plain.len());
            assert!(bytes[..plain.len()] == plain);
            let verdict = reader.progress().verdict;
            assert!(verdict.stopped().is_none() && verdict.damage().is_none());
            // Once more, from checkpoints: two spans at once, then all that is left.
            let ends = [0, plain.len().saturating_sub(1) as u64];
            memory.clear();
            let works: Vec<_> = ends.into_iter().flat_map(|at| reader.expect(at..at + 1)).collect();
            works.into_iter().for_each(|work| work.run(true).answers.send());
            for at in ends {
                let Some(span) = reader.span_at(at).expect("it was read before") else { continue };
                let start = span.start() as usize;
                assert!(span.bytes() == &plain[start..start + span.bytes().len()]);
                assert!((start..start + span.bytes().len()).contains(&(at as usize)));
            }
            let from = plain.len() / 2;
            let len = reader.read_at(&mut bytes, from as u64).expect("it was read before");
            assert!(bytes[..len] == plain[from..]);
        }
        // More than is looked at.
        Ok(_) if plain.len() == MOST => {
            assert!(len.expect("so far it is good") == MOST && bytes == plain)
        }
        // Cut off or corrupt: nobody promises how much is decoded before that is seen.
        _ => {
            let len = len.unwrap_or(0);
            let known = len.min(plain.len());
            assert!(bytes[..known] == plain[..known]);
            let error = reader.read_at(&mut [0], len as u64);
            assert!(
                matches!(error, Err(Error::Corrupt { .. } | Error::Truncated { .. })),
                "{error:?}"
            );
        }
    }
});
