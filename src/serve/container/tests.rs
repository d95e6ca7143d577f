use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    archive::{
        Entry, NPY_GZ, NPZ, SourceFile,
        testing::{self, RawMember, RawZip},
    },
    saved::Indexes,
    serve::{
        Asker, MemberOpening, OpenFile, Readiness, Settings, Verify, resting::MOST,
        testing::settings,
    },
};

const WAIT: Duration = Duration::from_secs(60);

fn server(verify: Verify) -> Server {
    server_with(verify, None)
}

/// A server that saves indexes in `place`.
fn saving_in(place: &tempfile::TempDir, verify: Verify) -> Server {
    server_with(verify, Some(Arc::new(Indexes::open(place.path(), u64::MAX).unwrap())))
}

fn server_with(verify: Verify, indexes: Option<Arc<Indexes>>) -> Server {
    Server::new(Settings { indexes, ..settings(1, verify) }).unwrap()
}

/// An archive of one member.
fn open(server: &Server, member: RawMember) -> (Arc<OpenContainer>, MemberId) {
    let archive = RawZip::of([member]).open().unwrap();
    let Some((_, Entry::Member(id))) = testing::paths(&archive).pop() else { unreachable!() };
    (OpenContainer::new(archive, server), id)
}

fn read(content: &Arc<Content>) -> Result<Vec<u8>, Error> {
    read_at(content, 0)
}

fn read_at(content: &Arc<Content>, offset: u64) -> Result<Vec<u8>, Error> {
    let (sender, receiver) = mpsc::channel();
    content.read(None, Asker::unknown(), offset, 8, move |bytes| {
        sender.send(bytes.map(<[u8]>::to_vec)).unwrap();
    });
    receiver.recv_timeout(WAIT).unwrap()
}

#[test]
fn a_member_that_is_read_and_closed_is_dropped_and_one_that_is_open_is_not() {
    let server = server(Verify::Never);
    let data = [1; 5000];
    for member in [RawMember::stored("x", data), RawMember::deflated("x", data)] {
        let (archive, id) = open(&server, member);
        let content = archive.content(id).unwrap();
        read(&content).unwrap();
        archive.drop_content(id);
        assert!(Arc::ptr_eq(&content, &archive.content(id).unwrap()), "somebody has it");
        let closed = Arc::downgrade(&content);
        drop(content);
        archive.drop_content(id);
        assert!(closed.upgrade().is_none());
    }
}

#[test]
fn contents_that_no_open_file_uses_are_dropped_however_they_came_to_be() {
    let server = server(Verify::Never);
    let count = MOST as u32 + 10;
    let members = (0..count).map(|number| RawMember::stored(number.to_string(), b"x"));
    let archive = OpenContainer::new(RawZip::of(members).open().unwrap(), &server);
    let content = |number| archive.content(MemberId(number)).unwrap();
    let Ok(MemberOpening::Open(file, _)) = OpenFile::open(content(0), archive.clone(), 1) else {
        unreachable!()
    };
    // None of them is opened: these are requests for attributes.
    (1..count).for_each(|number| drop(content(number)));
    assert_eq!(archive.count_contents(), MOST + 1);
    let opened = Arc::downgrade(file.content());
    drop(file);
    assert_eq!(archive.count_contents(), MOST);
    assert!(opened.upgrade().is_some(), "a later open finds what this one has decoded");
    (1..count).for_each(|number| drop(content(number)));
    assert!(opened.upgrade().is_none());
    assert_eq!(archive.count_contents(), MOST);
}

#[test]
fn damage_is_known_of_a_member_that_nobody_has_open() {
    let server = server(Verify::Never);
    let bad = RawMember { crc32: 1, ..RawMember::deflated("x", [1; 5000]) };
    let (archive, id) = open(&server, bad);
    let content = archive.content(id).unwrap();
    assert!(read(&content).is_err());
    drop(content);
    archive.drop_content(id);
    assert!(archive.content(id).unwrap().damage().is_some());
}

#[test]
fn a_member_that_is_to_be_compared_stays_though_nobody_has_it_open() {
    let server = server(Verify::Background);
    // Blocks the one decoding thread, so that no member is compared.
    let (release, released) = mpsc::channel::<()>();
    server.spawn(move || {
        let _ = released.recv();
    });
    let large = RawMember::stored("x", vec![1; 6 << 20]);
    let [(first, first_id), (second, id)] = [(); 2].map(|()| open(&server, large.clone()));
    // The comparing thread is busy with the first member, and has not begun the second.
    let first = first.content(first_id).unwrap();
    read(&first).unwrap();
    let content = second.content(id).unwrap();
    read(&content).unwrap();
    let closed = Arc::downgrade(&content);
    drop(content);
    second.drop_content(id);
    assert!(closed.upgrade().is_some());
    drop(release);
}

#[test]
fn a_refusal_is_told_once() {
    let server = server(Verify::Small);
    let (archive, id) = open(&server, RawMember::encoded("x", 99, b"", b""));
    assert!(archive.content(id).is_err());
    assert_eq!(
        [(); 3].map(|()| archive.refusal("open", id, Error::Encrypted).repeats.is_some()),
        [true, false, false]
    );
}

/// `len` bytes that DEFLATE does not make smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len / 8).flat_map(|_| next()).collect()
}

fn open_file(server: &Server, path: &Path) -> (Arc<OpenContainer>, MemberId) {
    let source = SourceFile::new(File::open(path).unwrap()).unwrap();
    let archive = NPZ.open(Arc::new(source)).unwrap();
    let Some((_, Entry::Member(id))) = testing::paths(&archive).pop() else { unreachable!() };
    (OpenContainer::new(archive, server), id)
}

fn count(place: &tempfile::TempDir) -> usize {
    fs::read_dir(place.path()).unwrap().count()
}

#[test]
fn what_was_learnt_of_an_archive_is_saved_when_it_is_closed() {
    let data = noise(4 << 20);
    for (member, verify) in [
        (RawMember::deflated("x", &data), Verify::Never),
        (RawMember::stored("x", &data), Verify::Small),
    ] {
        let place = tempfile::tempdir().unwrap();
        let server = saving_in(&place, verify);
        let (archive, id) = open(&server, member);
        let content = archive.content(id).unwrap();
        if content.must_be_verified() {
            let (sender, verified) = mpsc::channel();
            content.verify(Box::new(move |result| sender.send(result.is_ok()).unwrap()));
            assert!(verified.recv().unwrap());
        } else {
            read(&content).unwrap();
        }
        assert_eq!(count(&place), 0);
        drop((content, archive));
        drop(server);
        assert_eq!(count(&place), 1);
    }
}

#[test]
fn each_member_that_is_decoded_to_its_end_is_saved_then() {
    let place = tempfile::tempdir().unwrap();
    let server = saving_in(&place, Verify::Never);
    let members = ["x", "y", "z"].map(|name| RawMember::deflated(name, noise(2 << 20)));
    let archive = OpenContainer::new(RawZip::of(members).open().unwrap(), &server);
    let mut saved = 0;
    for (_, entry) in testing::paths(archive.container()) {
        let Entry::Member(id) = entry else { unreachable!() };
        let content = archive.content(id).unwrap();
        read_at(&content, content.size() - 8).unwrap();
        let start = Instant::now();
        let before = std::mem::replace(&mut saved, 0);
        while saved <= before {
            assert!(start.elapsed() < WAIT);
            let files = fs::read_dir(place.path()).unwrap();
            saved =
                files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).max().unwrap_or(0);
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_was_learnt_of_a_gzipped_npy_is_saved_when_it_is_closed() {
    let data = noise(4 << 20);
    let header =
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({},), }}\n", data.len());
    let npy =
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &data];
    let npy = npy.concat();
    let (crc32, len) = (crc32fast::hash(&npy), npy.len() as u32);
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let gzip =
        [&head[..], &testing::deflate(&npy), &crc32.to_le_bytes(), &len.to_le_bytes()].concat();

    let place = tempfile::tempdir().unwrap();
    let server = saving_in(&place, Verify::Never);
    let container = NPY_GZ.open(testing::source_of(&gzip)).unwrap();
    let open = OpenContainer::new(container, &server);
    assert_eq!(read(&open.content(MemberId::ONLY).unwrap()).unwrap(), npy[..8]);
    assert_eq!(count(&place), 0);
    drop(open);
    drop(server);
    assert_eq!(count(&place), 1);
}

#[test]
fn who_has_come_less_far_does_not_replace_what_another_server_saved() {
    let (place, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = source.path().join("a.npz");
    fs::write(&path, RawZip::of([RawMember::deflated("x", noise(6 << 20))]).bytes()).unwrap();
    let servers = [(); 2].map(|()| saving_in(&place, Verify::Never));
    let [(less, id), (more, _)] = servers.each_ref().map(|server| open_file(server, &path));
    let content = less.content(id).unwrap();
    read(&content).unwrap();
    let all = more.content(id).unwrap();
    read_at(&all, all.size() - 8).unwrap();
    more.save_indexes();
    less.save_indexes();
    let server = saving_in(&place, Verify::Never);
    let (archive, id) = open_file(&server, &path);
    assert_eq!(archive.content(id).unwrap().readiness(), Readiness::Ready);
}

#[test]
fn an_index_that_was_wrong_is_not_used_again_while_its_file_is_there() {
    let (place, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = source.path().join("a.npz");
    let mut bytes = RawZip::of([RawMember::deflated("x", noise(6 << 20))]).bytes();
    fs::write(&path, &bytes).unwrap();
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    {
        let server = saving_in(&place, Verify::Never);
        let (archive, id) = open_file(&server, &path);
        let content = archive.content(id).unwrap();
        read_at(&content, content.size() - 8).unwrap();
        archive.save_indexes();
    }
    assert_eq!(count(&place), 1);
    // Change the middle of the file and keep its times: the saved index is still used.
    let middle = bytes.len() / 2;
    bytes[middle..middle + 100].fill(0);
    let mut file = File::options().write(true).open(&path).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_modified(times).unwrap();

    let server = saving_in(&place, Verify::Never);
    let (archive, id) = open_file(&server, &path);
    // Blocks the saver, which would remove the wrong index from the index file.
    let (release, released) = mpsc::channel::<()>();
    server.shared.saver.spawn(move || {
        let _ = released.recv();
    });
    let content = archive.content(id).unwrap();
    assert_eq!(content.readiness(), Readiness::Ready, "it is believed");
    let size = content.size();
    let failed = (0..size - 8).step_by(64 << 10).any(|at| read_at(&content, at).is_err());
    assert!(failed && matches!(content.damage(), Some(Error::Refuted)));
    let content = archive.content(id).unwrap();
    assert_eq!(content.readiness(), Readiness::Indexing { done: 0, size });
    drop(release);
}
