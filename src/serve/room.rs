//! Keeps the memory of the process within a limit (`--memory-limit`).
//!
//! Many kinds of things take memory: spans, parsed archives, inodes, handles, listings, buffers,
//! and blocks that the allocator cannot return. A sum of them would always miss one. So the memory
//! of the process is measured: its resident pages that belong to no file. A memory cgroup counts
//! these too.
//!
//! Most kinds may grow freely. [`Room::look`] measures now and then, and evicts caches when more
//! than seven eighths of the limit are in use. The last eighth is for growth between two calls.
//! Work that takes many MiB at once (parsing a large archive, decoding with a large dictionary)
//! [reserves](Room::reserve) them first. This module does not know what the memory holds.

use std::{
    fs, io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::sync::{Condvar, Mutex};

/// How long a reservation waits for other reservations to end before it fails.
const PATIENCE: Duration = Duration::from_secs(2);

/// Time between two evictions, if the first freed too little and the use has not grown since.
const AGAIN: Duration = Duration::from_secs(1);

/// Returns the memory of the process in bytes.
type Measure = Box<dyn Fn() -> u64 + Send + Sync>;

/// Evicts caches, of about the given number of bytes.
type GiveWay = Box<dyn Fn(u64) + Send + Sync>;

/// The memory limit of the process, and its reservations.
pub(super) struct Room {
    /// The value of `--memory-limit`, in bytes.
    limit: u64,
    measure: Measure,
    give_way: OnceLock<GiveWay>,
    state: Mutex<RoomUse>,
    /// Notified when a reservation ends.
    changed: Condvar,
    /// Whether the last call of `look` found more than the limit in use, after eviction.
    full: AtomicBool,
}

#[derive(Default)]
struct RoomUse {
    /// Memory in use when the oldest reservation began. Bytes.
    base: u64,
    /// Sum of all reservations, allocated yet or not. Bytes.
    reserved: u64,
    /// Time of the last eviction that freed too little, and the memory in use after it.
    in_vain: Option<(Instant, u64)>,
}

/// A reservation of memory. It ends when this is dropped.
#[must_use]
pub(crate) struct Reserved {
    room: Arc<Room>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.room.state.lock().reserved -= self.bytes;
        self.room.changed.notify_all();
    }
}

impl Room {
    /// A limit of `limit` bytes for this process.
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Self::with_measure(limit, resident)
    }

    fn with_measure(limit: u64, measure: impl Fn() -> u64 + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            limit,
            measure: Box::new(measure),
            give_way: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
            full: AtomicBool::new(false),
        })
    }

    /// Sets the function that evicts caches. Call this once. The function runs on the thread that
    /// calls `look` or `reserve`, without a lock of this type.
    pub(super) fn on_shortage(&self, give_way: impl Fn(u64) + Send + Sync + 'static) {
        let is_first = self.give_way.set(Box::new(give_way)).is_ok();
        debug_assert!(is_first, "what gives way is set once");
    }

    /// Memory in use above which caches are evicted. Bytes.
    fn mark(&self) -> u64 {
        self.limit - self.limit / 8
    }

    /// Measures the memory in use, and evicts caches if it is above the mark. Returns the bytes
    /// left below the mark; negative if the use is above it.
    pub(super) fn look(&self) -> i64 {
        let mut used = (self.measure)();
        if used > self.mark() && self.is_worth_trying(used) {
            self.give_way(used - self.mark());
            used = (self.measure)();
            self.state.lock().in_vain = (used > self.mark()).then(|| (Instant::now(), used));
        }
        let is_full = used > self.limit;
        if is_full && !self.full.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{} MiB of memory are in use, and {} are allowed: until it is less, nothing more is \
                 opened or looked up; give it more with --memory-limit",
                used >> 20,
                self.limit >> 20
            );
        }
        self.full.store(is_full, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.reserved == 0 {
            state.base = used;
        }
        let taken = used.max(state.base + state.reserved);
        self.mark().cast_signed() - taken.cast_signed()
    }

    /// Checks that another file may be opened or another name looked up. Both hold memory for long.
    pub(super) fn check(&self) -> io::Result<()> {
        if !self.full.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Measure here: `look` runs only while requests are under way, and a refused request takes
        // only microseconds.
        if (self.measure)() > self.limit {
            return Err(out_of_memory("--memory-limit is in use"));
        }
        self.full.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Reserves `bytes` bytes. If necessary, evicts caches and waits for other reservations to end.
    ///
    /// # Errors
    /// `OutOfMemory` if there is still too little room.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> io::Result<Reserved> {
        let refused = |leaves: u64| {
            out_of_memory(&format!(
                "it takes {} MiB of memory, and --memory-limit leaves {}",
                bytes.div_ceil(1 << 20),
                leaves >> 20
            ))
        };
        // Do not evict for a reservation that can never fit.
        if bytes > self.mark() {
            return Err(refused(self.mark()));
        }
        let since = Instant::now();
        let mut has_given = false;
        loop {
            let used = (self.measure)();
            let mut state = self.state.lock();
            if state.reserved == 0 {
                state.base = used;
            }
            let wanted = used.max(state.base + state.reserved).saturating_add(bytes);
            let Some(missing) = wanted.checked_sub(self.mark()).filter(|missing| *missing > 0)
            else {
                state.reserved += bytes;
                return Ok(Reserved { room: self.clone(), bytes });
            };
            if !has_given {
                drop(state);
                self.give_way(missing);
                has_given = true;
                continue;
            }
            // Other reservations end soon. If there are none, another request may still end and
            // release an archive.
            let patience = if state.reserved > 0 { PATIENCE } else { PATIENCE / 8 };
            let left = patience.checked_sub(since.elapsed()).filter(|left| !left.is_zero());
            let Some(left) = left else {
                return Err(refused(bytes.saturating_sub(missing)));
            };
            self.changed.wait_for(&mut state, left.min(PATIENCE / 40));
            has_given = false;
        }
    }

    /// Whether another eviction may free something. An eviction that finds nothing costs
    /// milliseconds.
    fn is_worth_trying(&self, used: u64) -> bool {
        let in_vain = self.state.lock().in_vain;
        in_vain.is_none_or(|(when, then)| used > then + self.limit / 64 || when.elapsed() > AGAIN)
    }

    fn give_way(&self, bytes: u64) {
        let Some(give_way) = self.give_way.get() else { return };
        let before = (self.measure)();
        give_way(bytes);
        // The evicted caches were part of the base: they existed before the reservations began.
        let given = before.saturating_sub((self.measure)());
        let mut state = self.state.lock();
        state.base = state.base.saturating_sub(given);
    }
}

fn out_of_memory(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, why)
}

/// Resident memory of the process that belongs to no file, in bytes (proc_pid_statm(5)); 0 if /proc
/// cannot be read. Takes a microsecond.
fn resident() -> u64 {
    fs::read_to_string("/proc/self/statm").ok().and_then(|text| of_statm(&text)).unwrap_or(0)
}

/// Reads the result of [`resident`] from the text of /proc/PID/statm: size, resident, shared ...,
/// in pages.
fn of_statm(text: &str) -> Option<u64> {
    let mut pages = text.split(' ').map(|pages| pages.parse::<u64>().ok());
    let (_size, resident, shared) = (pages.next()??, pages.next()??, pages.next()??);
    Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// A limit of 800 bytes, whose mark is 700, and the counter of the bytes in use.
    fn room() -> (Arc<Room>, Arc<AtomicU64>) {
        let used = Arc::new(AtomicU64::new(0));
        let measured = used.clone();
        (Room::with_measure(800, move || measured.load(Ordering::Relaxed)), used)
    }

    /// Lets evictions free at most `most` bytes in all.
    fn give_way(room: &Room, used: &Arc<AtomicU64>, most: u64) {
        let (used, left) = (used.clone(), AtomicU64::new(most));
        room.on_shortage(move |bytes| {
            let given = bytes.min(left.load(Ordering::Relaxed));
            left.fetch_sub(given, Ordering::Relaxed);
            used.fetch_sub(given, Ordering::Relaxed);
        });
    }

    #[test]
    fn what_is_kept_gives_way_at_the_mark_and_others_are_refused_at_the_limit() {
        let (room, used) = room();
        give_way(&room, &used, 150);
        for (now, left, is_full) in [
            (600, 100, false),
            (750, 0, false),
            (800, 0, false),
            (800, -100, false),
            (801, -101, true),
            (750, -50, false),
        ] {
            used.store(now, Ordering::Relaxed);
            assert_eq!((room.look(), room.check().is_err()), (left, is_full), "{now}");
        }
        used.store(801, Ordering::Relaxed);
        room.look();
        used.store(800, Ordering::Relaxed);
        assert!(room.check().is_ok(), "without another look");
    }

    #[test]
    fn work_reserves_what_is_left_once_the_kept_gave_way() {
        let (room, used) = room();
        give_way(&room, &used, 100);
        used.store(400, Ordering::Relaxed);
        let first = room.reserve(350).expect("50 give way");
        assert_eq!(used.load(Ordering::Relaxed), 350);
        assert_eq!(room.look(), 0, "what is reserved counts before it is taken");
        used.store(600, Ordering::Relaxed);
        assert_eq!(room.look(), 0, "and not twice while it is");
        drop(first);
        used.store(350, Ordering::Relaxed);
        assert_eq!(room.look(), 350);
        let error = room.reserve(500).err().expect("only 50 more give way");
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert_eq!(used.load(Ordering::Relaxed), 300);
        drop(room.reserve(400).expect("there was no room for the other alone"));
    }

    #[test]
    fn what_gave_way_while_something_was_reserved_is_there_for_more() {
        let (room, used) = room();
        give_way(&room, &used, 300);
        used.store(400, Ordering::Relaxed);
        let _first = room.reserve(200).expect("there is room");
        let _second = room.reserve(300).expect("200 give way");
        assert_eq!(used.load(Ordering::Relaxed), 200);
        assert!(room.reserve(101).is_err(), "100 more give way, not 101");
    }

    #[test]
    fn work_waits_for_other_work_to_end() {
        let (room, _) = room();
        let first = room.reserve(500).expect("there is room");
        let (other, (begun, begins)) = (room.clone(), std::sync::mpsc::channel());
        let waiting = std::thread::spawn(move || {
            begun.send(()).expect("the test waits");
            other.reserve(400).map(|reserved| reserved.bytes)
        });
        begins.recv().expect("it begins");
        drop(first);
        assert_eq!(waiting.join().expect("no panic").expect("there is room by now"), 400);
        assert_eq!(room.state.lock().reserved, 0);
    }

    #[test]
    fn what_never_fits_is_refused_at_once() {
        let (room, _) = room();
        let _other = room.reserve(100).expect("there is room");
        let since = Instant::now();
        let error = room.reserve(701 << 20).err().expect("more than the limit");
        assert!(error.to_string().contains("701 MiB"), "{error}");
        assert!(since.elapsed() < PATIENCE);
    }

    #[test]
    fn pages_of_files_are_not_counted() {
        let page = rustix::param::page_size() as u64;
        assert_eq!(of_statm("62000 3000 1000 5 0 900 0\n"), Some(2000 * page));
        for bad in ["", "1 2", "1 x 3", "1 2\n"] {
            assert_eq!(of_statm(bad), None, "{bad:?}");
        }
        assert!(resident() > 0);
    }
}
