//! What the system lets the process have: open files and threads.

use std::thread;

use rustix::process::{Resource, getrlimit, setrlimit};

use super::Error;
use crate::sync::Mutex;

/// The highest descriptor that the table of open files has room for from the start. The table then
/// takes 256 KiB of the kernel's memory.
const LAST_DESCRIPTOR: u64 = (32 << 10) - 1;

/// Threads beside those that decode and those that answer: two that decode whole members, two that
/// open archives of many members, one each that replies, saves, copies, compares, drops listings,
/// watches requests, waits for the session, and asks a filesystem that may hang; and two to spare.
const OTHER_THREADS: usize = 14;

/// Threads that a mount cannot do without: one that decodes, one that answers, one each that drops
/// listings, watches requests, waits for the session, and asks a filesystem that may hang; and one to
/// spare, since the kernel counts a thread for a moment after its end.
const LEAST_THREADS: usize = 7;

/// Raises the limit of open files as far as this user may: each open archive is one, and the usual
/// limit of 1024 is for programs that call select(2).
pub fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(errno) = setrlimit(Resource::Nofile, limit) {
        log::debug!("the limit of open files cannot be raised: {errno}");
    }
    // The kernel doubles the table of descriptors when it is full, and waits some 10 ms each time
    // until no thread can see the old table. So the table gets its full size now: opening 2,000
    // archives took 75 ms, and takes 30.
    let last = LAST_DESCRIPTOR.min(limit.current.unwrap_or(u64::MAX).saturating_sub(1)) as i32;
    if let Err(errno) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), last) {
        log::debug!("the table of descriptors cannot be enlarged: {errno}");
    }
}

/// Whether fewer threads can be started than a mount with `decoders` likes to have (TasksMax=,
/// pids.max, ulimit -u). It starts them to find out: fuser, when half of its threads start, serves
/// with that half and reports nothing.
///
/// # Errors
/// `Threads`, if no mount can do with that few.
pub fn few_threads(decoders: usize) -> Result<bool, Error> {
    let wanted = decoders + answering_threads() + OTHER_THREADS;
    let allowed = threads_that_start(wanted);
    if allowed < LEAST_THREADS {
        return Err(Error::Threads { allowed, least: LEAST_THREADS });
    }
    if allowed < wanted {
        log::warn!(
            "only {allowed} more threads can be started, and {wanted} are wanted: npzfs will be \
             slower; raise TasksMax= of the service, pids.max of the container, or ulimit -u"
        );
    }
    Ok(allowed < wanted)
}

/// How many of `wanted` threads can be started at the same time.
fn threads_that_start(wanted: usize) -> usize {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let closed = gate.lock();
        let wait = || drop(gate.lock());
        let start = |_| thread::Builder::new().spawn_scoped(scope, wait).ok();
        let started: Vec<_> = (0..wanted).map_while(start).collect();
        drop(closed);
        let count = started.len();
        // The scope waits for the closures alone, and a thread counts against the limit until its end.
        for thread in started {
            let _ = thread.join(); // it cannot panic
        }
        count
    })
}

/// How many threads read requests from the kernel. They do not decode, but they copy: on two cores,
/// out of the page cache, one of them moved 1.6 GB/s, two moved 2.4 and four 3.0. More than eight
/// are for machines on which that has been measured.
pub fn answering_threads() -> usize {
    thread::available_parallelism().map_or(4, |cores| cores.get().clamp(4, 8))
}
