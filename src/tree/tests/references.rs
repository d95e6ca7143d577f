//! Tests of the kernel's references: lookups that are undone, and files that handles share.

use super::*;

#[test]
fn an_entry_that_finds_no_room_in_a_listing_owes_nothing() {
    let dir = Dir::new();
    dir.write(
        "a.npz",
        &testing::zip(&[("x", b"x", false), ("y", b"y", false), ("d/z", b"z", true)]),
    );
    for file in ["plain", "other"] {
        dir.write(file, b"bytes");
    }
    let tree = dir.tree(Settings::default());
    let (archive, _) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    let before = tree.references();
    for directory in [Ino::ROOT, archive] {
        for room in 0..=5 {
            let mut taken = Vec::new();
            let mut left = room;
            let mut show = |entry: Listed<'_>| {
                let fits = left > 0;
                if fits {
                    left -= 1;
                    taken.extend(entry.looked_up.map(|(ino, _)| ino));
                }
                fits
            };
            tree.read_directory(directory, 0, true, true, &mut show).unwrap();
            taken.into_iter().for_each(|ino| tree.forget(ino, 1));
            assert_eq!(tree.references(), before, "{directory:?}, room for {room}");
        }
    }
}

#[test]
fn handles_of_one_plain_file_share_one_open_file() {
    let dir = Dir::new();
    dir.write("f", b"bytes");
    let tree = dir.tree(Settings::default());
    let (ino, _) = tree.lookup(Ino::ROOT, name("f")).unwrap();
    let opened = [open(&tree, ino), open(&tree, ino)];
    let files = opened.each_ref().map(|opened| match &opened.backing {
        Backing::File(file) => Arc::as_ptr(file),
        other => panic!("{other:?}"),
    });
    assert_eq!(files[0], files[1]);
    opened.into_iter().for_each(|opened| tree.release(opened.id));
}
