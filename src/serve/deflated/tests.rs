use std::sync::{atomic::Ordering, mpsc};

use super::*;
use crate::{
    archive::testing::RawMember,
    serve::{Content, Server, content::Encoding, testing::*},
};

fn numbers(len: u64) -> Vec<u8> {
    (0..len / 8).flat_map(u64::to_le_bytes).collect()
}

fn deflated(content: &Content) -> &Arc<Deflated> {
    let Encoding::Deflated(deflated) = &content.bytes else { unreachable!() };
    deflated
}

/// Blocks the only decoding thread of `server` until the returned sender is dropped.
fn busy(server: &Server) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel();
    server.spawn(move || _ = released.recv());
    release
}

#[test]
fn a_long_pass_lets_the_readers_of_other_members_have_their_turn() {
    const LONG: u64 = 32 << 20;
    let server = server(1, 8 << 20);
    let members = [("a", LONG), ("b", 1000)];
    let members = members.map(|(name, len)| RawMember::deflated(name, numbers(len)));
    let (_open, contents) = serve(&members, &server);
    let (sender, replies) = mpsc::channel();
    let release = busy(&server);
    for (content, offset) in [(&contents[0], LONG - 8), (&contents[1], 80)] {
        let sender = sender.clone();
        let reply = move |bytes: Result<&[u8], Error>| {
            sender.send(u64::from_le_bytes(bytes.unwrap().try_into().unwrap())).unwrap();
        };
        deflated(content).read(offset..offset + 8, reply);
    }
    drop(release);
    let [first, second] = [(); 2].map(|()| replies.recv_timeout(WAIT).unwrap());
    assert_eq!((first, second), (10, LONG / 8 - 1));
}

#[test]
fn a_decoder_that_panics_fails_its_readers_and_no_others() {
    const LEN: u64 = 16 << 20;
    let server = server(2, 8 << 20);
    let (open, contents) = serve(&[RawMember::deflated("a", numbers(LEN))], &server);
    let panics = &open.container().source().panics;
    // The reads of the first two pairs move the frontier. The reads of the last pair lie before it.
    for offsets in [[8, 16], [LEN - 16, LEN - 8], [8, LEN / 4]] {
        server.shared.memory.clear();
        panics.store(true, Ordering::Relaxed);
        for reply in offsets.map(|offset| read(&contents[0], offset)) {
            let failed = reply.recv_timeout(WAIT).unwrap();
            assert!(matches!(failed, Err(Error::Io(_))), "{failed:?}");
        }
        panics.store(false, Ordering::Relaxed);
        for offset in offsets {
            let bytes = read(&contents[0], offset).recv_timeout(WAIT).unwrap().unwrap();
            assert_eq!(bytes, (offset / 8).to_le_bytes());
        }
    }
}

#[test]
fn a_task_does_not_wait_for_what_is_queued_after_it() {
    let server = server(1, 8 << 20);
    let (_open, contents) = serve(&[RawMember::deflated("a", numbers(1 << 20))], &server);
    let release = busy(&server);
    let (sender, head) = mpsc::channel();
    let content = contents[0].clone();
    server.spawn(move || sender.send(content.head(8)).unwrap());
    let read = read(&contents[0], 8);
    drop(release);
    assert_eq!(head.recv_timeout(WAIT).unwrap().unwrap(), 0_u64.to_le_bytes());
    assert_eq!(read.recv_timeout(WAIT).unwrap().unwrap(), 1_u64.to_le_bytes());
}

#[test]
fn a_task_whose_work_another_thread_has_queues_what_follows_for_itself() {
    const LEN: u64 = 8 << 20;
    let server = server(1, 16 << 20);
    let (_open, contents) = serve(&[RawMember::deflated("a", numbers(LEN))], &server);
    let release = busy(&server);
    let (sender, end) = mpsc::channel();
    let content = contents[0].clone();
    server.spawn(move || sender.send(deflated(&content).read_here(LEN - 8..LEN).0).unwrap());
    let reads: Vec<_> = (0..8).map(|part| read(&contents[0], part << 20)).collect();
    drop(release);
    assert_eq!(end.recv_timeout(WAIT).unwrap().unwrap(), (LEN / 8 - 1).to_le_bytes());
    for (part, read) in (0..).zip(reads) {
        let bytes = read.recv_timeout(WAIT).unwrap().unwrap();
        assert_eq!(bytes, u64::to_le_bytes((part << 20) / 8));
    }
}

/// Bytes in memory besides cached spans: indexes and speculatively decoded spans.
fn held(server: &Server) -> u64 {
    server.shared.memory.clear();
    server.shared.memory.used()
}

/// Reads from `at` onward until helpers have decoded 4 MiB beyond the frontier. Returns the offset
/// of the last read.
fn decode_speculatively(server: &Server, content: &Arc<Content>, mut at: u64) -> u64 {
    loop {
        assert!(at < 60 << 20, "nobody can help");
        read(content, at).recv_timeout(WAIT).unwrap().unwrap();
        let before = held(server);
        if (0..200).any(|_| deflated(content).reader().help() && held(server) > before + (4 << 20))
        {
            return at;
        }
        at += 1 << 20;
    }
}

#[test]
fn what_was_decoded_speculatively_goes_with_the_last_reader() {
    let server = server(1, 64 << 20);
    // Stored blocks, because they are decoded fastest. Only members of 64 MiB or more, decoded, are
    // decoded speculatively.
    let mut number = 1u64;
    let plain = (0..10 << 20).flat_map(|_| {
        number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        number.to_be_bytes()
    });
    let plain: Vec<u8> = plain.collect();
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::none());
    io::Write::write_all(&mut encoder, &plain).unwrap();
    let member = RawMember::encoded("a", 8, &encoder.finish().unwrap(), &plain);
    let (_open, contents) = serve(&[member], &server);
    let content = &contents[0];

    let at = decode_speculatively(&server, content, 9 << 20);
    let before = held(&server);
    content.closed();
    let after = held(&server);
    assert!(after + (4 << 20) < before);
    deflated(content).rest();
    assert_eq!(held(&server), after, "nothing was left");

    // While the pass goes on, the speculative spans are kept: the pass is about to use them.
    let at = decode_speculatively(&server, content, at + (1 << 20));
    let release = busy(&server);
    let reply = read(content, at + (2 << 20));
    let before = held(&server);
    content.closed();
    assert_eq!(held(&server), before);
    drop(release);
    reply.recv_timeout(WAIT).unwrap().unwrap();
    wait_until(|| held(&server) < after + (1 << 20));
}
