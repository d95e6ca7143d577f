//! Tests listings in a real session of fuser that talks to a socket instead of the kernel.

use std::{sync::mpsc, thread};

use fuser::{Config, FileHandle, Filesystem, Request, Session, SessionACL};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use super::*;
use crate::archive::{Device, Timestamp};

const INIT: u32 = 26;
const READDIR: u32 = 28;
const READDIRPLUS: u32 = 44;

/// Lists up to `NAMES` entries, until the reply is full. If `unknown` is set, entry 20 has no known
/// kind, which fuser cannot express.
struct Lister {
    device: OwnedFd,
    unknown: bool,
    counts: mpsc::Sender<usize>,
}

const NAMES: u64 = 300;

impl Lister {
    fn list(&self, request: &Request, reply: Reply) {
        let time = |seconds| Timestamp { seconds, nanoseconds: 7 };
        let mut listing = Listing::new(reply, &self.device, Duration::from_millis(1500));
        for number in 1..=NAMES {
            let is_known = number != 20 || !self.unknown;
            let attr = Attr {
                kind: Kind::RegularFile,
                size: number << 33,
                blocks: number + 1,
                atime: time(-5),
                mtime: time(1 << 33),
                ctime: time(6),
                mode: 0o754,
                uid: 8,
                gid: 9,
                rdev: Device { major: 300, minor: 70_000 },
                block_size: 4096,
            };
            let entry = Listed {
                name: OsStr::new(&"name"[..1 + number as usize % 4]),
                kind: is_known.then_some(Kind::RegularFile),
                cookie: number << 40,
                number: None,
                looked_up: is_known.then_some((Ino(number), attr)),
            };
            if !listing.add(INodeNo(number), &entry) {
                break;
            }
        }
        self.counts.send(listing.count).unwrap();
        listing.send(request.unique());
    }
}

impl Filesystem for Lister {
    fn readdir(
        &self,
        request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        reply: ReplyDirectory,
    ) {
        self.list(request, Reply::Names(reply));
    }

    fn readdirplus(
        &self,
        request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list(request, Reply::Entries(reply));
    }
}

/// A request as the kernel writes it: struct fuse_in_header, then `body`.
fn request(code: u32, unique: u32, body: &[u32]) -> Vec<u8> {
    let length = 40 + 4 * body.len() as u32;
    let header = [length, code, unique, 0, 1, 0, 0, 0, 0, 0];
    header.iter().chain(body).flat_map(|word| word.to_ne_bytes()).collect()
}

/// The replies to one request for a listing of at most `size` bytes, and the number of its entries.
fn replies(code: u32, size: u32, unknown: bool) -> (Vec<Vec<u8>>, usize) {
    let (kernel, device) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let receive = || {
        let mut message = vec![0; 1 << 20];
        let (length, _) = recv(&kernel, &mut message[..], RecvFlags::empty()).unwrap();
        message.truncate(length);
        message
    };
    let init = [&[7, 40, 128 << 10, 0, 0][..], &[0; 11]].concat();
    send(&kernel, &request(INIT, 1, &init), SendFlags::empty()).unwrap();
    let (counts, count) = mpsc::channel();
    let lister = Lister { device: device.try_clone().unwrap(), unknown, counts };
    let session = Session::from_fd(lister, device, SessionACL::All, Config::default()).unwrap();
    receive();
    let session = thread::spawn(move || session.run());
    // struct fuse_read_in: handle, offset, size, flags, owner, flags.
    send(&kernel, &request(code, 77, &[0, 0, 0, 0, size, 0, 0, 0, 0, 0]), SendFlags::empty())
        .unwrap();
    let replies = (0..=usize::from(unknown)).map(|_| receive()).collect();
    drop(kernel);
    let _ = session.join().unwrap(); // an error: the socket was closed without an unmount
    (replies, count.recv().unwrap())
}

/// The range in a reply that holds the entries with these numbers. Bytes.
fn entries(code: u32, numbers: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let name = |number| usize::next_multiple_of(24 + 1 + number % 4, 8);
    let entry = |number| name(number) + if code == READDIRPLUS { ENTRY } else { 0 };
    let before: usize = (1..numbers.start).map(entry).sum();
    HEADER + before..HEADER + before + numbers.map(entry).sum::<usize>()
}

#[test]
fn a_listing_that_fuser_cannot_express_is_written_as_fuser_would_write_it() {
    for code in [READDIR, READDIRPLUS] {
        for size in [4096, 8000, 32 << 10, 128 << 10] {
            let (by_fuser, count) = replies(code, size, false);
            let (direct, count_of_direct) = replies(code, size, true);
            assert_eq!(count, count_of_direct);
            let all = entries(code, 1..count + 1);
            assert!(all.end - HEADER <= size as usize);
            assert!(
                count == NAMES as usize || entries(code, 1..count + 2).end - HEADER > size as usize
            );
            let ([by_fuser], [direct, late]) = (&by_fuser[..], &direct[..]) else { panic!() };
            assert_eq!(by_fuser.len(), all.end);
            let unknown = entries(code, 20..21);
            let mut expected = by_fuser.clone();
            if code == READDIRPLUS {
                expected[unknown.start..unknown.start + ENTRY].fill(0);
            }
            let kind = unknown.end - entries(READDIR, 20..21).len() + 20;
            expected[kind..kind + 4].fill(0);
            assert_eq!(*direct, expected, "{code} {size}");
            // The kernel would refuse fuser's late reply. A socket takes it.
            assert_eq!((late.len(), &late[8..16]), (HEADER, &direct[8..16]));
        }
    }
}
