//! Any bytes as a zip archive: refused, or a tree of unique names whose members decode or fail, and
//! a decoded archive with the same members.

#![no_main]

use std::{collections::HashSet, fs::File, io::Write, sync::Arc};

use libfuzzer_sys::fuzz_target;
use npzfs::archive::{Container, DirId, Entry, Generation, MAX_DICTIONARY, NPZ, Part, SourceFile};
use rustix::fs::MemfdFlags;

/// Larger members take too long for a fuzzer, and their decoders are others'.
const LARGEST: u64 = 1 << 20;

/// How many members are decoded: many may share their bytes.
const MOST: u32 = 8;

fuzz_target!(|input: &[u8]| {
    let file = rustix::fs::memfd_create("archive", MemfdFlags::CLOEXEC).expect("memfd");
    let mut file = File::from(file);
    file.write_all(input).expect("memory takes all");
    let generation = Generation::of(&file).expect("it is open");
    let Ok((source, tail)) = SourceFile::with_tail(file, generation) else { return };
    let Ok(mut archive) = NPZ.parse(Arc::new(source), tail, &mut |_| Ok(())) else { return };
    archive.lay_out_decoded(&mut |_| Ok(())).expect("the directory was parsed before");
    check_decoded(&archive);
    let (dirs, members) = archive.counts();
    let mut shown = HashSet::new();
    for dir in (0..dirs).map(DirId) {
        let mut before: Option<&[u8]> = None;
        for (name, entry) in archive.dir(dir).entries() {
            assert!(before.is_none_or(|before| before < name), "names are in order, each once");
            assert!(!name.is_empty() && name.len() <= 255);
            assert!(!name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b"..");
            assert_eq!(archive.dir(dir).get(name), Some(entry));
            match entry {
                Entry::Dir(below) => {
                    assert!(below.0 < dirs && below != DirId::ROOT);
                    assert_eq!(archive.dir(below).parent(), dir);
                }
                Entry::Member(id) => assert!(id.0 < members && shown.insert(id.0)),
            }
            before = Some(name);
        }
    }
    assert!(archive.memory() < 64 * (input.len() as u64 + 4096), "memory follows from length");
    for id in (0..members.min(MOST)).map(npzfs::archive::MemberId) {
        let member = archive.member(id);
        if archive.data_offset(id).is_err() || member.size > LARGEST {
            continue;
        }
        let mut decoded = Vec::new();
        if archive.decode(id, MAX_DICTIONARY, &mut decoded).is_ok() {
            assert_eq!(decoded.len() as u64, member.size);
            assert_eq!(crc32fast::hash(&decoded), member.crc32.expect("a zip says it"));
        }
    }
});

/// Goes through the decoded archive, part by part: each begins where the one before it ends, all
/// headers can be written, and a local header comes before the bytes of its member.
fn check_decoded(archive: &Container) {
    let Some(decoded) = archive.decoded() else { return };
    let (mut at, mut headers) = (0, Vec::new());
    while at < decoded.size() {
        let part = decoded.part_at(at);
        let size = part.size();
        assert!(size > 0);
        match part {
            Part::Headers(range) => {
                assert_eq!((range.start, range.end), (at, at + size));
                headers.clear();
                decoded.headers(range, &mut headers).expect("as it was laid out");
                assert_eq!(headers.len() as u64, size);
            }
            Part::Decoded(id, range) | Part::Encoded(id, range) => {
                assert!(range.start == 0 && headers.starts_with(b"PK\x03\x04"));
                assert!(id.0 < archive.counts().1);
            }
        }
        at += size;
    }
}
