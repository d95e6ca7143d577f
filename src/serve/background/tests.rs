use std::{fs::File, io::Write, sync::mpsc};

use super::*;
use crate::{
    archive::{
        Entry, NPZ, SourceFile,
        testing::{self, RawMember, RawZip},
    },
    serve::{
        Asker, OpenContainer, Server, Verify,
        testing::{settings, wait_until},
    },
};

const WAIT: Duration = Duration::from_secs(60);

fn server() -> Server {
    Server::new(settings(1, Verify::Background)).unwrap()
}

fn content(server: &Server, path: &std::path::Path) -> (Arc<OpenContainer>, Arc<Content>) {
    let zip = RawZip::of([RawMember::stored("x", vec![1; 3 << 20])]);
    std::fs::write(path, zip.bytes()).unwrap();
    let source = SourceFile::new(File::open(path).unwrap()).unwrap();
    let archive = NPZ.open(Arc::new(source)).unwrap();
    let Some((_, Entry::Member(id))) = testing::paths(&archive).pop() else { unreachable!() };
    let open = OpenContainer::new(archive, server);
    let content = open.content(id).unwrap();
    (open, content)
}

#[test]
fn the_end_of_a_server_is_the_end_of_its_background() {
    let server = server();
    let background = server.shared.background.clone();
    assert!(!background.queue.lock().is_over);
    drop(server);
    assert!(background.queue.lock().is_over);
}

#[test]
fn what_cannot_be_compared_is_not_tried_without_end() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.npz");
    let server = server();
    let (open, content) = content(&server, &path);
    File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    drop(open);
    let background = &server.shared.background;
    background.finish(&content);
    let start = Instant::now();
    loop {
        let queue = background.queue.lock();
        // The content is in the queue, or the thread that compares it holds a second reference.
        if queue.contents.is_empty() && Arc::strong_count(&content) == 1 {
            break;
        }
        drop(queue);
        assert!(start.elapsed() < WAIT);
        std::thread::yield_now();
    }
    assert!(!content.is_settled());
}

#[test]
fn what_could_not_be_compared_is_compared_after_the_next_read() {
    let place = tempfile::tempdir().unwrap();
    let server = server();
    let (open, content) = content(&server, &place.path().join("a.npz"));
    let fails = &open.container().source().fails;
    fails.store(true, Ordering::Relaxed);
    let read = || {
        let (answer, answered) = mpsc::channel();
        content
            .read(None, Asker::unknown(), 0, 8, move |bytes| answer.send(bytes.is_ok()).unwrap());
        answered.recv_timeout(WAIT).unwrap()
    };
    assert!(!read());
    wait_until(|| !content.is_queued());
    assert!(!content.is_settled());
    fails.store(false, Ordering::Relaxed);
    assert!(read());
    wait_until(|| content.is_settled());
}

#[test]
fn a_member_whose_source_hangs_lets_others_have_their_turn() {
    let place = tempfile::tempdir().unwrap();
    let server = server();
    let (_open, content) = content(&server, &place.path().join("a.npz"));
    let (release, released) = mpsc::channel::<()>();
    server.spawn(move || {
        let _ = released.recv();
    });
    let background = Background::new(server.shared.decode.clone());
    assert!(!background.part(&content, Duration::from_millis(20)));
    drop(release);
    assert!(background.part(&content, WAIT));
}
