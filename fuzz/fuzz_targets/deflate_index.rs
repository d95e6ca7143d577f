//! Any bytes as the index of a small stream: refused, or reads give the right bytes.

#![no_main]

use std::{io::Write, sync::Arc, sync::LazyLock};

use flate2::{Compression, write::DeflateEncoder};
use libfuzzer_sys::fuzz_target;
use seekable_deflate::{DeflateReader, Format, Memory, Options, SavedIndex};

/// The stream that the seeds are indexes of, decoded and encoded.
static STREAM: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let plain: Vec<u8> = (0..700)
        .flat_map(|line| format!("{line},run{},{}.5\n", line % 7, line * line % 97).into_bytes())
        .collect();
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(&plain).expect("a vector takes all");
    (plain, encoder.finish().expect("a vector takes all"))
});

fn reader(encoded: &'static [u8]) -> DeflateReader<&'static [u8]> {
    let options =
        Options { format: Format::Deflate, spacing: 2000, decoded_len: None, crc32: None };
    DeflateReader::new(encoded, 0..encoded.len() as u64, options, Memory::new(16 << 20))
}

fuzz_target!(|input: &[u8]| {
    let (plain, encoded) = &*STREAM;
    // The first byte says whether checksums are made right, and how much is known first.
    let Some((&choice, index)) = input.split_first() else { return };
    let (is_forged, is_known) = (choice & 1 != 0, choice & 2 != 0);
    let mut index = index.to_vec();
    if is_forged {
        forge(&mut index);
    }
    let reader = reader(encoded);
    let mut bytes = vec![0; plain.len() + 1];
    if is_known {
        reader.read_at(&mut bytes[..3000], 0).expect("the stream is good");
    }
    let range = 0..index.len() as u64;
    let Ok(saved) = SavedIndex::new(Arc::new(index), range) else { return };
    if reader.adopt_index(saved).is_err() {
        return;
    }
    for offset in [plain.len() - 1, 5000, 0] {
        let len = reader.read_at(&mut bytes, offset as u64);
        // Who forges an index says what the stream decodes to. Else all is as it is without one.
        if !is_forged {
            let len = len.expect("the stream is good");
            assert!(bytes[..len] == plain[offset..]);
        }
    }
    let wrote = reader.write_index(&mut Vec::new());
    assert!(is_forged || wrote.is_ok());
});

/// Makes the checksums of header and table right, so that what they say is looked at.
fn forge(index: &mut [u8]) {
    let Some(checkpoints) = index.get(56..64).and_then(|bytes| bytes.first_chunk()) else { return };
    let checkpoints = u64::from_le_bytes(*checkpoints).min(1000) as usize;
    let Some(crcs) = index.get(88..92).and_then(|bytes| bytes.first_chunk()) else { return };
    let crcs = u32::from_le_bytes(*crcs).min(1 << 20) as usize;
    let Some(table) = index.get(96..96 + 48 * checkpoints + 4 * crcs) else { return };
    let table = crc32fast::hash(table);
    index[84..88].copy_from_slice(&table.to_le_bytes());
    let header = crc32fast::hash(&index[..92]);
    index[92..96].copy_from_slice(&header.to_le_bytes());
}
