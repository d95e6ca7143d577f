use std::{fs, io::Write};

use super::*;

fn directory(limit: u64) -> (tempfile::TempDir, Directory) {
    let place = tempfile::tempdir().unwrap();
    let directory = Directory::open(&place.path().join("a/b"), ".idx", limit).unwrap();
    (place, directory)
}

fn save(directory: &Directory, name: &str, bytes: &[u8]) {
    let draft = directory.draft().unwrap();
    draft.file().write_all(bytes).unwrap();
    draft.finish(name).unwrap();
}

fn set_used(directory: &Directory, name: &str, seconds: u64) {
    let file = File::options().write(true).open(directory.path().join(name)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    file.set_times(fs::FileTimes::new().set_accessed(time)).unwrap();
}

fn names(directory: &Directory) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_there_when_it_is_finished_and_not_before() {
    let (_place, directory) = directory(u64::MAX);
    let draft = directory.draft().unwrap();
    draft.file().write_all(b"one").unwrap();
    assert!(directory.file("a.idx").unwrap().is_none());
    draft.finish("a.idx").unwrap();
    let file = directory.file("a.idx").unwrap().unwrap();
    save(&directory, "a.idx", b"two");
    let bytes = |file: File| io::read_to_string(file).unwrap();
    assert_eq!(bytes(file), "one", "who has it open keeps what it had");
    assert_eq!(bytes(directory.file("a.idx").unwrap().unwrap()), "two");
    assert_eq!(names(&directory), ["a.idx"]);
}

#[test]
fn a_draft_that_is_given_up_leaves_nothing() {
    let (_place, directory) = directory(u64::MAX);
    drop(directory.draft().unwrap());
    assert!(names(&directory).is_empty());
}

#[test]
fn the_least_recently_used_files_go_first() {
    let (_place, directory) = directory(3 * 4096);
    for (number, name) in ["a.idx", "b.idx", "c.idx", "d.idx"].iter().enumerate() {
        save(&directory, name, &[1; 4096]);
        set_used(&directory, name, 1_000_000 + number as u64);
    }
    assert!(directory.file("a.idx").unwrap().is_some(), "used again");
    fs::write(directory.path().join("notes.txt"), "not ours").unwrap();
    assert_eq!(directory.shrink().unwrap(), 3 * 4096);
    assert_eq!(names(&directory), ["a.idx", "c.idx", "d.idx", "notes.txt"]);
}

#[test]
fn what_a_dead_server_left_is_cleared_away_and_what_is_being_written_stays() {
    let (_place, directory) = directory(u64::MAX);
    let draft = directory.draft().unwrap();
    fs::write(directory.path().join(format!("{DRAFT}7-7-7")), "left").unwrap();
    directory.shrink().unwrap();
    assert_eq!(names(&directory).len(), 1);
    draft.finish("a.idx").unwrap();
    assert_eq!(names(&directory), ["a.idx"]);
}

#[test]
fn room_is_made_for_what_fits_and_drafts_count_by_their_length() {
    let (_place, directory) = directory(4 * 4096);
    for (number, name) in ["a.idx", "b.idx"].iter().enumerate() {
        save(&directory, name, &[1; 4096]);
        set_used(&directory, name, 1_000_000 + number as u64);
    }
    assert!(!directory.make_room(5 * 4096).unwrap(), "it is larger than the limit");
    assert_eq!(names(&directory).len(), 2, "so nothing was removed for it");
    assert!(directory.make_room(2 * 4096).unwrap());
    assert_eq!(names(&directory).len(), 2);
    let draft = directory.draft().unwrap();
    draft.file().set_len(2 * 4096).unwrap();
    assert!(!directory.make_room(3 * 4096).unwrap(), "the draft is in the way");
    assert_eq!(names(&directory).len(), 3, "so nothing was removed for it");
    assert!(directory.make_room(4096).unwrap());
    drop(draft);
    assert_eq!(names(&directory), ["b.idx"]);
}

#[test]
fn a_file_that_others_may_write_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let (_place, directory) = directory(u64::MAX);
    save(&directory, "a.idx", b"bytes");
    let path = directory.path().join("a.idx");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
    assert!(matches!(directory.file("a.idx"), Err(Error::Untrusted { mode: 0o620, .. })));
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("b.idx", &path).unwrap();
    save(&directory, "b.idx", b"bytes");
    assert!(matches!(directory.file("a.idx"), Err(Error::Io(_))));
}

#[test]
fn drafts_count_when_it_shrinks_by_their_length() {
    let (_place, directory) = directory(3 * 4096);
    for (number, name) in ["a.idx", "b.idx"].iter().enumerate() {
        save(&directory, name, &[1; 4096]);
        set_used(&directory, name, 1_000_000 + number as u64);
    }
    let draft = directory.draft().unwrap();
    draft.file().set_len(2 * 4096).unwrap();
    assert_eq!(directory.shrink().unwrap(), 3 * 4096);
    assert!(directory.file("a.idx").unwrap().is_none(), "it went for the draft");
    assert!(directory.file("b.idx").unwrap().is_some());
    draft.file().set_len(4 * 4096).unwrap();
    assert_eq!(directory.shrink().unwrap(), 5 * 4096);
    assert!(directory.file("b.idx").unwrap().is_some(), "nothing would be gained");
}

#[test]
fn a_draft_that_went_before_it_was_locked_is_not_used() {
    let (_place, directory) = directory(u64::MAX);
    let (name, file) = directory.create_draft().unwrap();
    // Another server starts, and removes the draft.
    directory.shrink().unwrap();
    assert!(directory.lock_draft(name, file).unwrap().is_none());
    let (name, file) = directory.create_draft().unwrap();
    let draft = directory.lock_draft(name, file).unwrap().unwrap();
    directory.shrink().unwrap();
    draft.finish("a.idx").unwrap();
    assert_eq!(names(&directory), ["a.idx"]);
}
