use std::{
    sync::mpsc::{self, Receiver},
    time::Instant,
};

use super::*;
use crate::serve::{
    content::tests::{STRIDE, is_cached, member},
    testing::WAIT,
};

fn open_file(open: Arc<OpenContainer>, content: &Arc<Content>) -> OpenFile {
    match OpenFile::open(content.clone(), open, 1) {
        Ok(MemberOpening::Open(file, _)) => file,
        _ => panic!("the member can be opened"),
    }
}

/// Starts a read of the first 8 bytes of `row`. The receiver gets the number of the row.
fn read(file: &OpenFile, row: u64) -> Receiver<u64> {
    let (sender, receiver) = mpsc::channel();
    file.read(Asker::unknown(), row * STRIDE, 8, move |bytes| {
        let number = u64::from_le_bytes(bytes.unwrap().try_into().unwrap());
        sender.send(number * 8 / STRIDE).unwrap();
    });
    receiver
}

#[test]
fn rows_that_even_strides_lead_to_are_decoded_before_they_are_asked_for() {
    let (_server, open, content) = member(4);
    let file = open_file(open, &content);
    for row in 0..4 {
        assert!(!is_cached(&content, row), "{row}");
        assert_eq!(read(&file, row).recv_timeout(WAIT), Ok(row));
    }
    let start = Instant::now();
    while !(is_cached(&content, 4) && is_cached(&content, 5)) {
        assert!(start.elapsed() < WAIT);
        std::thread::yield_now();
    }
    assert!(!is_cached(&content, 6));
}

#[test]
fn what_is_asked_for_does_not_wait_for_what_strides_lead_to() {
    let (server, open, content) = member(1);
    let file = open_file(open, &content);
    for row in 0..3 {
        assert_eq!(read(&file, row).recv_timeout(WAIT), Ok(row));
    }
    let (release, released) = mpsc::channel::<()>();
    let (end, ended) = mpsc::channel();
    server.spawn(move || released.recv().unwrap());
    server.spawn(|| ());
    let row = read(&file, 3);
    server.spawn(move || end.send(()).unwrap());
    release.send(()).unwrap();
    assert_eq!(row.recv_timeout(WAIT), Ok(3));
    ended.recv_timeout(WAIT).unwrap();
    assert!(!is_cached(&content, 4) && !is_cached(&content, 5), "others waited");
}
