use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        atomic::Ordering,
        mpsc::{self, Receiver},
    },
    time::{Duration, Instant},
};

use super::*;
use crate::{
    archive::{
        Entry,
        testing::{self, RawMember, RawZip},
    },
    serve::{
        Server, Settings, Verify,
        testing::{self as serving, settings},
    },
};

const WAIT: Duration = Duration::from_secs(60);
const BZIP2: u16 = 12;
const ZSTD: u16 = 93;
const MIB: u64 = 1 << 20;

fn server(scratch_size: u64) -> Server {
    Server::new(Settings { scratch_size: Some(scratch_size), ..settings(1, Verify::Small) })
        .unwrap()
}

/// Members of these methods and sizes, whose bytes are no valid streams.
fn members(server: &Server, members: &[(u16, u64)]) -> Vec<Arc<Whole>> {
    wholes(
        server,
        members.iter().enumerate().map(|(number, &(method, size))| RawMember {
            size,
            ..RawMember::encoded(format!("{number:03}"), method, b"no stream", &[])
        }),
    )
}

fn wholes(server: &Server, members: impl Iterator<Item = RawMember>) -> Vec<Arc<Whole>> {
    let archive = Arc::new(RawZip::of(members).open().unwrap());
    let mut paths = testing::paths(&archive);
    paths.sort_by(|one, other| one.0.cmp(&other.0));
    let whole = |entry| match entry {
        Entry::Member(id) => Whole::new(archive.clone(), id, server.shared.clone(), None),
        Entry::Dir(_) => unreachable!(),
    };
    paths.into_iter().map(|(_, entry)| whole(entry)).collect()
}

/// A member with `data` as one raw block in a zstd frame (RFC 8878).
fn zstd(data: &[u8]) -> RawMember {
    let len = u8::try_from(data.len()).unwrap();
    let block = (u32::from(len) << 3 | 1).to_le_bytes();
    let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, len][..], &block[..3], data].concat();
    RawMember::encoded("x", ZSTD, &frame, data)
}

/// Starts a read of the first byte.
fn read(whole: &Arc<Whole>) -> Receiver<Result<Vec<u8>, Error>> {
    let (sender, receiver) = mpsc::channel();
    let reply: Reply = Box::new(move |bytes| drop(sender.send(bytes.map(<[u8]>::to_vec))));
    whole.read_later(0..1, Asker::unknown(), reply);
    receiver
}

/// The sizes of the members in the order in which the queue returns them, if each is decoded at
/// once.
fn order(wholes: Vec<Arc<Whole>>) -> Vec<u64> {
    let mut queue = Queue { waiting: wholes, ..Queue::default() };
    std::iter::from_fn(|| {
        let whole = queue.take()?;
        queue.long = 0;
        Some(whole.size())
    })
    .collect()
}

#[test]
fn the_cheapest_goes_first_and_the_oldest_at_last() {
    let server = server(1 << 30);
    assert_eq!(order(members(&server, &[(BZIP2, 30), (BZIP2, 10), (BZIP2, 20)])), [10, 20, 30]);
    let mut sizes = vec![(BZIP2, 1000)];
    sizes.extend((0..20).map(|size| (BZIP2, size)));
    let taken = order(members(&server, &sizes));
    let place = taken.iter().position(|&size| size == 1000);
    assert_eq!(place, Some(CHEAP_ONES as usize), "it does not wait for all");
}

#[test]
fn one_at_a_time_of_those_that_are_long_or_have_large_dictionaries() {
    let server = server(1 << 30);
    for (method, size, is_long) in [
        (BZIP2, LONG, false),
        (BZIP2, LONG + 1, true),
        (ZSTD, SMALL_DICTIONARY, false),
        (ZSTD, SMALL_DICTIONARY + 1, true),
    ] {
        let waiting = members(&server, &[(method, size); 2]);
        let mut queue = Queue { waiting, ..Queue::default() };
        assert!(queue.take().is_some());
        assert_eq!(queue.take().is_none(), is_long, "{method} {size}");
    }
}

#[test]
fn the_next_long_one_has_its_turn_when_one_ends_and_small_ones_do_not_wait() {
    let server = server(1 << 30);
    let [first, second, small] = [(ZSTD, 9 * MIB), (ZSTD, 9 * MIB), (ZSTD, 9)];
    let wholes = members(&server, &[first, second, small]);
    let (began, has_begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let reply: Reply = Box::new(move |_| {
        began.send(()).unwrap();
        let _ = released.recv();
    });
    wholes[0].read_later(0..1, Asker::unknown(), reply);
    has_begun.recv_timeout(WAIT).unwrap();
    let second = read(&wholes[1]);
    assert!(read(&wholes[2]).recv_timeout(WAIT).unwrap().is_err(), "it makes no sense");
    // By the end of this task, the tasks of both other members have checked the queue.
    let (done, is_done) = mpsc::channel();
    server.shared.whole.spawn(move || done.send(()).unwrap());
    is_done.recv_timeout(WAIT).unwrap();
    assert!(second.try_recv().is_err(), "the first is not done");
    drop(release);
    assert!(second.recv_timeout(WAIT).unwrap().is_err());
    assert!(read(&members(&server, &[first])[0]).recv_timeout(WAIT).unwrap().is_err());
}

#[test]
fn what_had_no_room_is_tried_again_and_what_is_damaged_is_not() {
    let server = server(MIB);
    let whole = members(&server, &[(BZIP2, MIB)]).remove(0);
    let others = server.shared.scratch.begin(MIB).unwrap();
    let error = read(&whole).recv_timeout(WAIT).unwrap().unwrap_err();
    assert!(matches!(&error, Error::Io(_)), "{error}");
    assert!(whole.failure().is_none());
    drop(others);
    for _ in 0..2 {
        let error = read(&whole).recv_timeout(WAIT).unwrap().unwrap_err();
        assert!(matches!(&error, Error::Damaged(_)), "{error}");
        assert!(whole.failure().is_some());
    }
}

#[test]
fn its_file_may_go_at_any_time_and_is_made_again() {
    let server = server(MIB);
    let whole = wholes(&server, [zstd(b"seven")].into_iter()).remove(0);
    for _ in 0..2 {
        assert!(whole.decoded().is_none());
        assert_eq!(read(&whole).recv_timeout(WAIT).unwrap().unwrap(), b"s");
        assert!(whole.decoded().is_some());
        assert!(server.give_up_descriptor());
    }
}

#[test]
fn it_is_decoded_as_long_as_one_of_those_who_wait_is_there() {
    let server = server(MIB);
    let dead = Asker::thread(u32::MAX);
    for (askers, is_decoded) in [(vec![dead, dead], false), (vec![dead, Asker::unknown()], true)] {
        let whole = wholes(&server, [zstd(b"seven")].into_iter()).remove(0);
        let (sender, receiver) = mpsc::channel();
        let waiter = |asker| {
            let sender = sender.clone();
            let reply: Reply = Box::new(move |bytes| sender.send(bytes.is_ok()).unwrap());
            WholeRead { range: 0..1, asker, reply }
        };
        let waiting = askers.into_iter().map(waiter).collect();
        *whole.state.lock() = Progress::Decoding(waiting);
        whole.decode();
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [is_decoded; 2]);
    }
}

#[test]
fn who_waits_for_a_decoder_that_panics_is_answered() {
    let server = server(MIB);
    let whole = members(&server, &[(BZIP2, 1)]).remove(0);
    let (sender, receiver) = mpsc::channel();
    let reply: Reply = Box::new(move |bytes| sender.send(bytes.is_err()).unwrap());
    let waiter = WholeRead { range: 0..1, asker: Asker::unknown(), reply };
    *whole.state.lock() = Progress::Decoding(vec![waiter]);
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
        let _guard = FailOnPanic(&whole);
        panic!("of the test");
    }));
    assert!(panicked.is_err());
    assert_eq!(receiver.recv_timeout(WAIT), Ok(true));
}

#[test]
fn there_are_more_threads_when_all_that_decode_are_stuck() {
    let server = server(MIB);
    let (began, has_begun) = mpsc::channel();
    let releases = [(); 2].map(|()| {
        let (release, released) = mpsc::channel::<()>();
        let began = began.clone();
        server.shared.whole.spawn(move || {
            began.send(()).unwrap();
            let _ = released.recv();
        });
        release
    });
    releases.iter().for_each(|_| has_begun.recv_timeout(WAIT).unwrap());
    let answer = read(&members(&server, &[(BZIP2, 1)])[0]);
    let start = Instant::now();
    while answer.try_recv().is_err() {
        assert!(start.elapsed() < WAIT);
        server.relieve();
        std::thread::yield_now();
    }
}

#[test]
fn a_decoder_that_panics_fails_its_readers_and_ends_its_turn() {
    let server = serving::server(2, 8 << 20);
    // Two damaged zstd members, so large that only one is decoded at a time.
    let members = ["a", "b"].map(|name| RawMember {
        size: SMALL_DICTIONARY + 1,
        ..RawMember::encoded(name, 93, &[0; 1000], &[])
    });
    let (open, contents) = serving::serve(&members, &server);
    let panics = &open.container().source().panics;
    panics.store(true, Ordering::Relaxed);
    for reply in [serving::read(&contents[0], 0), serving::read(&contents[0], 0)] {
        let failed = reply.recv_timeout(WAIT).unwrap();
        assert!(matches!(failed, Err(Error::Damaged(_))), "{failed:?}");
    }
    panics.store(false, Ordering::Relaxed);
    assert!(serving::read(&contents[1], 0).recv_timeout(WAIT).unwrap().is_err(), "its turn comes");
}
