use std::{
    fs::File,
    io::Write,
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    archive::{
        self, Container, Entry, MemberId, NPZ, testing, testing::RawMember, testing::RawZip,
    },
    serve::{Asker, Content, OpenContainer, Readiness, Server, Settings, testing::settings},
};

const WAIT: Duration = Duration::from_secs(60);
const CACHE: u64 = 8 << 20;

fn server(verify: Verify) -> Server {
    Server::new(Settings { cache_size: CACHE, ..settings(2, verify) }).unwrap()
}

/// A stored and a deflated member of `size` bytes, and the same two with wrong CRC-32s.
fn archive(size: usize) -> (Container, [MemberId; 4]) {
    let data: Vec<u8> = (0..size as u64 / 8).flat_map(|n| (n * n).to_le_bytes()).collect();
    let good = [RawMember::stored("0", &data), RawMember::deflated("1", &data)];
    let bad = good.clone().map(|member| RawMember {
        name: [b"bad ", &member.name[..]].concat(),
        crc32: 1,
        ..member
    });
    let archive = RawZip::of(good.into_iter().chain(bad)).open().unwrap();
    let mut paths = testing::paths(&archive);
    paths.sort_by(|one, other| one.0.cmp(&other.0));
    let ids = [0, 1, 2, 3].map(|number| match paths[number].1 {
        Entry::Member(id) => id,
        Entry::Dir(_) => unreachable!(),
    });
    // In the order of the names: "0", "1", then the two bad members.
    (archive, ids)
}

/// Compares a content with its CRC-32 and returns the result.
fn verify(content: &Content) -> Result<(), Error> {
    let (sender, verified) = mpsc::channel();
    content.verify(Box::new(move |result| sender.send(result.map(|_| ())).unwrap()));
    verified.recv_timeout(WAIT).unwrap()
}

fn read(content: &Arc<Content>, offset: u64) -> Receiver<Result<Vec<u8>, Error>> {
    let (sender, receiver) = mpsc::channel();
    content.read(None, Asker::unknown(), offset, 8, move |bytes| {
        sender.send(bytes.map(<[u8]>::to_vec)).unwrap()
    });
    receiver
}

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < WAIT);
        std::thread::yield_now();
    }
}

#[test]
fn each_policy_says_what_comes_before_serving() {
    let (stored, deflated) = (true, false);
    let (large_cache, small_cache) = (1 << 30, 1 << 20);
    for (policy, is_stored, size, encoded, cache, before) in [
        (Verify::Small, stored, SMALL_STORED, SMALL_STORED, large_cache, true),
        (Verify::Small, stored, SMALL_STORED + 1, SMALL_STORED + 1, large_cache, false),
        // Stored members are not kept in the cache, so its size does not matter.
        (Verify::Small, stored, SMALL_STORED, SMALL_STORED, small_cache, true),
        (Verify::Small, deflated, SMALL_DEFLATED, 5, large_cache, true),
        (Verify::Small, deflated, SMALL_DEFLATED + 1, 5, large_cache, false),
        (Verify::Small, deflated, 5, SMALL_DEFLATED + 1, large_cache, false),
        (Verify::Small, deflated, 256 << 10, 5, small_cache, true),
        (Verify::Small, deflated, (256 << 10) + 1, 5, small_cache, false),
        (Verify::Always, deflated, 1 << 40, 1 << 40, small_cache, true),
        (Verify::Background, deflated, 5, 5, large_cache, false),
        (Verify::Never, stored, 5, 5, large_cache, false),
    ] {
        let is = policy.is_before_serving(is_stored, size, encoded, cache);
        assert_eq!(is, before, "{policy:?} {is_stored} {size} {encoded} {cache}");
    }
}

#[test]
fn members_are_remembered_one_by_one() {
    let members = Confirmed::new(130);
    for member in [0, 63, 64, 129] {
        members.set(member, true);
        assert!(members.contains(member));
    }
    members.set(64, false);
    let set: Vec<_> = (0..200).filter(|member| members.contains(*member)).collect();
    assert_eq!(set, [0, 63, 129]);
}

#[test]
fn small_members_are_compared_first_and_once_for_the_archive() {
    for size in [4096, 1 << 20] {
        let server = server(Verify::Small);
        let (archive, ids) = archive(size);
        let open = OpenContainer::new(archive, &server);
        for (number, id) in ids.into_iter().enumerate() {
            let content = open.content(id).unwrap();
            let by_another_thread = content.must_be_verified();
            assert_eq!(by_another_thread, size as u64 > AT_ONCE);
            if by_another_thread {
                assert_eq!(verify(&content).is_ok(), number < 2);
            }
            assert!(!content.must_be_verified());
            assert_eq!(content.damage().is_some(), number >= 2);
            assert_eq!(content.readiness() == Readiness::Ready, number < 2);
            assert_eq!(open.confirmed_members().contains(id.0), number < 2);
        }
    }
}

#[test]
fn one_that_differs_is_not_read_and_all_who_have_it_open_are_named() {
    let server = server(Verify::Small);
    let (sender, heard) = mpsc::channel();
    server.on_condemned(move |inode, error| {
        sender.send((inode, error.map(ToString::to_string))).unwrap();
    });
    let (archive, [.., stored, deflated]) = archive(1 << 20);
    let open = OpenContainer::new(archive, &server);
    for (first, id) in [(10, stored), (20, deflated)] {
        let content = open.content(id).unwrap();
        for inode in [first, first + 1, first] {
            content.watch(inode);
        }
        assert!(verify(&content).is_err());
        assert!(verify(&content).is_err(), "known by now");
        assert!(matches!(read(&content, 0).recv_timeout(WAIT), Ok(Err(Error::Damaged(_)))));
        assert!(content.head(8).is_err());
        let (inode, error) = heard.recv_timeout(WAIT).unwrap();
        assert_eq!(inode, first);
        assert!(error.unwrap().contains("00000001"), "both CRC-32s are named");
        assert_eq!(heard.recv_timeout(WAIT).unwrap(), (first + 1, None), "it was told");
        assert!(heard.try_recv().is_err());
        assert!(content.failure("read", content.damage().unwrap()).repeats.is_none());
    }
}

#[test]
fn what_was_read_of_a_large_member_is_compared_to_its_end_in_the_background() {
    let server = server(Verify::Small);
    let (archive, ids) = archive(6 << 20);
    let open = OpenContainer::new(archive, &server);
    let contents = ids.map(|id| open.content(id).unwrap());
    for content in &contents {
        assert!(!content.must_be_verified());
        assert_eq!(content.readiness(), Readiness::Unverified { done: 0, size: 6 << 20 });
        assert!(read(content, 8).recv_timeout(WAIT).unwrap().is_ok());
    }
    wait_until(|| contents.iter().all(|content| content.is_settled()));
    let right = contents.each_ref().map(|content| content.readiness() == Readiness::Ready);
    assert_eq!(right, [true, true, false, false]);
}

#[test]
fn spans_stay_decoded_if_a_reader_is_about_to_come_and_else_they_do_not() {
    let is_decoded = |content, offset| read(content, offset).try_recv().is_ok();
    let server = server(Verify::Background);
    let large = OpenContainer::new(archive(6 << 20).0, &server);
    let large = large.content(MemberId(1)).unwrap();
    assert!(read(&large, 8).recv_timeout(WAIT).unwrap().is_ok());
    wait_until(|| large.is_settled());
    assert!(!is_decoded(&large, 3 << 20));

    let small = OpenContainer::new(archive(1 << 20).0, &server);
    let small = small.content(MemberId(1)).unwrap();
    verify(&small).unwrap();
    assert!(is_decoded(&small, 0) && is_decoded(&small, 700_000));
}

#[test]
fn of_a_file_that_is_being_overwritten_no_damage_is_told() {
    let server = server(Verify::Small);
    let data = vec![7; 100_000];
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.npz");
    for member in [RawMember::stored("x", &data), RawMember::deflated("x", &data)] {
        let bytes = RawZip::of([RawMember { crc32: 1, ..member }]).bytes();
        std::fs::write(&path, &bytes).unwrap();
        let source = crate::archive::SourceFile::new(File::open(&path).unwrap()).unwrap();
        let open = OpenContainer::new(NPZ.open(source.into()).unwrap(), &server);
        let mut paths = testing::paths(open.container());
        let Some((_, Entry::Member(id))) = paths.pop() else { unreachable!() };
        let content = open.content(id).unwrap();
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"more").unwrap();
        assert!(verify(&content).unwrap_err().is_overwritten());
        assert!(content.damage().is_none());
    }
}

#[test]
fn a_member_of_a_file_that_was_overwritten_is_not_condemned() {
    let mut file = testing::file_of(b"bytes");
    let source = Arc::new(crate::archive::SourceFile::new(file.try_clone().unwrap()).unwrap());
    let subject = Subject { source, number: 0, is_stored: true, size: 5, encoded_size: 5 };
    let members = Confirmed::new(1);
    let verdict =
        Verdict::new(subject, Verify::Small, 0, members, Arc::default(), None, Arc::default());
    file.write_all(b"others").unwrap();
    verdict.condemn(archive::Error::Corrupt("of the test".into()).into());
    assert!(verdict.error().is_none());
}

#[test]
fn a_server_ends_while_members_are_being_compared() {
    let server = server(Verify::Background);
    let (archive, ids) = archive(6 << 20);
    let open = OpenContainer::new(archive, &server);
    for id in ids {
        let content = open.content(id).unwrap();
        assert!(read(&content, 8).recv_timeout(WAIT).unwrap().is_ok());
    }
    drop(server);
}
