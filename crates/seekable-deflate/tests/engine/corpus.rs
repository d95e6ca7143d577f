//! Reads streams that CPython's zlib wrote (tests/corpus/make.py).

use std::{fs, path::Path};

use crate::{support::*, verdicts::flate2_decode};

#[test]
fn streams_of_every_strategy_and_flush_of_zlib_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut streams = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "deflate") {
            continue;
        }
        streams += 1;
        let encoded = fs::read(&path).unwrap();
        let (plain, end) = flate2_decode(&encoded);
        assert!(end.is_ok() && plain.len() > 20_000, "{}", path.display());
        for spacing in [1, 7, 1000, 4096, 1 << 20] {
            let reader = reader(&encoded[..], known(&plain, spacing));
            let reads = if spacing < 100 { 4 } else { 40 };
            check_reads(&reader, &plain, &mut Random::new(spacing), reads);
            assert!(
                reader.progress().verdict.damage().is_none()
                    && reader.progress().verdict.stopped().is_none()
            );
        }
    }
    assert_eq!(streams, 11, "make.py writes as many");
}
