//! Any bytes as the index file of an archive: refused, or entries that lie within it.

#![no_main]

use std::{fs::File, io::Write};

use libfuzzer_sys::fuzz_target;
use npzfs::{archive::Identity, saved::IndexFile};
use rustix::fs::MemfdFlags;

const HEADER_LEN: usize = 72;
const ENTRY_LEN: usize = 56;

fuzz_target!(|input: &[u8]| {
    // The first byte says whether checksums and length are made right.
    let Some((&choice, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if choice & 1 != 0 {
        forge(&mut bytes);
    }
    let file = rustix::fs::memfd_create("index", MemfdFlags::CLOEXEC).expect("memfd");
    let mut file = File::from(file);
    file.write_all(&bytes).expect("memory takes all");
    let Ok(index) = IndexFile::parse(file, &Identity { hash: [7; 32], fraction: 0 }) else {
        return;
    };
    index.frontiers();
    let entries: Vec<_> = index.streams().collect();
    assert!(entries.is_sorted_by(|(one, _), (other, _)| one < other));
    assert!(entries.len() <= bytes.len() / ENTRY_LEN);
    for (key, trust) in entries {
        assert!(trust.confirmed || trust.file.is_some());
        assert_eq!(index.trust(key), Some(trust));
        let _index = index.index(key); // whatever it says, it does not panic
        let mut copy = Vec::new();
        assert!(index.copy(key)(&mut copy).expect("a vector takes all"));
        assert!(copy.len() <= bytes.len());
    }
});

/// Makes length, identity and checksums right, so that the table is looked at.
fn forge(bytes: &mut [u8]) {
    if bytes.len() < HEADER_LEN {
        return;
    }
    let len = bytes.len() as u64;
    bytes[..8].copy_from_slice(b"NPZFSIDX");
    bytes[8..12].copy_from_slice(&3_u32.to_le_bytes());
    bytes[16..48].copy_from_slice(&[7; 32]);
    bytes[48..56].copy_from_slice(&len.to_le_bytes());
    let room = (bytes.len() - HEADER_LEN) / ENTRY_LEN;
    let count = room.min(usize::from(bytes[12] % 8));
    bytes[12..16].copy_from_slice(&(count as u32).to_le_bytes());
    let table = crc32fast::hash(&bytes[HEADER_LEN..][..count * ENTRY_LEN]);
    bytes[56..60].copy_from_slice(&table.to_le_bytes());
    bytes[60..64].fill(0);
    let header = crc32fast::hash(&bytes[..64]);
    bytes[64..68].copy_from_slice(&header.to_le_bytes());
    bytes[68..72].fill(0);
}
