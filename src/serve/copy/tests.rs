use std::{fs, thread};

use super::*;
use crate::{
    archive::{Identity, testing::RawMember},
    saved::StreamKey,
    serve::{Server, Settings, Verify, content::Encoding, pool::Pool, testing::*},
};

/// The copy of a member of `size` bytes. It is kept in `place` and made by `pool`.
fn copy(place: &tempfile::TempDir, pool: &Pool, size: u64) -> Arc<MemberCopy> {
    let copier = Copier {
        store: Arc::new(Copies::open(place.path(), u64::MAX).unwrap()),
        thread: pool.spawner(),
        ending: Arc::default(),
        reports: Arc::default(),
    };
    let key = CopyKey {
        identity: Identity { hash: [1; 32], fraction: 0 },
        stream: StreamKey { header_offset: 0, encoded_size: 50 },
        size,
        mtime: 1_700_000_000,
        file: None,
    };
    MemberCopy::new(copier, size, None, Box::new(move || Ok(key)))
}

#[test]
fn a_copy_is_asked_for_once_and_when_it_is_gone_only_after_as_many_reads() {
    let place = tempfile::tempdir().unwrap();
    let pool = Pool::new("test", 1).unwrap();
    let copy = copy(&place, &pool, 100);
    let of_asked = || [60, 60, 60, 60].map(|bytes| copy.note_read(bytes));
    assert_eq!(of_asked(), [false, false, true, false]);

    let early = CopyHandle::default();
    assert!(copy.of(&early).is_none());
    let is_first = || copy.copier.reports.is_first(ALL_MEMBERS, DIRECTORY);
    assert_eq!([is_first(), is_first()], [true, false]);
    let made = copy.make_whole(|file| Ok(file.write_all_at(&[7; 100], 0)?));
    assert!(matches!(made, Some(Ok(_))));
    assert!(is_first(), "should the directory be out of order again");
    assert!(copy.of(&early).is_some(), "a handle that was opened before reads it, too");
    assert_eq!(of_asked(), [false; 4], "there is one");

    for file in fs::read_dir(place.path()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(copy.open(&CopyHandle::default()).is_none());
    assert!(copy.of(&early).is_some(), "who has it keeps it");
    assert_eq!(of_asked(), [false, false, true, false]);
}

#[test]
fn one_that_is_removed_as_soon_as_it_is_made_may_be_made_again() {
    const SIZE: u64 = 10_000;
    let server = server(1, 8 << 20);
    let (_open, contents) = serve(&[RawMember::deflated("a", vec![7; SIZE as usize])], &server);
    let Encoding::Deflated(deflated) = &contents[0].bytes else { unreachable!() };
    let place = tempfile::tempdir().unwrap();
    let pool = Pool::new("test", 1).unwrap();
    let copy = copy(&place, &pool, SIZE);
    let make = || {
        *copy.state.lock() = CopyState::Unfinished;
        copy.make(deflated);
        wait_until(|| !matches!(*copy.state.lock(), CopyState::Unfinished));
    };
    make();
    let path = fs::read_dir(place.path()).unwrap().next().unwrap().unwrap().path();
    let is_over = AtomicBool::new(false);
    let given_up = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let _ = fs::remove_file(&path); // often there is no such file yet
            }
        });
        let given_up = (0..20).filter(|_| {
            make();
            matches!(*copy.state.lock(), CopyState::GivenUp)
        });
        let given_up = given_up.count();
        is_over.store(true, Ordering::Relaxed);
        given_up
    });
    assert_eq!(given_up, 0);
}

#[test]
fn each_copy_that_cannot_be_used_is_reported_once_and_the_disk_once_for_all() {
    let place = tempfile::tempdir().unwrap();
    let pool = Pool::new("test", 1).unwrap();
    let one = copy(&place, &pool, 100);
    let copier = one.copier.clone();
    let other = MemberCopy::new(copier, 100, None, Box::new(|| unreachable!("not looked for")));
    for copy in [&one, &other] {
        let is_first = || copy.is_first(&saved::Error::Unfit("of the test"));
        assert_eq!([is_first(), is_first()], [true, false]);
    }
    let is_first = |copy: &MemberCopy| copy.is_first(&io::Error::other("of the test").into());
    assert_eq!([is_first(&one), is_first(&other)], [true, false]);
}

#[test]
fn small_members_have_no_copies() {
    let place = tempfile::tempdir().unwrap();
    let copies = Some(Arc::new(Copies::open(place.path(), u64::MAX).unwrap()));
    let server = Server::new(Settings { copies, ..settings(1, Verify::Never) }).unwrap();
    for (size, may) in [(LEAST_SIZE - 1, false), (LEAST_SIZE, true)] {
        let copy = server.shared.copy(size, None, || unreachable!("it is not looked for"));
        assert_eq!(copy.is_some(), may);
    }
}
