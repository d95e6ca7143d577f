//! Compares random archives with a simple model, and checks that damaged archives cause no panic.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    Container, Entry, Error, MAX_DICTIONARY, MemberId,
    testing::{RawMember, RawZip, deflate, open, paths, read},
};

/// The paths that an archive with these names must show, by the written rules: the directories, and
/// the files with the number of the member whose bytes they have.
fn model(names: &[Vec<u8>]) -> (BTreeSet<Vec<u8>>, BTreeMap<Vec<u8>, usize>) {
    let mut dirs = BTreeSet::new();
    let mut files = BTreeMap::new();
    for (member, name) in names.iter().enumerate() {
        let parts: Vec<&[u8]> = name
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .collect();
        if parts.is_empty() || parts.contains(&&b".."[..]) || name.contains(&0) {
            continue;
        }
        (1..parts.len()).for_each(|len| _ = dirs.insert(parts[..len].join(&b'/')));
        if name.ends_with(b"/") {
            dirs.insert(parts.join(&b'/'));
        } else {
            files.insert(parts.join(&b'/'), member);
        }
    }
    let mut clashes: Vec<(usize, Vec<u8>)> = files
        .iter()
        .filter(|(path, _)| dirs.contains(*path))
        .map(|(path, &member)| (member, path.clone()))
        .collect();
    clashes.sort();
    for (_, path) in &clashes {
        files.remove(path);
    }
    for (member, path) in clashes {
        let free = (1..)
            .map(|number| match number {
                1 => [&path[..], b".member"].concat(),
                _ => [&path[..], format!(".member.{number}").as_bytes()].concat(),
            })
            .find(|path| !dirs.contains(path) && !files.contains_key(path))
            .unwrap();
        files.insert(free, member);
    }
    (dirs, files)
}

/// Names of few different parts, so that names often collide.
fn names() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let part = select(vec!["a", "b", "/", "/", ".", "..", ".member", ".member.2", "\0", "\u{e9}"]);
    vec(vec(part, 0..6).prop_map(|parts| parts.concat().into_bytes()), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn an_archive_shows_what_the_rules_say(names in names()) {
        let members = names.iter().enumerate().map(|(number, name)| RawMember {
            flags: 1 << 11,
            ..RawMember::stored(name, number.to_string())
        });
        let archive = RawZip::of(members).open().unwrap();
        let (dirs, files) = model(&names);
        let mut shown_dirs = BTreeSet::new();
        let mut shown_files = BTreeMap::new();
        for (path, entry) in paths(&archive) {
            match entry {
                Entry::Dir(_) => _ = shown_dirs.insert(path),
                Entry::Member(id) => {
                    prop_assert_eq!(archive.path_of(id), path.clone());
                    let text = String::from_utf8(path.clone()).unwrap();
                    let bytes = read(&archive, &text).unwrap();
                    prop_assert_eq!(bytes, id.0.to_string().into_bytes());
                    shown_files.insert(path, id.0 as usize);
                }
            }
        }
        prop_assert_eq!(shown_dirs, dirs);
        prop_assert_eq!(&shown_files, &files);
        if archive.warning().is_none() {
            let last: BTreeMap<_, _> = names.iter().enumerate().map(|(at, name)| (name, at)).collect();
            for (name, at) in last {
                prop_assert!(name.ends_with(b"/") || shown_files.get(name) == Some(&at));
            }
        }
    }

    #[test]
    fn a_damaged_archive_is_answered_and_never_gives_other_bytes(
        zip64: bool,
        comment in vec(any::<u8>(), 0..30),
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        keep in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut bytes = small_zip(zip64, comment).bytes();
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len()));
        }
        for (at, flip) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
        }
        check_answers(&bytes);
    }
}

const PLAIN: [&[u8]; 3] = [b"stored bytes", &[9; 300], b"in a directory"];

fn small_zip(zip64: bool, comment: Vec<u8>) -> RawZip {
    let mut members = vec![
        RawMember::stored("a.npy", PLAIN[0]),
        RawMember::encoded("b.npy", 8, &deflate(PLAIN[1]), PLAIN[1]),
        RawMember::stored("c/d.npy", PLAIN[2]),
    ];
    members[1].zip64 = zip64;
    RawZip { zip64, comment, ..RawZip::of(members) }
}

/// Calls all functions of an archive. Decoded bytes must have the right CRC-32. Reading the file
/// itself must not fail.
fn check_answers(bytes: &[u8]) -> Option<Container> {
    let archive = match open(bytes) {
        Ok(archive) => archive,
        Err(Error::Pending(_) | Error::Corrupt(_)) => return None,
        Err(other) => panic!("{other}"),
    };
    assert!(archive.memory() > 0);
    for (_, entry) in paths(&archive) {
        let Entry::Member(id) = entry else { continue };
        if let Ok(offset) = archive.data_offset(id) {
            let end = offset + archive.member(id).encoded_size;
            assert!(end <= bytes.len() as u64);
        }
        // Skip large members: a damaged size may be near 2^63, and decoding would not fail before
        // the end.
        if archive.member(id).size > 1 << 20 {
            continue;
        }
        let mut out = Vec::new();
        match archive.decode(id, MAX_DICTIONARY, &mut out) {
            Ok(()) => assert_eq!(Some(crc32fast::hash(&out)), archive.member(id).crc32),
            Err(Error::Io(error)) => panic!("{error}"),
            Err(_) => {}
        }
    }
    Some(archive)
}

#[test]
fn every_flipped_bit_of_a_small_zip_is_answered() {
    for zip64 in [false, true] {
        let bytes = small_zip(zip64, b"comment".to_vec()).bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            check_answers(&flipped);
        }
        let whole = check_answers(&bytes).unwrap();
        for (id, plain) in (0..).map(MemberId).zip(PLAIN) {
            let mut out = Vec::new();
            whole.decode(id, MAX_DICTIONARY, &mut out).unwrap();
            assert_eq!(out, plain);
        }
    }
}
