//! Chunks of gzip files, near the ends and starts of members.

use super::*;

#[test]
fn gzip_members_end_chunks() {
    let mut encoded = Vec::new();
    for part in mixed(LEN).chunks(LEN / 3) {
        let mut encoder = flate2::write::GzEncoder::new(&mut encoded, flate2::Compression::new(6));
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
    }
    let options = Options { format: Format::Gzip, ..bare(100_000) };
    assert!(check("members", &encoded, &options) > 0);
    // Now with a wrong trailer.
    let at = encoded.len() - 6;
    encoded[at] ^= 1;
    check("trailer", &encoded, &options);
}

fn gzipped(plain: &[u8], level: u32) -> Vec<u8> {
    let level = flate2::Compression::new(level);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// The blocks of `plain` from a longer stream: they may refer to bytes before them.
fn blocks_after_others(plain: &[u8]) -> Vec<u8> {
    let mut encoder =
        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&plain[..40_000]).unwrap();
    encoder.flush().unwrap();
    let from = encoder.get_ref().len();
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()[from..].to_vec()
}

#[test]
fn a_chunk_soon_after_the_start_of_a_gzip_member_has_no_whole_window() {
    // The finder finds no block with the fixed code. So the first chunk found in each member begins
    // with its first block, or with its second, after 1000 bytes.
    let fixed = gzipped(&floats(1 << 20), 1);
    let plain = mixed(LEN);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&plain[..1000]).unwrap();
    encoder.flush().unwrap();
    let first_block = encoder.get_ref().clone();
    encoder.write_all(&plain[1000..]).unwrap();
    let good = encoder.finish().unwrap();
    // This member has matches that reach to before its start.
    let bad = [first_block, blocks_after_others(&plain), vec![0; 8]].concat();
    let options = Options { format: Format::Gzip, ..bare(100_000) };
    let good = [&fixed[..], &good].concat();
    assert!(check("a good member", &good, &options) > 0);
    let bad = [&fixed[..], &bad].concat();
    check("a match to before the member", &bad, &options);
    assert!(alone(&bad, &options).error.is_some());
}
