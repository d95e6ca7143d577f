//! Tests of the tree that need no /dev/fuse.

mod bounds;
mod crowd;
mod random;
mod references;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use super::*;
use crate::{
    archive::{self, testing},
    serve::{self, Backing},
};

/// A source directory. It is removed when the value is dropped.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Puts a new file at `name` with rename(2).
    fn replace(&self, name: &str, bytes: &[u8]) {
        self.write(".new", bytes);
        fs::rename(self.path(".new"), self.path(name)).unwrap();
    }

    fn tree(&self, settings: Settings) -> Tree {
        Tree::new(Source::open(self.0.path()).unwrap(), settings).unwrap()
    }
}

impl Tree {
    fn lookup(&self, parent: Ino, name: &OsStr) -> Result<(Ino, Attr), FsError> {
        self.look_up(parent, name, true)
    }
}

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

fn read(tree: &Tree, id: HandleId, offset: u64, size: u32) -> Result<Vec<u8>, FsError> {
    let (sender, receiver) = mpsc::channel();
    let asker = crate::serve::Asker::unknown();
    tree.handle(id)?.read(asker, offset, size, move |result: Result<&[u8], FsError>| {
        sender.send(result.map(<[u8]>::to_vec)).unwrap();
    });
    receiver.recv_timeout(Duration::from_secs(60)).expect("a read is answered")
}

fn is_overwritten(error: &FsError) -> bool {
    matches!(error, FsError::Content(failure) if failure.error.is_overwritten())
}

/// Lists the entries of a directory after `cookie`: names, cookies, kinds.
fn listed(tree: &Tree, ino: Ino, cookie: u64) -> Vec<(OsString, u64, Option<Kind>)> {
    let mut entries = Vec::new();
    let mut show = |entry: Listed<'_>| {
        entries.push((entry.name.to_owned(), entry.cookie, entry.kind));
        true
    };
    tree.read_directory(ino, cookie, false, true, &mut show).unwrap();
    entries
}

fn names(tree: &Tree, ino: Ino) -> BTreeMap<OsString, Kind> {
    let kind = |name: &OsStr| {
        let (found, attr) = tree.lookup(ino, name).unwrap();
        tree.forget(found, 1);
        attr.kind
    };
    let entries = listed(tree, ino, 0).into_iter().skip(2);
    entries.map(|(name, _, known)| (name.clone(), known.unwrap_or_else(|| kind(&name)))).collect()
}

/// `len` words of 8 bytes. Each holds its own index and the low 16 bits of `stamp`.
fn stamped(stamp: u64, len: usize) -> Vec<u8> {
    (0..len as u64).flat_map(|place| (place << 16 | (stamp & 0xffff)).to_le_bytes()).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Opens a file. If the tree asks to verify the member first, this does so.
fn open(tree: &Tree, ino: Ino) -> Opened {
    loop {
        match tree.open(ino, 0).unwrap() {
            Opening::Done(opened) => return opened,
            Opening::Verify(content) => {
                let (sender, verified) = std::sync::mpsc::channel();
                content.verify(Box::new(move |result| sender.send(result.is_ok()).unwrap()));
                assert!(verified.recv().unwrap());
            }
        }
    }
}

#[test]
fn an_archive_is_a_directory_of_its_members() {
    let dir = Dir::new();
    let plain = stamped(1, 40_000);
    dir.write("a.npz", &testing::zip(&[("x.npy", &plain[..], true), ("d/y.npy", b"abc", false)]));
    dir.write("notes.txt", b"hello");
    let tree = dir.tree(Settings::default());

    let expected = [("a.npz", Kind::Directory), ("notes.txt", Kind::RegularFile)];
    assert_eq!(names(&tree, Ino::ROOT), expected.map(|(n, k)| (n.into(), k)).into());
    let (archive, attr) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    assert_eq!(attr.kind, Kind::Directory);
    let expected = [("x.npy", Kind::RegularFile), ("d", Kind::Directory)];
    assert_eq!(names(&tree, archive), expected.map(|(n, k)| (n.into(), k)).into());

    let (x, attr) = tree.lookup(archive, name("x.npy")).unwrap();
    assert_eq!(attr.size, plain.len() as u64);
    assert_eq!(tree.getattr(x).unwrap(), attr);
    let opened = open(&tree, x);
    assert!(matches!(opened.backing, Backing::Never));
    for offset in [0, 1, 70_000, plain.len() - 5, plain.len(), plain.len() + 9] {
        let expected = &plain[offset.min(plain.len())..plain.len().min(offset + 100_000)];
        assert_eq!(read(&tree, opened.id, offset as u64, 100_000).unwrap(), expected);
    }
    assert!(matches!(tree.lookup(x, name("y")), Err(FsError::NotADirectory)));
    assert!(matches!(tree.open(archive, 0), Err(FsError::IsADirectory)));
    let list = tree.read_directory(x, 0, true, true, &mut |_| panic!("an entry of a file"));
    assert!(matches!(list, Err(FsError::NotADirectory)));
}

#[test]
fn many_who_read_noise_at_once_from_one_thread_get_their_bytes() {
    let dir = Dir::new();
    // Random bytes below 150, so that DEFLATE finds no matches and uses codes of 7 and 8 bits.
    let mut random = Random(1);
    let plain: Vec<u8> = (0..3 << 20).map(|_| random.below(150) as u8).collect();
    dir.write("a.npz", &testing::zip(&[("x", &plain, true)]));
    // The cache has room for two spans.
    let serve = serve::Settings { threads: 1, cache_size: 600 << 10, ..Default::default() };
    let tree = dir.tree(Settings { serve, ..Settings::default() });
    let (archive, _) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    let (x, _) = tree.lookup(archive, name("x")).unwrap();
    let id = open(&tree, x).id;
    assert!(read(&tree, id, 3_000_000, 1 << 20).unwrap() == plain[3_000_000..]);
    thread::scope(|scope| {
        for seed in 2..10 {
            let (tree, plain) = (&tree, &plain);
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..40 {
                    let at = random.below(plain.len() - (128 << 10));
                    let found = read(tree, id, at as u64, 128 << 10).unwrap();
                    assert!(found == plain[at..at + (128 << 10)], "at {at}");
                }
            });
        }
    });
}

#[test]
fn a_new_generation_has_new_inodes_and_the_old_handle_reads_on_after_a_rename() {
    let dir = Dir::new();
    let [old, new] = [stamped(1, 300_000), stamped(2, 300_000)];
    dir.write("a.npz", &testing::zip(&[("x", &old, true)]));
    let tree = dir.tree(Settings::default());
    let (before, _) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    let (x, _) = tree.lookup(before, name("x")).unwrap();
    let handle = open(&tree, x).id;
    dir.replace("a.npz", &testing::zip(&[("x", &new, true)]));

    let (after, _) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    let (new_x, _) = tree.lookup(after, name("x")).unwrap();
    assert!(after != before && new_x != x);
    let last = old.len() as u64 - 8;
    assert_eq!(read(&tree, handle, last, 8).unwrap(), &old[old.len() - 8..]);
    let handle = open(&tree, new_x).id;
    assert_eq!(read(&tree, handle, last, 8).unwrap(), &new[new.len() - 8..]);
}

#[test]
fn an_overwritten_generation_gives_an_error_and_a_chance_to_look_again() {
    let dir = Dir::new();
    dir.write("a.npz", &testing::zip(&[("x", &stamped(1, 300_000), true)]));
    let tree = dir.tree(Settings::default());
    let (before, _) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    let (x, attr) = tree.lookup(before, name("x")).unwrap();
    let handle = open(&tree, x).id;
    dir.write("a.npz", &testing::zip(&[("x", &stamped(2, 300_000), true)]));

    let error = read(&tree, handle, 2_000_000, 8).unwrap_err();
    assert!(is_overwritten(&error), "{error}");
    // The mtime stays: a new one would make the kernel drop pages that are still right.
    assert_eq!(tree.getattr(x).unwrap().mtime, attr.mtime);
    assert!(matches!(tree.open(x, 0), Err(FsError::Stale)));
    assert!(matches!(tree.lookup(before, name("x")), Err(FsError::Stale)));
}

#[test]
fn what_makes_no_sense_since_the_archive_was_overwritten_is_not_called_damage() {
    let dir = Dir::new();
    dir.write("a.npz", &testing::zip(&[("x", &stamped(1, 1000), true)]));
    let tree = dir.tree(Settings::default());
    let (archive, _) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    let (x, _) = tree.lookup(archive, name("x")).unwrap();
    let handle = tree.handle(open(&tree, x).id).unwrap();
    let Handle::Member(file) = &*handle else { panic!("a member") };
    let failure = || {
        let damage = archive::Error::Corrupt("of the test".into()).into();
        let failure = file.content().failure("read", damage);
        (failure.error.is_overwritten(), failure.repeats.is_some())
    };
    // The second failure is not logged again.
    assert_eq!([failure(), failure()], [(false, true), (false, false)]);
    dir.write("a.npz", &testing::zip(&[("x", &stamped(2, 1000), true)]));
    assert_eq!([failure(), failure()], [(true, true), (true, false)]);
}

#[test]
fn a_chmod_or_a_link_makes_no_new_generation() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new();
    dir.write("a.npz", &testing::zip(&[("x", b"abc", false)]));
    let tree = dir.tree(Settings::default());
    let (before, attr) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    assert_eq!(attr.mode & 0o444, attr.mode >> 2 << 2 & 0o444);
    fs::set_permissions(dir.path("a.npz"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(dir.path("a.npz"), dir.path("b.npz")).unwrap();
    let (after, attr) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    assert_eq!((after, attr.mode), (before, 0o550));
    let (x, attr) = tree.lookup(after, name("x")).unwrap();
    assert_eq!(attr.mode, 0o440);
    assert_eq!(read(&tree, open(&tree, x).id, 0, 9).unwrap(), b"abc");
}

#[test]
fn a_pending_archive_is_a_file_until_it_is_whole() {
    let dir = Dir::new();
    let whole = testing::zip(&[("x", b"abc", false)]);
    dir.write("a.npz", &whole[..whole.len() - 1]);
    let tree = dir.tree(Settings::default());
    let (file, attr) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    assert_eq!((attr.kind, attr.size), (Kind::RegularFile, whole.len() as u64 - 1));
    assert_eq!(names(&tree, Ino::ROOT)[name("a.npz")], Kind::RegularFile);
    let state = tree.xattr(file, Xattr::State, true).unwrap();
    assert_eq!(state, "pending: no end of central directory record");
    dir.write("a.npz", &whole);
    let (archive, attr) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    assert_eq!(attr.kind, Kind::Directory);
    assert_ne!(archive, file);
    assert_eq!(names(&tree, Ino::ROOT)[name("a.npz")], Kind::Directory);
}

#[test]
fn nothing_leads_out_of_the_source() {
    let dir = Dir::new();
    let outside = Dir::new();
    outside.write("secret", b"s");
    fs::create_dir(dir.path("sub")).unwrap();
    dir.write("sub/secret", b"ours");
    let tree = dir.tree(Settings::default());
    let (sub, _) = tree.lookup(Ino::ROOT, name("sub")).unwrap();
    let (secret, _) = tree.lookup(sub, name("secret")).unwrap();
    fs::remove_dir_all(dir.path("sub")).unwrap();
    std::os::unix::fs::symlink(outside.0.path(), dir.path("sub")).unwrap();
    assert!(tree.lookup(sub, name("secret")).is_err());
    assert!(tree.open(secret, 0).is_err());
    let (link, attr) = tree.lookup(Ino::ROOT, name("sub")).unwrap();
    assert_eq!(attr.kind, Kind::Symlink);
    assert_eq!(tree.read_link(link).unwrap(), outside.0.path().as_os_str());
}

#[test]
fn a_file_that_is_deleted_while_open_can_still_be_read_and_statted() {
    let dir = Dir::new();
    dir.write("f", b"hello");
    let tree = dir.tree(Settings::default());
    let (ino, attr) = tree.lookup(Ino::ROOT, name("f")).unwrap();
    let handle = open(&tree, ino).id;
    fs::remove_file(dir.path("f")).unwrap();
    assert_eq!(tree.getattr(ino).unwrap().size, attr.size);
    assert_eq!(read(&tree, handle, 1, 3).unwrap(), b"ell");
    tree.release(handle);
    assert!(matches!(tree.getattr(ino), Err(FsError::Stale)));
}

#[test]
fn an_archive_that_was_closed_is_opened_again_with_the_same_inodes() {
    let dir = Dir::new();
    // More archives than are kept open.
    for number in 0..30 {
        let bytes = stamped(number, 10);
        dir.write(&format!("{number}.npz"), &testing::zip(&[("x", &bytes, false)]));
    }
    let tree = dir.tree(Settings { open_archives: 4, ..Settings::default() });
    let look = |number: u64| {
        let (archive, _) = tree.lookup(Ino::ROOT, name(&format!("{number}.npz"))).unwrap();
        tree.lookup(archive, name("x")).unwrap().0
    };
    let inodes: Vec<Ino> = (0..30).map(look).collect();
    for (number, ino) in inodes.iter().enumerate() {
        let handle = open(&tree, *ino).id;
        assert_eq!(read(&tree, handle, 0, 80).unwrap(), stamped(number as u64, 10));
        tree.release(handle);
        assert_eq!(look(number as u64), *ino);
    }
}

#[test]
fn a_listing_with_inodes_says_what_lookups_say() {
    let dir = Dir::new();
    // More files than are opened together, and more than are kept open.
    for number in 0..300 {
        let bytes = match number % 4 {
            0 => b"no zip".to_vec(),
            1 => testing::zip(&[]),
            _ => testing::zip(&[("x", &stamped(number, 10), false)]),
        };
        dir.write(&format!("{number}.npz"), &bytes);
    }
    fs::create_dir(dir.path("d.npz")).unwrap();
    std::os::unix::fs::symlink("7.npz", dir.path("l.npz")).unwrap();
    let tree = dir.tree(Settings { open_archives: 100, ..Settings::default() });
    for _ in 0..2 {
        let mut entries = Vec::new();
        let mut show = |entry: Listed<'_>| {
            entries.extend(entry.looked_up.map(|found| (entry.name.to_owned(), found)));
            true
        };
        tree.read_directory(Ino::ROOT, 0, true, true, &mut show).unwrap();
        assert_eq!(entries.len(), 302);
        for (name, (ino, attr)) in entries {
            let expected = match name.to_str().unwrap().split('.').next().unwrap().parse::<u64>() {
                Ok(number) if number % 4 == 0 => Kind::RegularFile,
                Err(_) if name == "l.npz" => Kind::Symlink,
                _ => Kind::Directory,
            };
            assert_eq!(attr.kind, expected, "{name:?}");
            let (same, again) = tree.lookup(Ino::ROOT, &name).unwrap();
            // Opening the file reads it, so the atime may change.
            assert_eq!((same, Attr { atime: attr.atime, ..again }), (ino, attr), "{name:?}");
            tree.forget(ino, 2);
        }
        assert_eq!(tree.references(), (1, 0, 0));
    }
}

#[test]
fn a_listing_of_names_opens_no_archive_until_one_is_looked_up() {
    let dir = Dir::new();
    for number in 0..100 {
        dir.write(&format!("{number}.npz"), &testing::zip(&[("x", b"abc", false)]));
    }
    dir.write("none.npz", b"no zip");
    dir.write("notes.txt", b"hello");
    let tree = dir.tree(Settings::default());
    let count = || {
        let open = std::cell::Cell::new(0);
        tree.containers.for_each(|_| open.set(open.get() + 1));
        open.get()
    };
    let entries = listed(&tree, Ino::ROOT, 0);
    for (name, _, kind) in &entries[2..] {
        assert_eq!(*kind, (name == "notes.txt").then_some(Kind::RegularFile), "{name:?}");
    }
    assert_eq!(count(), 0);
    let (_, half, _) = entries[50];
    tree.lookup(Ino::ROOT, name("7.npz")).unwrap();
    assert_eq!(count(), 1);
    let rest = listed(&tree, Ino::ROOT, half);
    assert_eq!(rest.len(), entries.len() - 51);
    for (name, _, kind) in rest {
        let is_file = name == "notes.txt" || name == "none.npz";
        assert_eq!(
            kind,
            Some(if is_file { Kind::RegularFile } else { Kind::Directory }),
            "{name:?}"
        );
    }
}

#[test]
fn a_handle_keeps_its_archive_though_others_are_opened() {
    let dir = Dir::new();
    let old = stamped(1, 300_000);
    dir.write("a.npz", &testing::zip(&[("x", &old, true)]));
    for number in 0..9 {
        dir.write(&format!("{number}.npz"), &testing::zip(&[("x", b"abc", false)]));
    }
    let tree = dir.tree(Settings { open_archives: 1, ..Settings::default() });
    let (archive, _) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    let (x, attr) = tree.lookup(archive, name("x")).unwrap();
    let handle = open(&tree, x).id;
    fs::remove_file(dir.path("a.npz")).unwrap();
    assert_eq!(names(&tree, Ino::ROOT).len(), 9);

    assert_eq!(tree.getattr(x).unwrap().size, attr.size);
    assert_eq!(read(&tree, handle, 2_000_000, 80).unwrap(), &old[2_000_000..2_000_080]);
    tree.release(handle);
    assert!(matches!(tree.getattr(x), Err(FsError::Stale)));
}

#[test]
fn archives_that_were_removed_or_replaced_are_closed() {
    let dir = Dir::new();
    for file in ["kept.npz", "held.npz", "gone.npz", "old.npz"] {
        dir.write(file, &testing::zip(&[("x", file.as_bytes(), false)]));
    }
    fs::write(dir.path("new"), testing::zip(&[("x", b"new.npz", false)])).unwrap();
    let tree = dir.tree(Settings::default());
    let member = |file| {
        let (archive, _) = tree.lookup(Ino::ROOT, name(file)).unwrap();
        tree.lookup(archive, name("x")).unwrap().0
    };
    let [kept, held, gone, old] = ["kept.npz", "held.npz", "gone.npz", "old.npz"].map(member);
    let handle = open(&tree, held).id;
    for file in ["held.npz", "gone.npz"] {
        fs::remove_file(dir.path(file)).unwrap();
    }
    fs::rename(dir.path("new"), dir.path("old.npz")).unwrap();
    let new = member("old.npz");
    let open = || {
        let open = Mutex::new(0);
        tree.containers.for_each(|_| *open.lock().unwrap() += 1);
        open.into_inner().unwrap()
    };
    assert_eq!(open(), 5);
    tree.containers.close_removed();
    assert_eq!(open(), 2);
    assert_eq!(read(&tree, handle, 0, 80).unwrap(), b"held.npz");
    for inode in [kept, new] {
        assert!(tree.open(inode, 0).is_ok());
    }
    for inode in [gone, old] {
        assert!(matches!(tree.open(inode, 0), Err(FsError::Stale)));
    }
}

#[test]
fn an_archive_that_is_closed_while_it_is_looked_up_is_counted_once() {
    let dir = Dir::new();
    let tree = dir.tree(Settings::default());
    let archive = testing::zip(&[("x", b"bytes", false)]);
    for _ in 0..4000 {
        dir.write("a.npz", &archive);
        tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
        // Changes the ctime, so that the fingerprint is compared.
        fs::hard_link(dir.path("a.npz"), dir.path("b.npz")).unwrap();
        fs::remove_file(dir.path("a.npz")).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _gone_or_not = tree.lookup(Ino::ROOT, name("b.npz"));
            });
            fs::remove_file(dir.path("b.npz")).unwrap();
            tree.containers.close_removed();
        });
        assert!(tree.containers.is_counted_right());
    }
}

#[test]
fn archives_that_go_for_others_are_counted_out() {
    let dir = Dir::new();
    let tree = dir.tree(Settings { open_archives: 2, ..Settings::default() });
    for number in 0..5 {
        dir.write(&format!("{number}.npz"), &testing::zip(&[("x", b"bytes", false)]));
        tree.lookup(Ino::ROOT, name(&format!("{number}.npz"))).unwrap();
        assert!(tree.containers.is_counted_right(), "{number}");
    }
    // Closes all containers, as a shortage of descriptors does.
    let mut closed = 0;
    while tree.containers.close_oldest() {
        closed += 1;
        assert!(tree.containers.is_counted_right());
    }
    assert_eq!(closed, 2);
}
