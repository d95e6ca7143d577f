use std::{
    os::unix::fs::FileExt,
    sync::mpsc::{self, Receiver},
};

use super::{
    super::{
        Server, Settings, Verify,
        content::Encoding,
        testing::{WAIT, settings, wait_until},
    },
    *,
};
use crate::archive::testing::{RawMember, RawZip};

const INODE: u64 = 9;
const FIRST_MEMBER: u64 = 5;

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| ((at * 31 + seed) % 251 + at / 4096) as u8).collect()
}

/// A server, and an open decoded archive of `members`.
fn serve(members: &[RawMember], settings: Settings) -> (Server, Arc<ArchiveFile>) {
    let server = Server::new(settings).unwrap();
    let mut container = RawZip::of(members.iter().cloned()).open().unwrap();
    container.lay_out_decoded(&mut |_| Ok(())).unwrap();
    let container = OpenContainer::new(container, &server);
    let file = ArchiveFile::open(container, INODE, FIRST_MEMBER).unwrap();
    (server, file)
}

fn begin(file: &Arc<ArchiveFile>, offset: u64, size: u32) -> Receiver<Result<Vec<u8>, Failure>> {
    let (sender, receiver) = mpsc::channel();
    file.read(Asker::unknown(), offset, size, move |bytes| {
        sender.send(bytes.map(<[u8]>::to_vec)).unwrap();
    });
    receiver
}

fn read(file: &Arc<ArchiveFile>, offset: u64, size: u32) -> Result<Vec<u8>, Failure> {
    begin(file, offset, size).recv_timeout(WAIT).expect("a read is answered")
}

/// The decoded archive as a file, if all members are right.
fn whole(file: &Arc<ArchiveFile>) -> Vec<u8> {
    read(file, 0, 1 << 30).unwrap()
}

/// Where the bytes of a member start.
fn place(file: &ArchiveFile, member: u32) -> u64 {
    let mut at = 0;
    loop {
        match file.archive().part_at(at) {
            Part::Decoded(MemberId(id), _) if id == member => return at,
            part => at += part.size(),
        }
    }
}

fn members() -> Vec<RawMember> {
    let mut members = vec![
        RawMember::deflated("a.npy", pattern(70_000, 1)),
        RawMember::stored("b.npy", pattern(300_001, 2)),
        RawMember::deflated("c.npy", pattern(200_000, 3)),
    ];
    let tiny = (0..100).map(|n| RawMember::deflated(format!("{n}"), pattern(n + 64, n)));
    members.extend(tiny);
    members
}

#[test]
fn a_read_across_members_has_the_bytes_of_all() {
    for verify in [Verify::Small, Verify::Never] {
        let (_server, file) = serve(&members(), settings(2, verify));
        let whole = whole(&file);
        assert_eq!(whole.len() as u64, file.archive().size());
        for (number, member) in (0..).zip(members()) {
            let plain = read_member(&file, &member);
            let start = place(&file, number) as usize;
            assert!(whole[start..start + plain.len()] == plain, "{number}");
        }
        for offset in (0..whole.len()).step_by(33_333) {
            let wanted = &whole[offset..whole.len().min(offset + 50_000)];
            assert!(read(&file, offset as u64, 50_000).unwrap() == wanted, "{offset}");
        }
        assert!(read(&file, whole.len() as u64, 10).unwrap().is_empty());
        assert!(read(&file, u64::MAX, 10).unwrap().is_empty());
    }
}

/// The bytes of a member, read as its own file.
fn read_member(file: &ArchiveFile, member: &RawMember) -> Vec<u8> {
    let container = file.container.container();
    let name = std::str::from_utf8(&member.name).unwrap();
    crate::archive::testing::read(container, name).unwrap()
}

#[test]
fn headers_are_read_without_any_member() {
    let (server, file) = serve(&members(), settings(2, Verify::Small));
    // While both threads wait, nothing can be decoded.
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    for _ in 0..2 {
        let blocked = blocked.clone();
        server.spawn(move || assert!(blocked.lock().recv().is_err(), "it ends by being dropped"));
    }
    let size = file.archive().size();
    for (offset, len) in [(0, 30), (size - 22, 22), (size - 1000, 1000)] {
        let bytes = begin(&file, offset, len).try_recv().expect("answered at once").unwrap();
        assert_eq!(bytes.len(), len as usize);
    }
    drop(release);
}

#[test]
fn a_damaged_member_fails_its_reads_alone_and_is_named_once() {
    let mut members = members();
    members[0].crc32 ^= 1;
    let (_server, file) = serve(&members, settings(2, Verify::Small));
    members[0].crc32 ^= 1;
    let (_other_server, good) = serve(&members, settings(2, Verify::Small));
    let whole = whole(&good);
    let bad = place(&good, 0);
    let failure = read(&file, bad, 10).unwrap_err();
    assert_eq!(failure.member, Some(0));
    assert!(matches!(failure.error, Error::Damaged(_)));
    // A read across the end of the bad member.
    assert!(read(&file, bad + 69_000, 100_000).is_err());
    assert!(read(&file, bad + 69_000, 100_000).unwrap_err().repeats.is_none());
    let after = bad + 70_000;
    assert!(read(&file, after, 300_000).unwrap() == whole[after as usize..][..300_000]);
    assert_eq!(read(&file, 0, bad as u32).unwrap().len() as u64, bad);
}

#[test]
fn who_condemns_a_member_is_told_of_both_its_inodes() {
    let mut members = vec![
        RawMember::stored("a", pattern(100, 0)),
        RawMember::deflated("b", pattern(100_000, 7)),
    ];
    members[1].crc32 ^= 1;
    let (server, file) = serve(&members, settings(2, Verify::Small));
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    server.on_condemned(move |inode, error| listener.lock().push((inode, error.is_some())));
    assert!(read(&file, 0, 100_000).is_err());
    assert_eq!(*told.lock(), [(FIRST_MEMBER + 1, true), (INODE, false)]);
}

#[test]
fn a_handle_keeps_few_members_open() {
    let (_server, file) = serve(&members(), settings(2, Verify::Small));
    let whole = whole(&file);
    for offset in (0..whole.len()).step_by(1000) {
        read(&file, offset as u64, 1000).unwrap();
    }
    assert_eq!(file.members.lock().len(), MOST_OPEN.get());
}

#[test]
fn the_next_member_is_prepared_for_a_sequential_reader() {
    let members = [
        RawMember::deflated("a.npy", pattern(3_000_000, 1)),
        RawMember::deflated("b.npy", pattern(1_000_000, 2)),
    ];
    let next = |file: &ArchiveFile| file.container.content(MemberId(1)).unwrap().verified();
    let (_server, file) = serve(&members, settings(2, Verify::Small));
    for offset in (0..2_500_000).step_by(100_000) {
        assert!(next(&file) == 0 || offset > 1_500_000, "it is near only then");
        read(&file, offset, 100_000).unwrap();
    }
    wait_until(|| next(&file) == 1_000_000);
    // Nothing is prepared for random reads.
    let (_server, file) = serve(&members, settings(2, Verify::Small));
    for offset in [2_900_000, 1_000_000, 2_500_000] {
        read(&file, offset, 1000).unwrap();
    }
    assert_eq!(next(&file), 0);
}

#[test]
fn all_members_ahead_of_a_sequential_reader_are_prepared() {
    // A stored member, which is read without a thread, and members that lie within one read-ahead.
    let mut members = vec![RawMember::stored("a.npy", pattern(3_000_000, 1))];
    let next = (0..8).map(|n| RawMember::deflated(format!("{n}.npy"), pattern(200_000, n)));
    members.extend(next);
    let settings = Settings { cache_size: 32 << 20, ..settings(1, Verify::Never) };
    let (_server, file) = serve(&members, settings);
    let is_decoded = |file: &ArchiveFile, number| {
        file.container.content(MemberId(number)).unwrap().verified() == 200_000
    };
    for offset in (1_000_000..3_000_000).step_by(100_000) {
        read(&file, offset, 100_000).unwrap();
    }
    wait_until(|| (1..=8).all(|number| is_decoded(&file, number)));
}

#[test]
fn members_that_are_prepared_do_not_close_the_one_that_is_read() {
    let mut members = vec![RawMember::deflated("a.npy", pattern(3_000_000, 1))];
    let next = (0..20).map(|n| RawMember::deflated(format!("{n}.npy"), pattern(1 << 16, n)));
    members.extend(next);
    let settings = Settings { cache_size: 32 << 20, ..settings(1, Verify::Never) };
    let (_server, file) = serve(&members, settings);
    let is_open = |number| file.members.lock().contains(&MemberId(number));
    // Only the last read is near enough to the members that follow.
    for offset in (0..=2_000_000).step_by(500_000) {
        read(&file, offset, 500_000).unwrap();
    }
    wait_until(|| (1..=16).all(is_open));
    assert!(is_open(0));
}

#[test]
fn nothing_is_prepared_for_a_handle_that_was_closed() {
    let members = [
        RawMember::stored("a.npy", pattern(1_000_000, 1)),
        RawMember::deflated("b.npy", pattern(1_000_000, 2)),
    ];
    let (server, file) = serve(&members, settings(1, Verify::Never));
    let container = file.container.clone();
    // Blocks the one decoding thread. The member that is read is stored and needs no thread.
    let (release, released) = mpsc::channel::<()>();
    server.spawn(move || assert!(released.recv().is_err(), "it ends by being dropped"));
    for offset in (0..900_000).step_by(100_000) {
        read(&file, offset, 100_000).unwrap();
    }
    drop(file);
    let (sender, done) = mpsc::channel();
    server.spawn(move || sender.send(()).unwrap());
    drop(release);
    done.recv_timeout(WAIT).unwrap();
    assert_eq!(container.content(MemberId(1)).unwrap().verified(), 0);
}

#[test]
fn an_overwritten_archive_gives_no_headers_either() {
    let (_server, file) = serve(&members(), settings(2, Verify::Small));
    let source = file.container.container().source().file();
    let size = file.archive().size();
    assert!(read(&file, size - 22, 22).is_ok());
    source.write_all_at(b"other bytes", 0).unwrap();
    for (offset, len) in [(size - 22, 22), (0, 30)] {
        let failure = read(&file, offset, len).unwrap_err();
        assert!(failure.error.is_overwritten());
    }
}

#[test]
fn damage_of_an_archive_that_is_being_overwritten_is_told_as_that() {
    let bad = RawMember::encoded("a.npy", 8, &[0xff; 1000], &pattern(100_000, 1));
    let (_server, file) = serve(&[bad], settings(2, Verify::Small));
    let content = file.container.content(MemberId(0)).unwrap();
    let Encoding::Deflated(deflated) = &content.bytes else { unreachable!() };
    // The damage is found before the overwriting is noticed, and judged after that.
    assert!(deflated.reader().span_at(0).is_err());
    let source = file.container.container().source().file();
    source.write_all_at(b"other bytes", 0).unwrap();
    let failure = read(&file, place(&file, 0), 1000).unwrap_err();
    assert!(failure.error.is_overwritten(), "{failure:?}");
}

#[test]
fn parts_may_come_in_any_order() {
    let parts: [(Range<usize>, &[u8]); 3] = [(0..2, b"ab"), (2..5, b"cde"), (5..6, b"f")];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
        let (sender, receiver) = mpsc::channel();
        let reply = move |bytes: Result<&[u8], _>| sender.send(bytes.unwrap().to_vec()).unwrap();
        let gather = Gather::new(Memory::new(1 << 20), 6, 3, Box::new(reply));
        for number in order {
            let (place, bytes) = parts[number].clone();
            gather.take(place, Ok(bytes));
        }
        assert_eq!(receiver.try_recv().unwrap(), b"abcdef", "{order:?}");
    }
}

#[test]
fn a_read_whose_parts_are_dropped_drops_its_reply() {
    let (sender, receiver) = mpsc::channel();
    let gather = Gather::new(Memory::new(0), 10, 2, Box::new(move |_| sender.send(()).unwrap()));
    gather.take(0..5, Ok(b"12345"));
    drop(gather);
    assert!(receiver.recv().is_err());
}

#[test]
fn a_little_archive_is_read_as_a_whole_if_all_its_members_are_right() {
    let mut members =
        vec![RawMember::deflated("a.npy", pattern(9000, 1)), RawMember::stored("b", b"b")];
    for verify in [Verify::Small, Verify::Never] {
        let (_server, file) = serve(&members, settings(2, verify));
        assert!(file.is_little(32 << 10) && !file.is_little(8 << 10));
        assert!(file.whole(32 << 10).unwrap() == whole(&file));
    }
    members[1].crc32 ^= 1;
    let (_server, file) = serve(&members, settings(2, Verify::Small));
    assert!(file.whole(32 << 10).is_none());
    let many: Vec<_> = (0..17).map(|n| RawMember::stored(n.to_string(), b"")).collect();
    assert!(!serve(&many, settings(2, Verify::Small)).1.is_little(32 << 10));
}
