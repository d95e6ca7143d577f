use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use seekable_deflate::ReadAt;

use super::*;

/// A file of 200,000 bytes, more than its fingerprint covers. Its last change was long ago.
struct Fixture {
    dir: tempfile::TempDir,
    source: SourceFile,
}

const LEN: usize = 200_000;

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        fs::write(&path, [1; LEN]).unwrap();
        set_old_mtime(&path);
        let source = SourceFile::new(File::open(&path).unwrap()).unwrap();
        Self { dir, source }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("x.npz")
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; LEN];
        self.source.read_exact_at(&mut bytes, 0).map(|()| bytes)
    }

    fn assert_fresh(&self) {
        assert_eq!(self.read().unwrap(), [1; LEN]);
        self.source.check().unwrap();
    }

    fn assert_stale(&self) {
        for _ in 0..2 {
            assert!(SourceFile::is_stale(&self.read().unwrap_err()));
            assert!(SourceFile::is_stale(&self.source.check().unwrap_err()));
        }
    }

    /// Repeats `change` until the ctime of the file changes. Before Linux 6.13, a change within the
    /// same tick of the kernel's clock leaves the ctime.
    fn until_ctime_moves(&self, mut change: impl FnMut(&Path)) {
        let before = Generation::of(self.source.file()).unwrap().ctime;
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while Generation::of(self.source.file()).unwrap().ctime == before {
            assert!(std::time::Instant::now() < deadline, "ctime does not move");
            change(&self.path());
        }
    }
}

fn set_old_mtime(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789)).unwrap();
}

fn overwrite_byte(path: &Path, offset: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    FileExt::write_all_at(&file, b"2", offset).unwrap();
}

#[test]
fn a_read_gives_the_bytes_at_its_offset() {
    let file = crate::archive::testing::file_of(b"0123456789");
    let source = SourceFile::new(file).unwrap();
    let mut buf = [0; 4];
    source.read_exact_at(&mut buf, 3).unwrap();
    assert_eq!(&buf, b"3456");
    source.read_exact_at(&mut [], 10).unwrap();
}

#[test]
fn opening_a_file_gives_its_end_and_the_fingerprint_of_both_ends() {
    let (head, tail, read) = (HEAD as usize, TAIL as usize, TAIL_READ as usize);
    let bytes: Vec<u8> = (0..LEN).map(|place| (place / 7) as u8).collect();
    for len in [0, 1, head, head + 1, tail - 1, tail, tail + 1, read - 1, read, read + 1, LEN] {
        let bytes = &bytes[..len];
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let generation = Generation::of(&file).unwrap();
        let (source, end) = SourceFile::with_tail(file, generation).unwrap();
        assert!(end == bytes[len.saturating_sub(read)..], "{len} bytes");
        let crc = |bytes| u64::from(crc32fast::hash(bytes));
        let (first, last) = (&bytes[..head.min(len)], &bytes[len.saturating_sub(tail)..]);
        assert_eq!(source.fingerprint(), crc(first) << 32 | crc(last), "{len} bytes");
    }
}

#[test]
fn a_file_that_changed_since_it_was_looked_at_is_not_opened() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"old").unwrap();
    let before = Generation::of(&file).unwrap();
    for change in [&|file: &File| file.set_len(2), &|file: &File| file.set_len(5)]
        as [&dyn Fn(&File) -> io::Result<()>; 2]
    {
        change(&file).unwrap();
        let error = SourceFile::with_tail(file.try_clone().unwrap(), before).unwrap_err();
        assert!(SourceFile::is_stale(&error));
    }
}

#[test]
fn a_read_past_the_end_says_so_and_is_not_stale() {
    let source = SourceFile::new(crate::archive::testing::file_of(b"0123456789")).unwrap();
    for offset in [7, 10, 1 << 40, i64::MAX as u64, u64::MAX - 4, u64::MAX] {
        let error = source.read_exact_at(&mut [0; 4], offset).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(!SourceFile::is_stale(&error));
        assert!(error.to_string().contains("a file of 10 bytes"), "{error}");
    }
}

#[test]
fn other_errors_are_not_stale() {
    for error in [
        io::Error::from_raw_os_error(116),
        io::Error::from(io::ErrorKind::StaleNetworkFileHandle),
        io::Error::other("the file was overwritten after it was opened"),
    ] {
        assert!(!SourceFile::is_stale(&error));
    }
}

#[test]
fn an_overwritten_file_of_the_same_size_is_stale() {
    let fixture = Fixture::new();
    fixture.assert_fresh();
    overwrite_byte(&fixture.path(), 100_000);
    fixture.assert_stale();
}

#[test]
fn a_file_rewritten_in_place_is_stale_as_np_savez_does_it() {
    let fixture = Fixture::new();
    let mut file = File::create(fixture.path()).unwrap();
    fixture.assert_stale();
    file.write_all(&[1; LEN]).unwrap();
    fixture.assert_stale();
}

#[test]
fn a_file_cut_short_or_appended_to_is_stale_even_with_its_old_mtime() {
    for len in [0, 10, LEN as u64 - 1, LEN as u64 + 1] {
        let fixture = Fixture::new();
        OpenOptions::new().write(true).open(fixture.path()).unwrap().set_len(len).unwrap();
        set_old_mtime(&fixture.path());
        fixture.assert_stale();
    }
}

#[test]
fn stale_is_for_good_even_if_the_old_bytes_and_times_come_back() {
    let fixture = Fixture::new();
    overwrite_byte(&fixture.path(), 0);
    fixture.assert_stale();
    fs::write(fixture.path(), [1; LEN]).unwrap();
    set_old_mtime(&fixture.path());
    fixture.assert_stale();
}

#[test]
fn what_changes_only_the_ctime_does_not_make_stale() {
    let fixture = Fixture::new();
    let generation = fixture.source.generation();
    let other = fixture.dir.path().join("other");

    let mut mode = 0o600;
    fixture.until_ctime_moves(|path| {
        mode ^= 0o044;
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    });
    fixture.assert_fresh();
    fixture.until_ctime_moves(|path| {
        fs::hard_link(path, &other).unwrap();
        fs::remove_file(&other).unwrap();
    });
    fixture.assert_fresh();
    fixture.until_ctime_moves(|path| {
        fs::rename(path, &other).unwrap();
        fs::rename(&other, path).unwrap();
    });
    fixture.assert_fresh();
    // A new file is renamed over the old one.
    fs::write(&other, [3; 10]).unwrap();
    fs::rename(&other, fixture.path()).unwrap();
    fixture.assert_fresh();
    assert_eq!(fixture.source.generation(), generation);
    let now = Generation::of(fixture.source.file()).unwrap().ctime;
    assert_ne!(now, generation.ctime);
    // The new ctime is accepted, so later reads do not compare the fingerprint again.
    assert_eq!(fixture.source.accepted_ctime.load(Ordering::Acquire), packed(now));
}

#[test]
fn an_unlinked_file_stays_readable() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.path()).unwrap();
    fixture.assert_fresh();
}

#[test]
fn a_change_with_the_old_mtime_put_back_is_found_at_the_start_and_the_end() {
    for offset in [0, HEAD - 1, LEN as u64 - TAIL, LEN as u64 - 1] {
        let fixture = Fixture::new();
        fixture.until_ctime_moves(|path| {
            overwrite_byte(path, offset);
            set_old_mtime(path);
        });
        fixture.assert_stale();
    }
}

#[test]
fn a_change_is_found_after_a_ctime_was_accepted() {
    let fixture = Fixture::new();
    fixture.until_ctime_moves(|path| {
        fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap();
    });
    fixture.assert_fresh();
    fixture.until_ctime_moves(|path| {
        overwrite_byte(path, 0);
        set_old_mtime(path);
    });
    fixture.assert_stale();
}

#[test]
fn short_and_empty_files_have_fingerprints_too() {
    for len in [0, 1, HEAD - 1, HEAD, HEAD + 1, TAIL - 1, TAIL, TAIL + 1] {
        let bytes = vec![5; len as usize];
        let source = SourceFile::new(crate::archive::testing::file_of(&bytes)).unwrap();
        let head = crc32fast::hash(&bytes[..bytes.len().min(HEAD as usize)]);
        let tail = crc32fast::hash(&bytes[bytes.len().saturating_sub(TAIL as usize)..]);
        assert_eq!(source.fingerprint(), u64::from(head) << 32 | u64::from(tail));
        source.check().unwrap();
    }
}

#[test]
fn many_threads_see_only_old_bytes_or_stale_while_the_file_is_rewritten() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let deadline = std::time::Instant::now() + Duration::from_secs(30);
                    loop {
                        assert!(std::time::Instant::now() < deadline, "never stale");
                        match fixture.read() {
                            Ok(bytes) => assert!(bytes.iter().all(|&byte| byte == 1)),
                            Err(error) => {
                                assert!(SourceFile::is_stale(&error), "{error}");
                                break;
                            }
                        }
                    }
                })
            })
            .collect();
        fs::set_permissions(fixture.path(), Permissions::from_mode(0o640)).unwrap();
        let mut file = File::create(fixture.path()).unwrap();
        for _ in 0..LEN / 1000 {
            file.write_all(&[2; 1000]).unwrap();
        }
        drop(file);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn times_before_1970_are_told_apart() {
    let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
    assert_ne!(packed(time(-1, 0)), packed(time(0, 0)));
    assert_ne!(packed(time(-1, 999_999_999)), packed(time(0, 0)));
    assert_ne!(packed(time(1, 0)), packed(time(0, 999_999_999)));
}

#[test]
fn files_of_one_size_and_the_same_times_are_not_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    for number in 0.. {
        let sources = ["a", "b"].map(|name| {
            let path = dir.path().join(format!("{name}{number}"));
            fs::write(&path, b"bytes").unwrap();
            set_old_mtime(&path);
            SourceFile::new(File::open(&path).unwrap()).unwrap()
        });
        let [one, other] = &sources;
        // Both files were changed in the same tick of the kernel's clock.
        if one.generation().ctime == other.generation().ctime {
            assert_eq!(one.generation().mtime, other.generation().mtime);
            assert_ne!(one.same_file().unwrap(), other.same_file().unwrap());
            return;
        }
        assert!(std::time::Instant::now() < deadline, "no two files have one ctime");
    }
}

/// Before Linux 6.13, a file that is written twice within a tick looks like this: the second write
/// has changed neither the size nor a time.
#[test]
fn bytes_that_changed_within_a_tick_of_the_first_write_are_stale() {
    let mut fixture = Fixture::new();
    overwrite_byte(&fixture.path(), 0);
    set_old_mtime(&fixture.path());
    let now = Generation::of(fixture.source.file()).unwrap();
    assert_eq!((now.size, now.mtime), (LEN as u64, fixture.source.generation().mtime));
    fixture.source.accepted_ctime = packed(now.ctime).into();
    assert!(fixture.source.check().is_ok(), "nothing tells them apart but the bytes");
    fixture.source.racy = true.into();
    fixture.assert_stale();
}

#[test]
fn a_file_that_was_written_a_moment_before_is_compared_until_the_tick_is_over() {
    let fixture = Fixture::new();
    fixture.source.racy.store(true, Ordering::Relaxed);
    fixture.source.check().unwrap();
    assert!(!fixture.source.racy.load(Ordering::Relaxed), "its mtime is long ago");
    fixture.assert_fresh();
}
