//! System limits of the process: open files and threads.

use std::thread;

use rustix::process::{Resource, getrlimit, setrlimit};

use super::Error;
use crate::sync::Mutex;

/// The table of open files gets room for descriptors up to this number at the start. It then takes
/// 256 KiB of kernel memory.
const LAST_DESCRIPTOR: u64 = (32 << 10) - 1;

/// Threads beside those that decode and those that answer requests: two that decode whole members,
/// three that open archives of many members, two spare ones, and one for each of these tasks: to
/// reply, save, copy, compare, drop listings, watch requests, wait for the session, and ask a
/// filesystem that may hang.
const OTHER_THREADS: usize = 15;

/// Threads without which a mount cannot run: one that decodes, one that answers requests, one
/// spare, and one for each of these tasks: to drop listings, watch requests, wait for the session,
/// and ask a filesystem that may hang. The spare thread is for the kernel, which counts a thread
/// for a moment after its end.
const LEAST_THREADS: usize = 7;

/// Raises the soft limit of open files to the hard limit. Each open archive takes a descriptor, and
/// the usual limit of 1024 is meant for programs that call select(2).
pub(super) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(errno) = setrlimit(Resource::Nofile, limit) {
        log::debug!("the limit of open files cannot be raised: {errno}");
    }
    // The kernel doubles the table of descriptors when it is full, and each time waits about 10 ms
    // until no thread uses the old table. So the table gets its full size now: opening 2,000
    // archives takes 30 ms instead of 75.
    let last = LAST_DESCRIPTOR.min(limit.current.unwrap_or(u64::MAX).saturating_sub(1)) as i32;
    if let Err(errno) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), last) {
        log::debug!("the table of descriptors cannot be enlarged: {errno}");
    }
}

/// Returns whether fewer threads can be started than a mount with `decoders` decoding threads
/// should have (because of TasksMax=, pids.max or ulimit -u). `more` is the number of threads that
/// this mount needs beside those of every mount. Starts threads to count them: if only
/// half of fuser's threads can be started, fuser serves with that half and reports nothing.
///
/// # Errors
/// `Threads`, if too few threads can be started for any mount.
pub(super) fn few_threads(decoders: usize, more: usize) -> Result<bool, Error> {
    let wanted = decoders + answering_threads() + OTHER_THREADS + more;
    let least = LEAST_THREADS + more;
    let allowed = threads_that_start(wanted);
    if allowed < least {
        return Err(Error::Threads { allowed, least });
    }
    if allowed < wanted {
        log::warn!(
            "only {allowed} more threads can be started, and {wanted} are wanted: npzfs will be \
             slower; raise TasksMax= of the service, pids.max of the container, or ulimit -u"
        );
    }
    Ok(allowed < wanted)
}

/// How many threads can be started at the same time, up to `wanted`.
fn threads_that_start(wanted: usize) -> usize {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let closed = gate.lock();
        let wait = || drop(gate.lock());
        let start = |_| thread::Builder::new().spawn_scoped(scope, wait).ok();
        let started: Vec<_> = (0..wanted).map_while(start).collect();
        drop(closed);
        let count = started.len();
        // The scope waits only for the closures, but a thread counts against the limit until it
        // ends.
        for thread in started {
            let _ = thread.join(); // the thread cannot panic
        }
        count
    })
}

/// Number of threads that read requests from the kernel. They do not decode, but they copy data: on
/// two cores, from the page cache, one thread moved 1.6 GB/s, two moved 2.4 and four moved 3.0.
/// Eight is the maximum, since the gain from more threads has not been measured.
pub(super) fn answering_threads() -> usize {
    thread::available_parallelism().map_or(4, |cores| cores.get().clamp(4, 8))
}
