//! Which requests are being answered, and what becomes of those that are stuck in the source.
//!
//! A source may hang: a dead NFS export, an automount, a FUSE server that does not answer. Then the
//! thread that asks it waits, for as long as it hangs. So one thread of its own looks on while there
//! are requests: when all threads that answer have been busy with the same requests for a while, it
//! has more of them started; and a reader that was killed gets its answer, EINTR, from here. It
//! does not know what requests are about.

use std::{collections::HashMap, fs, io, os::fd::OwnedFd, sync::Arc, thread, time::Duration};

use fuser::{Request, RequestId};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::direct;
use crate::sync::{Condvar, Mutex};

/// Between two looks. Nothing that is decoded takes as long, so who waits for it waits for the source.
const TICK: Duration = Duration::from_millis(50);

/// Looks after which a request is old: a quarter of a second. From then on it is asked whether its
/// reader still wants it.
const OLD: u64 = 5;

/// Looks without a request after which looking ends: a second. An idle mount wakes nobody.
const IDLE: u64 = 20;

/// Looks after which what is still stuck keeps a mount that is gone from ending no longer: 5 s.
const GONE: u64 = 100;

/// What the looking thread calls.
pub trait Relief: Send {
    /// All threads that answer are stuck. Starts more of them, and says how many.
    fn answer(&mut self, threads: usize) -> usize;
    /// Lets pools grow whose threads are stuck, and things go that take too much memory. Whether any
    /// request `is_old`: then somebody may hold a directory locked.
    fn serve(&mut self, is_old: bool);
    /// The mount is gone, and some of its requests do not end.
    fn give_up(&mut self);
}

/// The requests of one mount that are not answered yet.
#[derive(Debug, Default)]
pub struct Requests {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By the number that the kernel knows them by, which it does not use again.
    open: HashMap<u64, Open>,
    /// Threads that are at a request.
    busy: usize,
    /// How often a thread got done with one.
    done: u64,
    tick: u64,
    /// Whether the looking thread is there and sleeps until there is a request.
    asleep: bool,
    over: bool,
}

#[derive(Debug)]
struct Open {
    /// The thread of the reader.
    reader: u32,
    since: u64,
}

/// A request that is to be answered, by whatever thread has the ticket.
#[derive(Debug)]
pub struct Ticket {
    requests: Arc<Requests>,
    unique: u64,
}

impl Ticket {
    /// Whether the request is still to be answered. If not, its reader was killed, and what the
    /// kernel would have learnt (a reference to an inode, a handle) it will never give back.
    pub fn take(self) -> bool {
        self.requests.state.lock().open.remove(&self.unique).is_some()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.requests.state.lock().open.remove(&self.unique);
    }
}

impl Requests {
    /// Notes that `request` is to be answered.
    pub fn ticket(self: &Arc<Self>, request: &Request) -> Ticket {
        let unique = request.unique().0;
        let mut state = self.state.lock();
        let open = Open { reader: request.pid(), since: state.tick };
        state.open.insert(unique, open);
        Ticket { requests: self.clone(), unique }
    }

    /// Runs `work`, which a thread that answers requests is at meanwhile.
    pub fn at_work(&self, work: impl FnOnce()) {
        let mut state = self.state.lock();
        state.busy += 1;
        if state.asleep {
            state.asleep = false;
            self.changed.notify_one();
        }
        drop(state);
        super::contain(work);
        let mut state = self.state.lock();
        state.busy -= 1;
        state.done += 1;
    }

    /// The mount is over: nobody need look any more.
    pub fn end(&self) {
        self.state.lock().over = true;
        self.changed.notify_one();
    }

    /// Starts to look, at what `threads` answer that came through `device`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn watch(
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

struct Watch<R> {
    requests: Arc<Requests>,
    device: OwnedFd,
    threads: usize,
    relief: R,
    /// Looks since the mount was gone.
    gone: u64,
}

impl<R: Relief> Watch<R> {
    fn run(&mut self) {
        let (mut idle, mut done) = (0, 0);
        loop {
            let mut state = self.requests.state.lock();
            if idle >= IDLE && state.busy == 0 && state.open.is_empty() {
                state.asleep = true;
                while state.asleep && !state.over {
                    state = self.requests.changed.wait(state);
                }
                idle = 0;
            }
            if state.over {
                return;
            }
            state = self.requests.changed.wait_timeout(state, TICK).0;
            state.tick += 1;
            let now = state.tick;
            idle = if state.busy == 0 && state.open.is_empty() { idle + 1 } else { 0 };
            let is_stuck = state.busy >= self.threads && state.done == done;
            done = state.done;
            let busy = state.busy;
            let old: Vec<_> =
                state.open.iter().filter(|(_, open)| now - open.since >= OLD).collect();
            let old: Vec<_> =
                old.into_iter().map(|(unique, open)| (*unique, open.reader)).collect();
            drop(state);
            if is_stuck {
                self.threads += self.relief.answer(self.threads);
            }
            if idle == 0 {
                self.relief.serve(!old.is_empty());
            }
            for (unique, reader) in old {
                if wants_to_end(reader) {
                    self.interrupt(unique);
                }
            }
            if busy > 0 && is_gone(&self.device) {
                self.gone += 1;
                if self.gone == GONE {
                    return self.relief.give_up();
                }
            }
        }
    }

    /// Answers the request `unique` with EINTR, unless somebody else is about to answer it. Past
    /// fuser, which has its reply elsewhere: what that says later the kernel does not take (ENOENT).
    fn interrupt(&self, unique: u64) {
        if self.requests.state.lock().open.remove(&unique).is_none() {
            return;
        }
        let interrupted = rustix::io::Errno::INTR.raw_os_error();
        if let Err(error) = direct::answer(&self.device, RequestId(unique), interrupted, &[]) {
            log::debug!("a request was not interrupted: {error}");
        }
    }
}

/// Whether the mount of `device` is gone.
fn is_gone(device: &OwnedFd) -> bool {
    let mut device = [PollFd::new(device, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut device, Some(&now)).is_ok()
        && device[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Whether a signal waits for the thread `reader` by which it is to end. fuser drops the kernel's
/// FUSE_INTERRUPT, and that tells not of which signal it is: programs that take a signal of a timer or
/// a child are not used to EINTR from a file, and stay undisturbed.
fn wants_to_end(reader: u32) -> bool {
    fs::read_to_string(format!("/proc/{reader}/status")).is_ok_and(|status| is_ending(&status))
}

/// SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGTERM; the kernel turns each signal that kills into SIGKILL.
const ENDING: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 8 | 1 << 14;

/// The same by the text of /proc/PID/status.
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
            let open = Open { reader: 1, since: 0 };
            requests.state.lock().open.insert(unique, open);
            Ticket { requests: requests.clone(), unique }
        };
        drop(ticket(1));
        assert!(requests.state.lock().open.is_empty());
        assert!(ticket(2).take());
        assert!(requests.state.lock().open.is_empty());
        let interrupted = ticket(3);
        requests.state.lock().open.clear();
        assert!(!interrupted.take());
    }

    #[test]
    fn a_thread_that_got_done_is_not_stuck() {
        let requests = Requests::default();
        let counts = || {
            let state = requests.state.lock();
            (state.busy, state.done)
        };
        requests.at_work(|| assert_eq!(counts(), (1, 0)));
        assert_eq!(counts(), (0, 1));
    }

    /// Tells what it was called for.
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
        while !requests.state.lock().asleep {
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
