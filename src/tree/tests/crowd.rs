//! Tests of the names that the kernel is asked to forget.

use std::collections::BTreeSet;

use super::*;

/// A tree with a low memory limit over 900 plain files and 300 archives: half of them in one
/// directory, half in its subdirectory. All of them are looked up.
fn crowded(dir: &Dir, layout: Layout) -> (Tree, Vec<(Ino, OsString, Ino)>) {
    fs::create_dir_all(dir.path("d/e")).unwrap();
    let archive = testing::zip(&[("x", b"x", false)]);
    for number in 0..900 {
        let below = if number % 2 == 0 { "d" } else { "d/e" };
        dir.write(&format!("{below}/{number}"), b"plain");
        if number < 300 {
            dir.write(&format!("{below}/{number}.npz"), &archive);
        }
    }
    let serve = serve::Settings { memory_limit: 1200 << 10, ..Default::default() };
    let tree = dir.tree(Settings { layout, serve, ..Settings::default() });
    let (d, _) = tree.lookup(Ino::ROOT, name("d")).unwrap();
    let (e, _) = tree.lookup(d, name("e")).unwrap();
    let mut found = Vec::new();
    for directory in [d, e] {
        for listed in names(&tree, directory).into_keys().filter(|listed| listed != "e") {
            let (ino, _) = tree.lookup(directory, &listed).unwrap();
            found.push((directory, listed, ino));
        }
    }
    (tree, found)
}

/// Forgets the chosen names until the inodes are few enough. Returns those names.
fn forgotten(tree: &Tree, found: &[(Ino, OsString, Ino)]) -> BTreeSet<(Ino, OsString)> {
    let mut forgotten = BTreeSet::new();
    for round in 0..100 {
        for (directory, name) in tree.names_to_forget(round) {
            let wanted = (directory, name.clone());
            let (.., ino) = found.iter().find(|(d, n, _)| (*d, n) == (directory, &name)).unwrap();
            if forgotten.insert(wanted) {
                tree.forget(*ino, 1);
            }
        }
    }
    forgotten
}

#[test]
fn names_go_until_inodes_take_a_quarter_of_the_memory() {
    for layout in [Layout::Replace, Layout::Beside, Layout::Stored, Layout::Flat] {
        let dir = Dir::new();
        let (tree, found) = crowded(&dir, layout);
        assert!(tree.is_crowded());
        let before = tree.references().0;
        let forgotten = forgotten(&tree, &found);
        assert!(!tree.is_crowded(), "{} bytes", tree.inode_memory());
        assert_eq!(tree.references().0, before - forgotten.len());
        assert!(forgotten.len() < before / 3 * 2, "{} of {before}", forgotten.len());
        for kind in [".npz", ".npz.d"] {
            let archives =
                forgotten.iter().filter(|(_, name)| name.to_string_lossy().ends_with(kind));
            let is_there = kind == ".npz" || layout.is_beside();
            assert_eq!(archives.count() > 0, is_there, "{kind} in {layout:?}");
        }
    }
}

#[test]
fn archives_are_forgotten_with_all_in_them_and_open_files_are_not() {
    let dir = Dir::new();
    let (tree, found) = crowded(&dir, Layout::Replace);
    let is_archive = |name: &OsStr| name.to_string_lossy().ends_with(".npz");
    for (_, name, ino) in &found {
        if is_archive(name) {
            tree.lookup(*ino, OsStr::new("x")).unwrap();
        } else {
            open(&tree, *ino);
        }
    }
    let forgotten: BTreeSet<_> = (0..100).flat_map(|round| tree.names_to_forget(round)).collect();
    assert!(forgotten.len() > 100);
    assert!(forgotten.iter().all(|(_, name)| is_archive(name)));
}

#[test]
fn decoded_archives_are_forgotten_though_nothing_else_of_them_was_looked_up() {
    let dir = Dir::new();
    let archive = testing::zip(&[("x", b"x", false)]);
    (0..800).for_each(|number| dir.write(&format!("{number}.npz"), &archive));
    let serve = serve::Settings { memory_limit: 1200 << 10, ..Default::default() };
    let tree = dir.tree(Settings { layout: Layout::Stored, serve, ..Settings::default() });
    let found: Vec<_> = (0..800)
        .map(|number| {
            let listed = OsString::from(format!("{number}.npz"));
            let (ino, attr) = tree.lookup(Ino::ROOT, &listed).unwrap();
            assert_eq!(attr.kind, Kind::RegularFile);
            (Ino::ROOT, listed, ino)
        })
        .collect();
    assert!(tree.is_crowded());
    assert!(!forgotten(&tree, &found).is_empty());
    assert!(!tree.is_crowded(), "{} bytes", tree.inode_memory());
}

#[test]
fn members_beside_archives_are_forgotten_with_their_archive() {
    let dir = Dir::new();
    let archive = testing::zip(&[("x.npy", b"x", false), ("y.npy", b"y", true)]);
    (0..800).for_each(|number| dir.write(&format!("{number}.npz"), &archive));
    let serve = serve::Settings { memory_limit: 1200 << 10, ..Default::default() };
    let tree = dir.tree(Settings { layout: Layout::Flat, serve, ..Settings::default() });
    let names = names(&tree, Ino::ROOT).into_keys();
    let found: Vec<_> = names
        // Of these archives only members are looked up.
        .filter(|listed| !listed.to_string_lossy().ends_with("7.npz"))
        .map(|listed| {
            let (ino, attr) = tree.lookup(Ino::ROOT, &listed).unwrap();
            assert_eq!(attr.kind, Kind::RegularFile);
            (Ino::ROOT, listed, ino)
        })
        .collect();
    assert_eq!(found.len(), 800 * 3 - 80);
    assert!(tree.is_crowded());
    let forgotten = forgotten(&tree, &found);
    assert!(!tree.is_crowded(), "{} bytes", tree.inode_memory());
    let archives: BTreeSet<_> = forgotten
        .iter()
        .map(|(_, name)| name.to_string_lossy().split(['_', '.']).next().unwrap().to_owned())
        .collect();
    let wanted = archives.iter().map(|one| if one.ends_with('7') { 2 } else { 3 }).sum::<usize>();
    assert_eq!(forgotten.len(), wanted, "all names of an archive, and only those looked up");
}

#[test]
fn an_archive_of_many_members_is_forgotten_with_them() {
    let dir = Dir::new();
    let names: Vec<_> = (0..40_000).map(|number| number.to_string()).collect();
    let members: Vec<_> = names.iter().map(|name| (&name[..], &b"x"[..], false)).collect();
    dir.write("a.npz", &testing::zip(&members));
    let serve = serve::Settings { memory_limit: 1200 << 10, ..Default::default() };
    let tree = dir.tree(Settings { serve, ..Settings::default() });
    let (archive, _) = tree.lookup(Ino::ROOT, name("a.npz")).unwrap();
    assert!(!tree.is_crowded());
    let found: Vec<_> =
        names.iter().map(|member| tree.lookup(archive, name(member)).unwrap().0).collect();
    assert!(tree.is_crowded());
    let chosen = (0..100).flat_map(|round| tree.names_to_forget(round)).collect::<BTreeSet<_>>();
    assert_eq!(chosen, [(Ino::ROOT, OsString::from("a.npz"))].into());
    // The kernel forgets what lies below a name with it.
    found.into_iter().chain([archive]).for_each(|ino| tree.forget(ino, 1));
    assert!(!tree.is_crowded(), "{} bytes", tree.inode_memory());
}

#[test]
fn few_names_are_chosen_at_once_though_each_archive_has_many_beside_it() {
    let dir = Dir::new();
    let members: Vec<_> = (0..2000).map(|number| format!("{number}.npy")).collect();
    let members: Vec<_> = members.iter().map(|name| (&name[..], &b"x"[..], false)).collect();
    let archive = testing::zip(&members);
    (0..20).for_each(|number| dir.write(&format!("{number}.npz"), &archive));
    let serve = serve::Settings { memory_limit: 256 << 10, ..Default::default() };
    let tree = dir.tree(Settings { layout: Layout::Flat, serve, ..Settings::default() });
    for listed in names(&tree, Ino::ROOT).into_keys() {
        tree.lookup(Ino::ROOT, &listed).unwrap();
    }
    let most = (0..10).map(|round| tree.names_to_forget(round).len()).max().unwrap();
    assert_eq!(most, 1 << 14);
}
