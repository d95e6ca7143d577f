//! Helpers of the tests of this layer: servers, and reads that wait.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    time::{Duration, Instant},
};

use super::{Asker, Content, Error, OpenContainer, Server, Settings, Verify};
use crate::archive::{
    Entry,
    testing::{self, RawMember, RawZip},
};

/// How long a test waits before it fails.
pub(super) const WAIT: Duration = Duration::from_secs(60);

/// Settings with a cache of 8 MiB and a memory limit of 1 GiB, without saved indexes or copies.
pub(super) fn settings(threads: usize, verify: Verify) -> Settings {
    Settings {
        memory_limit: 1 << 30,
        cache_size: 8 << 20,
        threads,
        few_threads: false,
        temporary: std::env::temp_dir(),
        scratch_size: None,
        indexes: None,
        copies: None,
        verify,
    }
}

/// A server with `threads` threads and a cache of `memory` bytes. It never compares members by
/// itself.
pub(super) fn server(threads: usize, memory: u64) -> Server {
    Server::new(Settings { cache_size: memory, ..settings(threads, Verify::Never) }).unwrap()
}

/// Opens an archive of `members`. Their contents are returned in the order of their names.
pub(super) fn serve(
    members: &[RawMember],
    server: &Server,
) -> (Arc<OpenContainer>, Vec<Arc<Content>>) {
    let archive = RawZip::of(members.iter().cloned()).open().unwrap();
    let open = OpenContainer::new(archive, server);
    let contents = testing::paths(open.container()).into_iter().map(|(_, entry)| match entry {
        Entry::Member(id) => open.content(id).unwrap(),
        Entry::Dir(_) => unreachable!(),
    });
    let contents = contents.collect();
    (open, contents)
}

/// Starts a read of 8 bytes at `offset`.
pub(super) fn read(content: &Arc<Content>, offset: u64) -> Receiver<Result<Vec<u8>, Error>> {
    let (sender, receiver) = mpsc::channel();
    content.read(None, Asker::unknown(), offset, 8, move |bytes| {
        let _ = sender.send(bytes.map(<[u8]>::to_vec)); // the receiver may be gone
    });
    receiver
}

pub(super) fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < WAIT);
        std::thread::yield_now();
    }
}
