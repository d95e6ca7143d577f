use std::{
    fs, io,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    time::Duration,
};

use super::*;
use crate::{
    archive::{self, Entry, Identity, testing},
    saved::{Copies, CopyKey, StreamKey},
    serve::{OpenContainer, Server, Verify, copy::Copier, pool::Pool, testing::settings},
};

pub(in crate::serve) const STRIDE: u64 = 2 << 20;
const WAIT: Duration = Duration::from_secs(60);

/// A member of eight strides that has been decoded once. Only its last stride is still cached.
pub(in crate::serve) fn member(threads: usize) -> (Server, Arc<OpenContainer>, Arc<Content>) {
    let (server, open, content) = fresh_member(threads);
    let last = content.size() - 8;
    assert_eq!(read_range(&content, last, 8).recv_timeout(WAIT).unwrap(), (last / 8).to_le_bytes());
    (server, open, content)
}

/// A member of eight strides. Each eight bytes are their own offset divided by eight.
fn fresh_member(threads: usize) -> (Server, Arc<OpenContainer>, Arc<Content>) {
    let server = Server::new(settings(threads, Verify::Never)).unwrap();
    let plain: Vec<u8> = (0..8 * STRIDE / 8).flat_map(u64::to_le_bytes).collect();
    let archive = testing::open(&testing::zip(&[("x", &plain, true)])).unwrap();
    let Some((_, Entry::Member(id))) = testing::paths(&archive).pop() else { unreachable!() };
    let open = OpenContainer::new(archive, &server);
    let content = open.content(id).unwrap();
    (server, open, content)
}

fn read_range(content: &Arc<Content>, offset: u64, size: u32) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    content.read(None, Asker::unknown(), offset, size, move |bytes| {
        sender.send(bytes.unwrap().to_vec()).unwrap();
    });
    receiver
}

/// Blocks a thread of the pool until the returned sender is dropped.
fn block(server: &Server) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (began, has_begun) = mpsc::channel();
    server.spawn(move || {
        began.send(()).unwrap();
        let _ = released.recv();
    });
    has_begun.recv_timeout(WAIT).unwrap();
    release
}

pub(in crate::serve) fn is_cached(content: &Content, row: u64) -> bool {
    let Encoding::Deflated(deflated) = &content.bytes else { unreachable!() };
    let (answer, answered) = mpsc::channel();
    let start = row * STRIDE;
    // The receiver is gone if the answer comes later.
    let works = deflated.reader().ask(start..start + 1, move |byte| _ = answer.send(byte.is_ok()));
    let is_cached = answered.try_recv() == Ok(true);
    drop(works);
    is_cached
}

#[test]
fn however_many_wait_one_task_decodes_for_them_at_each_place() {
    for (decoded_before, rows) in [(false, 0..8), (true, 2..3)] {
        let (server, _open, content) = if decoded_before { member(1) } else { fresh_member(1) };
        let release = block(&server);
        let reads: Vec<_> =
            rows.cycle().take(20).map(|row| (row, read_range(&content, row * STRIDE, 8))).collect();
        assert_eq!(server.shared.decode.short_of(), 1);
        drop(release);
        for (row, read) in reads {
            assert_eq!(read.recv_timeout(WAIT).unwrap(), (row * STRIDE / 8).to_le_bytes());
        }
    }
}

#[test]
fn who_waits_for_the_frontier_is_served_though_others_have_their_turn() {
    let (server, _open, content) = fresh_member(1);
    let release = block(&server);
    let last = content.size() - 8;
    let read = read_range(&content, last, 8);
    server.spawn(|| ());
    drop(release);
    assert_eq!(read.recv_timeout(WAIT).unwrap(), (last / 8).to_le_bytes());
}

#[test]
fn a_read_that_takes_several_spans_gets_their_bytes_and_no_others() {
    let (_server, _open, content) = member(1);
    for row in [1, 4, 2] {
        let start = row * STRIDE + 8;
        let bytes = read_range(&content, start, 2 * STRIDE as u32).recv_timeout(WAIT).unwrap();
        let wanted = (start / 8..(start + 2 * STRIDE) / 8).flat_map(u64::to_le_bytes);
        assert!(bytes.into_iter().eq(wanted), "{row}");
    }
}

#[test]
fn a_span_that_was_given_up_is_decoded_again() {
    let (_server, _open, content) = member(1);
    let Encoding::Deflated(deflated) = &content.bytes else { unreachable!() };
    for _ in 0..2 {
        assert!(!is_cached(&content, 2));
        let bytes = read_range(&content, 2 * STRIDE, 8).recv_timeout(WAIT).unwrap();
        assert_eq!(bytes, (2 * STRIDE / 8).to_le_bytes());
        deflated.give_up(0..4 * STRIDE);
    }
}

#[test]
fn a_read_under_way_fails_when_its_member_turns_out_to_be_wrong() {
    let (server, _open, content) = member(1);
    let release = block(&server);
    let (sender, receiver) = mpsc::channel();
    content.read(None, Asker::unknown(), 2 * STRIDE, 8, move |bytes| {
        sender.send(bytes.is_err()).unwrap();
    });
    content.verdict.condemn(archive::Error::Corrupt("of the test".into()).into());
    drop(release);
    assert_eq!(receiver.recv_timeout(WAIT), Ok(true));
}

#[test]
fn bytes_that_a_copy_does_not_give_come_from_the_archive() {
    let (_server, _open, content) = member(1);
    let place = tempfile::tempdir().unwrap();
    let copy = fs::File::create(place.path().join("short")).unwrap();
    let (sender, receiver) = mpsc::channel();
    content.read(Some(&copy), Asker::unknown(), STRIDE, 8, move |bytes| {
        sender.send(bytes.map(<[u8]>::to_vec)).unwrap();
    });
    let bytes = receiver.recv_timeout(WAIT).unwrap().unwrap();
    assert_eq!(bytes, (STRIDE / 8).to_le_bytes());
}

/// Copies a member whose recorded CRC-32 is `crc32`, and returns the number of finished copies. If
/// `ends`, the server ends while the copy is made.
fn copied(crc32: Option<u32>, ends: bool) -> usize {
    let (_server, _open, content) = member(1);
    let Encoding::Deflated(deflated) = &content.bytes else { unreachable!() };
    let place = tempfile::tempdir().unwrap();
    let thread = Pool::new("test", 1).unwrap();
    let ending = Arc::new(AtomicBool::new(false));
    let copier = Copier {
        store: Arc::new(Copies::open(place.path(), u64::MAX).unwrap()),
        thread: thread.spawner(),
        ending: ending.clone(),
        reports: Arc::default(),
    };
    let key = CopyKey {
        identity: Identity { hash: [1; 32], fraction: 0 },
        stream: StreamKey { header_offset: 0, encoded_size: 50 },
        size: content.size(),
        mtime: 1_700_000_000,
        file: None,
    };
    let identify = move || -> io::Result<CopyKey> {
        // Called after the copy has begun.
        ending.store(ends, Ordering::Relaxed);
        Ok(key)
    };
    let copy = MemberCopy::new(copier, content.size(), crc32, Box::new(identify));
    copy.make(deflated);
    drop(thread);
    fs::read_dir(place.path()).unwrap().count()
}

#[test]
fn a_copy_is_finished_if_its_bytes_are_right_and_the_server_does_not_end() {
    let plain: Vec<u8> = (0..8 * STRIDE / 8).flat_map(u64::to_le_bytes).collect();
    let crc32 = crc32fast::hash(&plain);
    for (crc32, ends, made) in [
        (Some(crc32), false, 1),
        (None, false, 1),
        (Some(!crc32), false, 0),
        (Some(crc32), true, 0),
    ] {
        assert_eq!(copied(crc32, ends), made, "{crc32:?} {ends}");
    }
}
