//! Keeps the requests that are being answered, and helps when requests are stuck in the source.
//!
//! A source may hang: a dead NFS export, an automount, a FUSE server that does not answer. A thread
//! that reads from it then waits until it answers. So a watching thread checks the requests every
//! 50 ms while there are any. If all threads that answer are busy and none has finished a request
//! since the last check, it starts more threads. It answers an old request with EINTR if a signal
//! has come that ends the reader. This module does not know what requests are about.

use std::{collections::HashMap, fs, io, os::fd::OwnedFd, sync::Arc, thread, time::Duration};

use fuser::{Request, RequestId};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::direct;
use crate::sync::{Condvar, Mutex};

/// Time between two checks of the watching thread. No decoding step takes that long, so a thread
/// that is busy for a whole tick waits for the source.
const TICK: Duration = Duration::from_millis(50);

/// A request is old after this many checks: a quarter of a second. From then on, each check tests
/// whether a signal that ends programs is pending for the reader of the request.
const OLD: u64 = 5;

/// The watching thread sleeps after this many checks without a request: a second. So an idle mount
/// wakes no thread.
const IDLE: u64 = 20;

/// Requests that are still stuck are given up this many checks after the end of the mount: 5 s.
const GONE: u64 = 100;

/// The actions that the watching thread calls.
pub(crate) trait Relief: Send {
    /// Called when all `threads` threads that answer are stuck. Starts more of them, and returns
    /// how many.
    fn answer(&mut self, threads: usize) -> usize;
    /// Called at every check. Adds threads to pools whose threads are stuck, and frees memory if
    /// too much is used. `is_old` is whether some request has become old (see `OLD`): the program
    /// that waits for it may hold a directory locked.
    fn serve(&mut self, is_old: bool);
    /// Called when the mount is gone and some of its requests do not end. Ends the server without
    /// them.
    fn give_up(&mut self);
}

/// The requests of one mount that have not been answered yet.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// The open requests, by the number that the kernel gave each. No number is used again.
    open: HashMap<u64, OpenRequest>,
    /// Number of threads that work on a request now.
    busy: usize,
    /// How often a thread finished its work on a request.
    done: u64,
    /// How often the watching thread has checked the requests.
    tick: u64,
    /// Whether the watching thread sleeps until there is a request.
    asleep: bool,
    over: bool,
}

#[derive(Debug)]
struct OpenRequest {
    /// The thread that waits for the answer, by its number in our PID namespace.
    reader: u32,
    /// The tick at which the request came.
    since: u64,
}

impl Table {
    fn is_idle(&self) -> bool {
        self.busy == 0 && self.open.is_empty()
    }
}

/// A request that is to be answered. The thread that has the ticket answers it.
#[derive(Debug)]
pub(crate) struct Ticket {
    requests: Arc<Requests>,
    unique: u64,
}

impl Ticket {
    /// Whether the request is still to be answered. If not, it was interrupted. The kernel will not
    /// see the answer, so it will never give back a reference or a handle that the answer contains.
    pub(crate) fn take(self) -> bool {
        self.requests.table.lock().open.remove(&self.unique).is_some()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.requests.table.lock().open.remove(&self.unique);
    }
}

impl Requests {
    /// Notes that `request` is to be answered.
    pub(crate) fn ticket(self: &Arc<Self>, request: &Request) -> Ticket {
        let unique = request.unique().0;
        let mut table = self.table.lock();
        let open = OpenRequest { reader: request.pid(), since: table.tick };
        table.open.insert(unique, open);
        Ticket { requests: self.clone(), unique }
    }

    /// Runs `work` for a request, and counts the thread as busy meanwhile.
    pub(crate) fn at_work(&self, work: impl FnOnce()) {
        let mut table = self.table.lock();
        table.busy += 1;
        if table.asleep {
            table.asleep = false;
            self.changed.notify_one();
        }
        drop(table);
        super::contain(work);
        let mut table = self.table.lock();
        table.busy -= 1;
        table.done += 1;
    }

    /// Ends the watching thread: the mount is over.
    pub(crate) fn end(&self) {
        self.table.lock().over = true;
        self.changed.notify_one();
    }

    /// Starts the watching thread. The requests come through `device`, and `threads` threads answer
    /// them.
    pub(crate) fn watch(
        self: &Arc<Self>,
        device: OwnedFd,
        threads: usize,
        relief: impl Relief + 'static,
    ) -> io::Result<()> {
        let mut watch = Watch { requests: self.clone(), device, threads, relief, gone: 0 };
        thread::Builder::new().name("watch".into()).spawn(move || watch.run())?;
        Ok(())
    }
}

/// The result of one check of the watching thread.
struct Look {
    busy: usize,
    done: u64,
    /// The old requests, by number and reader thread.
    old: Vec<(u64, u32)>,
}

/// What the watching thread needs to know of the requests.
struct Watch<R> {
    requests: Arc<Requests>,
    device: OwnedFd,
    threads: usize,
    relief: R,
    /// Checks since the mount was gone.
    gone: u64,
}

impl<R: Relief> Watch<R> {
    fn run(&mut self) {
        let (mut idle, mut done) = (0, 0);
        while let Some(look) = self.look(&mut idle) {
            let is_stuck = look.busy >= self.threads && look.done == done;
            done = look.done;
            if is_stuck {
                self.threads += self.relief.answer(self.threads);
            }
            self.relief.serve(!look.old.is_empty());
            for (unique, reader) in look.old {
                if wants_to_end(reader) {
                    self.interrupt(unique);
                }
            }
            if look.busy > 0 && is_gone(&self.device) {
                self.gone += 1;
                if self.gone == GONE {
                    return self.relief.give_up();
                }
            }
        }
    }

    /// Waits a tick and checks the requests; `None` when the mount is over. `idle` counts checks
    /// without a request. After [`IDLE`] of them the thread sleeps until there is a request.
    fn look(&self, idle: &mut u64) -> Option<Look> {
        let Requests { table, changed } = &*self.requests;
        let mut table = table.lock();
        if *idle >= IDLE && table.is_idle() {
            table.asleep = true;
            while table.asleep && !table.over {
                changed.wait(&mut table);
            }
            *idle = 0;
        }
        if table.over {
            return None;
        }
        changed.wait_for(&mut table, TICK);
        table.tick += 1;
        *idle = if table.is_idle() { *idle + 1 } else { 0 };
        let is_old = |open: &OpenRequest| table.tick - open.since >= OLD;
        let old = table.open.iter().filter(|(_, open)| is_old(open));
        let old = old.map(|(unique, open)| (*unique, open.reader)).collect();
        Some(Look { busy: table.busy, done: table.done, old })
    }

    /// Answers the request `unique` with EINTR, unless it has been answered or a thread is about to
    /// answer it. fuser's reply object is in another thread. Its reply comes later, and the kernel
    /// refuses it (ENOENT).
    fn interrupt(&self, unique: u64) {
        if self.requests.table.lock().open.remove(&unique).is_none() {
            return;
        }
        let interrupted = rustix::io::Errno::INTR.raw_os_error();
        if let Err(error) = direct::answer(&self.device, RequestId(unique), interrupted, &[]) {
            log::debug!("a request was not interrupted: {error}");
        }
    }
}

/// Whether the mount of `device` is gone: poll(2) reports an error or a hangup.
fn is_gone(device: &OwnedFd) -> bool {
    let mut device = [PollFd::new(device, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut device, Some(&now)).is_ok()
        && device[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Whether a signal that ends programs is pending for the thread `reader`. The kernel's
/// FUSE_INTERRUPT, which fuser drops, does not tell which signal caused it. Programs that get
/// signals of timers or children do not expect EINTR from a file, and must not get it.
fn wants_to_end(reader: u32) -> bool {
    fs::read_to_string(format!("/proc/{reader}/status")).is_ok_and(|status| is_ending(&status))
}

/// SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGTERM. The kernel turns any other signal that kills into
/// SIGKILL.
const ENDING: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 8 | 1 << 14;

/// Whether the text of /proc/PID/status shows a pending signal that ends programs and is neither
/// blocked nor ignored.
fn is_ending(status: &str) -> bool {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = set("SigPnd:") | set("ShdPnd:");
    pending & !set("SigBlk:") & !set("SigIgn:") & ENDING != 0
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    #[test]
    fn a_signal_that_ends_is_one_that_waits_and_is_neither_blocked_nor_ignored() {
        for (pending, shared, blocked, ignored, ends) in [
            (0, 0, 0, 0, false),
            (1 << 8, 0, 0, 0, true),
            (0, 1 << 8, 0, 0, true),
            (0, 1 << 1, 0, 0, true),
            (0, 1 << 1, 1 << 1, 0, false),
            (0, 1 << 14, 0, 1 << 14, false),
            // SIGALRM, SIGCHLD.
            (1 << 13, 1 << 16, 0, 0, false),
        ] {
            let status = format!(
                "Name:\tcat\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\n\
                 SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{:016x}\n",
                u64::MAX
            );
            assert_eq!(is_ending(&status), ends, "{status}");
        }
    }

    #[test]
    fn a_request_is_open_until_it_is_answered_and_its_reference_is_kept_once() {
        let requests = Arc::new(Requests::default());
        let ticket = |unique| {
            let open = OpenRequest { reader: 1, since: 0 };
            requests.table.lock().open.insert(unique, open);
            Ticket { requests: requests.clone(), unique }
        };
        drop(ticket(1));
        assert!(requests.table.lock().open.is_empty());
        assert!(ticket(2).take());
        assert!(requests.table.lock().open.is_empty());
        let interrupted = ticket(3);
        requests.table.lock().open.clear();
        assert!(!interrupted.take());
    }

    #[test]
    fn a_thread_that_got_done_is_not_stuck() {
        let requests = Requests::default();
        let counts = || {
            let table = requests.table.lock();
            (table.busy, table.done)
        };
        requests.at_work(|| assert_eq!(counts(), (1, 0)));
        assert_eq!(counts(), (0, 1));
    }

    /// Sends the name of each method that was called.
    struct Told(mpsc::Sender<&'static str>);

    impl Relief for Told {
        fn answer(&mut self, _threads: usize) -> usize {
            self.0.send("answer").unwrap();
            0
        }

        fn serve(&mut self, _is_old: bool) {
            self.0.send("serve").unwrap();
        }

        fn give_up(&mut self) {}
    }

    #[test]
    fn who_looks_on_wakes_for_a_request_that_is_stuck() {
        let requests = Arc::new(Requests::default());
        let (sender, told) = mpsc::channel();
        let device = fs::File::open("/dev/null").unwrap().into();
        requests.watch(device, 1, Told(sender)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !requests.table.lock().asleep {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        while told.try_recv().is_ok() {}
        let (release, released) = mpsc::channel::<()>();
        let at_work = requests.clone();
        let stuck = thread::spawn(move || {
            at_work.at_work(|| {
                let _ = released.recv();
            });
        });
        for what in ["answer", "serve"] {
            while told.recv_timeout(Duration::from_secs(60)).unwrap() != what {}
        }
        drop(release);
        stuck.join().unwrap();
        requests.end();
    }

    #[test]
    fn a_request_that_panics_takes_no_thread_with_it() {
        crate::fuse::contain(|| panic!("of the test"));
    }

    #[test]
    fn a_thread_that_is_gone_wants_nothing() {
        assert!(!wants_to_end(u32::MAX));
    }
}
