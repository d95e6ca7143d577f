use std::{
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    archive::{Entry, testing},
    serve::{Limits, OpenArchive, Server, Verify},
};

const STRIDE: u64 = 2 << 20;
const WAIT: Duration = Duration::from_secs(60);

/// A member of eight strides that has been decoded once, with none at hand but the last.
fn member(threads: usize) -> (Server, OpenArchive, Arc<Content>) {
    let limits = Limits {
        memory_limit: 1 << 30,
        cache_size: 8 << 20,
        threads,
        few_threads: false,
        temporary: std::env::temp_dir(),
        scratch_size: None,
        indexes: None,
        copies: None,
        verify: Verify::Never,
    };
    let server = Server::new(limits).unwrap();
    let plain: Vec<u8> = (0..8 * STRIDE / 8).flat_map(u64::to_le_bytes).collect();
    let archive = testing::open(&testing::zip(&[("x", &plain, true)])).unwrap();
    let Some((_, Entry::Member(id))) = testing::paths(&archive).pop() else { unreachable!() };
    let open = OpenArchive::new(archive, &server);
    let content = open.content(id).unwrap();
    let (sender, receiver) = mpsc::channel();
    let last = content.size() - 8;
    content.read(None, Asker::unknown(), last, 8, move |bytes| {
        sender.send(bytes.unwrap().to_vec()).unwrap()
    });
    assert_eq!(receiver.recv_timeout(WAIT).unwrap(), (last / 8).to_le_bytes());
    (server, open, content)
}

/// Reads a row along a pattern; says its number when it is there.
fn read(content: &Arc<Content>, pattern: &Mutex<Pattern>, row: u64) -> Receiver<u64> {
    let (sender, receiver) = mpsc::channel();
    content.read_along(pattern, None, Asker::unknown(), row * STRIDE, 8, move |bytes| {
        let number = u64::from_le_bytes(bytes.unwrap().try_into().unwrap());
        sender.send(number * 8 / STRIDE).unwrap();
    });
    receiver
}

fn is_at_hand(content: &Content, row: u64) -> bool {
    let Encoding::Deflated(deflated) = &content.bytes else { unreachable!() };
    deflated.reader().cached_span_at(row * STRIDE).is_some()
}

#[test]
fn rows_that_even_strides_lead_to_are_decoded_before_they_are_asked_for() {
    let (_server, _open, content) = member(4);
    let pattern = Mutex::default();
    for row in 0..4 {
        assert!(!is_at_hand(&content, row), "{row}");
        assert_eq!(read(&content, &pattern, row).recv_timeout(WAIT), Ok(row));
    }
    let start = Instant::now();
    while !(is_at_hand(&content, 4) && is_at_hand(&content, 5)) {
        assert!(start.elapsed() < WAIT);
        std::thread::yield_now();
    }
    assert!(!is_at_hand(&content, 6));
}

#[test]
fn what_is_asked_for_does_not_wait_for_what_strides_lead_to() {
    let (server, _open, content) = member(1);
    let pattern = Mutex::default();
    for row in 0..3 {
        assert_eq!(read(&content, &pattern, row).recv_timeout(WAIT), Ok(row));
    }
    let (release, released) = mpsc::channel::<()>();
    let (end, ended) = mpsc::channel();
    server.spawn(move || released.recv().unwrap());
    server.spawn(|| ());
    let row = read(&content, &pattern, 3);
    server.spawn(move || end.send(()).unwrap());
    release.send(()).unwrap();
    assert_eq!(row.recv_timeout(WAIT), Ok(3));
    ended.recv_timeout(WAIT).unwrap();
    assert!(!is_at_hand(&content, 4) && !is_at_hand(&content, 5), "others waited");
}
