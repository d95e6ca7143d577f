//! Helps a mount whose requests are stuck in the source.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, OnceLock, mpsc::Sender},
};

use fuser::SessionACL;

use super::{Event, answering, mount::GRACE, place};
use crate::fuse::{Relief, Watched};

/// The most threads that answer requests of one mount.
const MOST_THREADS: usize = 64;

/// Number of threads that are added at a time. Each takes 16 MiB of address space.
const THREADS_AT_ONCE: usize = 8;

/// Adds threads that answer requests, and gives up requests that are open after the mount is gone.
pub(super) struct MountRelief {
    pub filesystem: Watched,
    /// The device that the requests come from.
    pub device: OwnedFd,
    pub acl: SessionACL,
    /// Set when the session has ended; shared with [`super::Mount`].
    pub ended: Arc<OnceLock<bool>>,
    pub events: Sender<Event>,
    /// Whether an earlier attempt to start threads failed.
    pub is_refused: bool,
}

impl Relief for MountRelief {
    fn answer(&mut self, threads: usize) -> usize {
        let more = THREADS_AT_ONCE.min(MOST_THREADS.saturating_sub(threads));
        if more == 0 || self.is_refused {
            return 0;
        }
        match answering::join(self.filesystem.joined(), &self.device, self.acl, more) {
            Ok(()) => {
                log::info!("all {threads} threads wait for the source: {more} more answer");
                more
            }
            Err(cause) => {
                self.is_refused = true;
                log::warn!("all {threads} threads wait for the source, and no more start: {cause}");
                0
            }
        }
    }

    fn serve(&mut self, is_old: bool) {
        self.filesystem.relieve(is_old);
    }

    fn give_up(&mut self) {
        log::warn!("the mount is gone, and requests still wait for the source: they are given up");
        let filesystem = self.filesystem.joined();
        // Saving indexes may wait for the source as well.
        let _ = place::within(GRACE, move || filesystem.end());
        let _ = self.ended.set(true); // not set yet: the session waits for its threads
        // If the receiver is gone, the process is ending anyway.
        let _ = self.events.send(Event::Ended(Ok(())));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, sync::mpsc};

    use super::*;
    use crate::{
        fuse::Npzfs,
        tree::{Source, Tree},
    };

    #[test]
    fn no_more_than_64_threads_answer() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let source = Source::open(directory.path()).expect("it is there");
        let tree = Tree::new(source, Default::default()).expect("it is a directory");
        let device = || File::open("/dev/null").expect("it is there").into();
        let (events, _receiver) = mpsc::channel();
        let mut relief = MountRelief {
            filesystem: Watched::new(Npzfs::new(Arc::new(tree), device())),
            device: device(),
            acl: SessionACL::Owner,
            ended: Arc::default(),
            events,
            is_refused: false,
        };
        for threads in [64, 65, 1000] {
            assert_eq!(relief.answer(threads), 0, "{threads}");
        }
    }
}
