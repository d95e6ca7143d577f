//! Tests that memory and open files stay within their bounds, whatever the kernel sends.

use std::{io::Write, num::NonZeroUsize, path::Path, sync::atomic::Ordering};

use super::{
    super::containers::{Containers, NotOpened, Weight},
    *,
};
use crate::archive::{NPY_GZ, NPZ};

#[test]
fn a_failure_of_the_source_that_repeats_is_told_once() {
    let tree = Dir::new().tree(Settings::default());
    let error = FsError::from(rustix::io::Errno::IO);
    let told = (0..100).filter(|_| tree.repeats("read", &error).is_some());
    assert_eq!(told.count(), 1);
}

#[test]
fn why_a_file_is_no_container_is_remembered_in_200_bytes() {
    let dir = Dir::new();
    let dtype = "\u{1}".repeat(100);
    let dict = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ()}}");
    let npy = [b"\x93NUMPY\x01\x00", &(dict.len() as u16).to_le_bytes()[..], dict.as_bytes()];
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(&npy.concat()).unwrap();
    dir.write("a.npy.gz", &gz.finish().unwrap());
    let tree = dir.tree(Settings::default());
    let at = tree.source.at(Path::new(""));
    let stat = at.stat(name("a.npy.gz")).unwrap();
    let why = tree.container_at(&at, name("a.npy.gz"), &NPY_GZ, stat).unwrap().0.err().unwrap();
    let why = why.reason().to_string();
    assert!(why.contains("dtype") && (100..=200).contains(&why.len()), "{why}");
}

#[test]
fn archives_that_are_not_large_make_room_for_others_too() {
    let dir = Dir::new();
    let mut tree = dir.tree(Settings::default());
    // A budget for no container at all: the newest one stays open all the same.
    tree.containers = Arc::new(Containers::new(NonZeroUsize::new(5).unwrap(), 1, false));
    for number in 0..5 {
        dir.write(&format!("{number}.npz"), &testing::zip(&[("x", b"bytes", false)]));
        tree.lookup(Ino::ROOT, name(&format!("{number}.npz"))).unwrap();
    }
    assert!(tree.containers.close_oldest() && !tree.containers.close_oldest());
}

#[test]
fn that_there_is_no_memory_for_an_archive_is_known_for_a_while() {
    let dir = Dir::new();
    let members =
        (0..100_000).map(|number| testing::RawMember::stored(format!("{number:06}"), b""));
    dir.write("large.npz", &testing::RawZip::of(members).bytes());
    let serve = serve::Settings { memory_limit: 1, ..Default::default() };
    let tree = dir.tree(Settings { serve, ..Settings::default() });
    let at = tree.source.at(Path::new(""));
    let stat = at.stat(name("large.npz")).unwrap();
    let mut opened = 0;
    for _ in 0..3 {
        let mut open = || {
            opened += 1;
            at.open_file(name("large.npz"))
        };
        let found = tree.containers.find(stat, &NPZ, &tree.server, true, &mut open, |_| ());
        let Err(NotOpened::Io(error)) = found else { panic!("there is no memory for it") };
        assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("--memory-limit"), "{error}");
    }
    assert_eq!(opened, 1);
    // A new generation of the file may be small, and is not refused.
    dir.replace("large.npz", &testing::zip(&[("x", b"bytes", false)]));
    assert!(tree.lookup(Ino::ROOT, name("large.npz")).is_ok());
}

#[test]
fn whether_opening_an_archive_again_is_slow_depends_on_the_length_of_its_directory() {
    let dir = Dir::new();
    for (file, comment, is_slow) in [("a.npz", 0, false), ("b.npz", 60_000, true)] {
        let member = |name| testing::RawMember {
            comment: vec![b'.'; comment],
            ..testing::RawMember::stored(name, b"bytes")
        };
        dir.write(file, &testing::RawZip::of(["u", "v", "w", "x"].map(member)).bytes());
        let tree = dir.tree(Settings::default());
        assert_eq!(tree.look_up(Ino::ROOT, name(file), false).is_err(), is_slow, "{file}");
        let (archive, _) = tree.lookup(Ino::ROOT, name(file)).unwrap();
        let (member, _) = tree.lookup(archive, name("x")).unwrap();
        assert_eq!([archive, member].map(|ino| tree.weight_to_open(ino)), [None; 2], "it is open");
        assert!(tree.containers.close_oldest());
        let weight = is_slow.then_some(Weight::Large);
        assert_eq!([archive, member].map(|ino| tree.weight_to_open(ino)), [weight; 2], "{file}");
    }
}

#[test]
fn the_state_of_a_large_archive_beside_its_directory_is_not_found_without_waiting() {
    let dir = Dir::new();
    let members = (0..5000).map(|number| testing::RawMember::stored(format!("{number}"), b""));
    dir.write("a.npz", &testing::RawZip::of(members).bytes());
    let tree = dir.tree(Settings { layout: Layout::Beside, ..Settings::default() });
    let (file, attr) = tree.look_up(Ino::ROOT, name("a.npz"), false).unwrap();
    assert_eq!(attr.kind, Kind::RegularFile);
    assert!(matches!(tree.xattr(file, Xattr::State, false), Err(FsError::Heavy(Weight::Large))));
    assert_eq!(tree.list_xattrs(file).unwrap(), "user.npzfs.state\0", "needs no archive");
    assert_eq!(tree.xattr(file, Xattr::State, true).unwrap(), "ready");
    assert_eq!(tree.xattr(file, Xattr::State, false).unwrap(), "ready", "it is open by now");
}

#[test]
fn a_listing_opens_each_archive_on_which_its_names_depend_once() {
    let dir = Dir::new();
    let archive = testing::zip(&[("x.npy", b"x", false)]);
    (0..300).for_each(|number| dir.write(&format!("{number}.npz"), &archive));
    dir.write("a.NPZ", &archive);
    for (layout, opened) in [(Layout::Beside, 301), (Layout::Stored, 301), (Layout::Flat, 300)] {
        // More than are opened together, and fewer than there are.
        let tree = dir.tree(Settings { layout, open_archives: 100, ..Settings::default() });
        for listing in 1..=2 {
            assert_eq!(listed(&tree, Ino::ROOT, 0).len(), 2 + 301 + opened);
            let parsed = tree.containers.parsed.load(Ordering::Relaxed);
            assert!(parsed <= listing * opened as u64, "{parsed} in {layout:?}");
        }
    }
}

#[test]
fn a_lookup_beside_archives_opens_those_of_whose_names_it_may_be_made() {
    let dir = Dir::new();
    let archive = testing::zip(&[("x.npy", b"x", false), ("b_x.npy", b"bx", false)]);
    for stem in ["a", "a_b", "a_b_x", "a_c", "b", "x", "ab"] {
        dir.write(&format!("{stem}.npz"), &archive);
    }
    let tree = dir.tree(Settings { layout: Layout::Flat, ..Settings::default() });
    for (shown, opened) in [("a_b_x.npy", 1), ("a_b_y.npy", 2), ("c_x.npy", 2), ("a_x.npy", 2)] {
        let found = tree.lookup(Ino::ROOT, name(shown));
        assert_eq!(found.is_ok(), shown.ends_with("x.npy") && shown != "c_x.npy");
        assert_eq!(tree.containers.parsed.load(Ordering::Relaxed), opened, "{shown}");
    }
}
