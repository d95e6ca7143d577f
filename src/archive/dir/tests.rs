use super::*;
use crate::archive::testing::{RawMember, RawZip, paths};

/// A path and the number of its member; `None` for a directory.
type Shown = (Vec<u8>, Option<u32>);

/// All paths of an archive with these names, in byte order, and the warning.
fn shown(names: &[&[u8]]) -> (Vec<Shown>, Option<String>) {
    let members =
        names.iter().map(|name| RawMember { flags: 1 << 11, ..RawMember::stored(name, b"") });
    let archive = RawZip::of(members).open().unwrap();
    let paths = paths(&archive)
        .into_iter()
        .map(|(path, entry)| match entry {
            Entry::Dir(_) => (path, None),
            Entry::Member(MemberId(id)) => (path, Some(id)),
        })
        .collect();
    (paths, archive.warning().map(str::to_owned))
}

fn assert_shown(names: &[&str], expected: &[(&str, Option<u32>)], warning: Option<&str>) {
    let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    let (paths, told) = shown(&names);
    let expected: Vec<_> = expected.iter().map(|&(p, id)| (p.as_bytes().to_vec(), id)).collect();
    assert_eq!(paths, expected);
    assert_eq!(told.as_deref(), warning);
}

#[test]
fn slashes_make_directories() {
    let expected =
        [("a", None), ("a/b", None), ("a/b/x", Some(0)), ("a/y", Some(1)), ("z", Some(2))];
    assert_shown(&["a/b/x", "a/y", "z"], &expected, None);
}

#[test]
fn directory_entries_make_directories_even_if_empty() {
    assert_shown(
        &["a/", "b/c/", "a/x"],
        &[("a", None), ("a/x", Some(2)), ("b", None), ("b/c", None)],
        None,
    );
}

#[test]
fn the_last_of_a_repeated_name_wins_without_a_word() {
    assert_shown(&["x", "y", "x"], &[("x", Some(2)), ("y", Some(1))], None);
}

#[test]
fn the_last_of_names_that_are_shown_as_one_wins_and_the_other_is_told() {
    assert_shown(
        &["x", "y", "/x"],
        &[("x", Some(2)), ("y", Some(1))],
        Some(
            "2 of 3 names cannot be shown as they are; the first, \"x\", is left out: \
             a later name is shown as this one",
        ),
    );
}

#[test]
fn a_file_with_the_name_of_a_directory_is_shown_beside_it() {
    let warning = |count, of, first| {
        format!(
            "{count} of {of} names cannot be shown as they are; the first, \"{first}\", is shown \
             with \".member\" after it: a directory has this name"
        )
    };
    for names in [["a", "a/x"], ["a/x", "a"]] {
        let file = names.iter().position(|&name| name == "a").map(|at| at as u32);
        let inner = file.map(|file| 1 - file);
        let expected = [("a", None), ("a.member", file), ("a/x", inner)];
        assert_shown(&names, &expected, Some(&warning(1, 2, "a")));
    }
    assert_shown(
        &["a", "a/x", "a.member", "a.member.2/y", "a"],
        &[
            ("a", None),
            ("a.member", Some(2)),
            ("a.member.2", None),
            ("a.member.2/y", Some(3)),
            ("a.member.3", Some(4)),
            ("a/x", Some(1)),
        ],
        Some(&warning(1, 5, "a")),
    );
    // The new name of one renamed file is taken when the next file is renamed.
    assert_shown(
        &["a", "a/", "a.member", "a.member/"],
        &[("a", None), ("a.member", None), ("a.member.2", Some(0)), ("a.member.member", Some(2))],
        Some(&warning(2, 4, "a")),
    );
}

#[test]
fn a_file_renamed_for_a_directory_still_fits() {
    let name = "n".repeat(255);
    let (paths, _) = shown(&[name.as_bytes(), format!("{name}/").as_bytes()]);
    assert_eq!(paths.len(), 2);
    assert_eq!(paths[0].0, name.as_bytes());
    assert_eq!(paths[1].0.len(), 255);
    assert!(paths[1].0.ends_with(b".member"));
}

#[test]
fn two_renamed_files_do_not_get_the_same_name() {
    // With ".member" appended, the two names differ only in the part that is cut off, and have the
    // same CRC-32.
    let [one, other] =
        ["a02552f76dbdf5fd", "670009b22c087272"].map(|end| format!("{}{end}", "n".repeat(239)));
    let dirs = [format!("{one}/"), format!("{other}/")];
    let names = [&one, &other, &dirs[0], &dirs[1]].map(|name| name.as_bytes());
    let (paths, _) = shown(&names);
    let mut files: Vec<_> = paths.into_iter().filter_map(|(path, id)| id.zip(Some(path))).collect();
    files.sort();
    assert_eq!(files.len(), 2);
    assert!(files[0].1.ends_with(b"~52e91eef.member"));
    assert!(files[1].1.ends_with(b".2"));
}

#[test]
fn names_that_cannot_be_shown_are_told_in_one_sentence() {
    assert_shown(
        &["ok", "../etc/\n", "", "x\0", "/abs"],
        &[("abs", Some(4)), ("ok", Some(0))],
        Some(
            "4 of 5 names cannot be shown as they are; the first, \"../etc/\\n\", is left out: \
             it has a component \"..\"",
        ),
    );
}

#[test]
fn a_name_that_is_left_out_makes_no_directories() {
    assert_shown(
        &["a/b/../c"],
        &[],
        Some(
            "1 of 1 names cannot be shown as they are; the first, \"a/b/../c\", is left out: \
             it has a component \"..\"",
        ),
    );
}

#[test]
fn backslashes_and_any_other_bytes_are_ordinary() {
    let names: [&[u8]; 3] = [b"a\\b\\..\\x", b"\x01\x7f\xff", b" "];
    let (paths, warning) = shown(&names);
    assert_eq!(paths.len(), 3);
    assert_eq!(warning, None);
}

#[test]
fn a_name_of_thirty_thousand_slashes_is_neither_recursion_nor_quadratic() {
    let deep = "d/".repeat(30_000);
    let names: Vec<String> = (10..30).map(|i| format!("{deep}{i}")).collect();
    let names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    let begin = std::time::Instant::now();
    let tree = build(names.len(), |member| names[member]);
    assert_eq!(tree.dirs.len(), 30_001);
    let mut dir = DirId::ROOT;
    for _ in 0..30_000 {
        match tree.dirs[dir.0 as usize].get(b"d") {
            Some(Entry::Dir(child)) => dir = child,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tree.dirs[dir.0 as usize].entries().len(), 20);
    assert!(tree.dirs[dir.0 as usize].get(b"29").is_some());
    // 600,000 components; quadratic work would take hours.
    assert!(begin.elapsed().as_secs() < 30);

    let slashes = "/".repeat(30_000);
    let tree = build(1, |_| slashes.as_bytes());
    assert_eq!(tree.dirs.len(), 1);
    assert!(tree.warning.unwrap().contains("it names nothing"));
}

#[test]
fn directories_beyond_the_bound_are_left_out() {
    // Each name requires 20,000 directories that no other name has.
    let deep = "/d".repeat(20_000);
    let names: Vec<String> = (0..15).map(|i| format!("{i}{deep}/x")).collect();
    let tree = build(names.len(), |member| names[member].as_bytes());
    assert!(tree.dirs.len() <= MAX_DIRS);
    let warning = tree.warning.unwrap();
    assert!(warning.starts_with("2 of 15 names"), "{warning}");
    assert!(warning.ends_with("left out: there are too many directories"), "{warning}");
}

#[test]
fn reading_on_from_any_cookie_gives_the_rest() {
    let names: Vec<String> = (0..100).map(|i| format!("{i:02}")).collect();
    let tree = build(names.len(), |member| names[member].as_bytes());
    let all: Vec<_> = tree.dirs[0].entries().collect();
    for first in [0, 1, 50, 99, 100, 101, usize::MAX] {
        let rest: Vec<_> = tree.dirs[0].entries_from(first).collect();
        assert_eq!(rest, all[first.min(100)..]);
    }
}

/// `name` with its last four bytes replaced so that its CRC-32 is 0; `None` if those bytes cannot
/// occur in a name.
fn of_crc_0(name: &[u8]) -> Option<Vec<u8>> {
    let table: Vec<u32> = (0..256)
        .map(|byte| (0..8).fold(byte, |value: u32, _| (value >> 1) ^ (0xEDB8_8320 * (value & 1))))
        .collect();
    let start = &name[..name.len() - 4];
    let mut register = u32::MAX;
    for _ in 0..4 {
        let index = table.iter().position(|value| value >> 24 == register >> 24).unwrap();
        register = (register ^ table[index]) << 8 | index as u32;
    }
    register ^= !crc32fast::hash(start);
    let name = [start, &register.to_le_bytes()].concat();
    assert_eq!(crc32fast::hash(&name), 0);
    let end = &name[start.len()..];
    (!end.contains(&b'/') && !end.contains(&0) && !end.contains(&b'.')).then_some(name)
}

/// Names of the same length, start and CRC-32, each used for a file and for a directory. With
/// `.member` appended they are too long, and all are shortened to the same name.
#[test]
fn names_that_are_shortened_to_one_are_counted_on() {
    let count = 20_000;
    let unique = |number: u32| of_crc_0(format!("{}{number:08x}....", "x".repeat(239)).as_bytes());
    let names: Vec<_> = (0..).filter_map(unique).take(count).collect();
    let both = names.iter().flat_map(|name| [name.clone(), [name, &b"/"[..]].concat()]);
    let all: Vec<_> = both.collect();
    let tree = build(all.len(), |index| &all[index]);
    let root = &tree.dirs[0];
    assert_eq!(root.entries().len(), 2 * count);
    let files = root.entries().filter(|(_, entry)| matches!(entry, Entry::Member(_)));
    let numbers: std::collections::BTreeSet<_> = files
        .map(|(name, _)| {
            let end = name.rsplit(|byte| *byte == b'.').next().unwrap();
            std::str::from_utf8(end).unwrap().parse::<usize>().unwrap_or(1)
        })
        .collect();
    // A number with more digits leaves a shorter start of the name. So for each number of digits,
    // other names collide, and some numbers are used for several names.
    assert!(numbers.len() > count / 2, "{}", numbers.len());
    assert!(numbers.last() <= Some(&count), "none is left out");
}

/// The new names that renamed files would get first are the names of other files.
#[test]
fn names_that_are_taken_by_files_are_passed_once() {
    let count = 5_000;
    let unique = |number: u32| of_crc_0(format!("{}{number:08x}....", "x".repeat(239)).as_bytes());
    let names: Vec<_> = (0..).filter_map(unique).take(count).collect();
    let both = names.iter().flat_map(|name| [name.clone(), [name, &b"/"[..]].concat()]);
    let taken = (1..=count).map(|number| {
        let end = if number == 1 { String::new() } else { format!(".{number}") };
        let mut path = Vec::new();
        name::append_component(&[&names[0], &b".member"[..], end.as_bytes()].concat(), &mut path);
        path
    });
    let all: Vec<_> = both.chain(taken).collect();
    let tree = build(all.len(), |index| &all[index]);
    assert_eq!(tree.dirs[0].entries().len(), 3 * count);
}
