//! Finishes the passes over members that have been read, to compare them with their CRC-32.
//!
//! One thread asks for one span after the other. The pool that serves readers decodes them: a thread
//! of lower priority could lose its core while a reader waits for the very span that it decodes. The
//! thread asks for little while anybody reads, and for even less while tasks wait in the pool.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Content, pool::Spawner};
use crate::sync::{Condvar, Mutex};

/// The time after a read during which the threads are left to readers.
const QUIET: Duration = Duration::from_millis(200);

/// The pause between two spans while anybody reads. A span takes half a millisecond, so this is a
/// hundredth of a core.
const PAUSE: Duration = Duration::from_millis(50);

/// Pauses in a row while tasks wait for a thread of the pool, before the next span.
const MOST_PAUSES: u32 = 20;

/// Decoded bytes per second while nobody reads: a sixth of what one core decodes of sensor data.
const RATE: u64 = 256 << 20;

/// The longest wait for one part before the next member has its turn: a source may hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// The passes to finish.
pub struct Background {
    /// The pool that decodes for readers.
    decode: Spawner,
    begin: Instant,
    /// The time of the last read, in milliseconds since `begin`.
    last_read: AtomicU64,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Weak: the pass over a content ends when its archive drops it.
    contents: VecDeque<Weak<Content>>,
    is_over: bool,
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Background")
    }
}

impl Background {
    pub fn new(decode: Spawner) -> Arc<Self> {
        Arc::new(Self {
            decode,
            begin: Instant::now(),
            last_read: AtomicU64::new(0),
            queue: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Notes a read.
    pub fn note_read(&self) {
        self.last_read.store(self.begin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Queues the pass over `content`.
    pub fn finish(&self, content: &Arc<Content>) {
        self.queue.lock().contents.push_back(Arc::downgrade(content));
        self.changed.notify_all();
    }

    /// Ends [`run`](Self::run): the mount is over.
    pub fn end(&self) {
        self.queue.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Finishes queued passes until the mount is over.
    pub fn run(self: &Arc<Self>) {
        while let Some(content) = self.next() {
            let before = content.verified();
            let was_answered = self.part(&content, PATIENCE);
            let bytes = content.verified().saturating_sub(before);
            // A pass that fails or makes no progress is queued again by the next read.
            let goes_on = !content.is_settled() && (bytes > 0 || !was_answered);
            if goes_on {
                self.queue.lock().contents.push_back(Arc::downgrade(&content));
            }
            drop(content);
            self.pause(Duration::from_secs_f64(bytes as f64 / RATE as f64));
        }
    }

    /// The next content; `None` when the mount is over. Waits for one, and while readers are active.
    fn next(&self) -> Option<Arc<Content>> {
        loop {
            let mut queue = self.queue.lock();
            while queue.contents.is_empty() && !queue.is_over {
                queue = self.changed.wait(queue);
            }
            if queue.is_over {
                return None;
            }
            let content = queue.contents.pop_front().and_then(|content| content.upgrade());
            drop(queue);
            let Some(content) = content else { continue };
            if self.is_quiet() || self.pause(PAUSE) {
                // Not for ever: some machines are never idle.
                for _ in 0..MOST_PAUSES {
                    if !self.decode.has_work() || !self.pause(PAUSE) {
                        break;
                    }
                }
                return Some(content);
            }
        }
    }

    fn is_quiet(&self) -> bool {
        let now = self.begin.elapsed().as_millis() as u64;
        now.saturating_sub(self.last_read.load(Ordering::Relaxed)) > QUIET.as_millis() as u64
    }

    /// Compares a part of `content`; `false` if that takes longer than `patience`.
    fn part(self: &Arc<Self>, content: &Content, patience: Duration) -> bool {
        let done = Arc::new(AtomicBool::new(false));
        let (this, told) = (self.clone(), done.clone());
        content.verify_part(Box::new(move |_| {
            told.store(true, Ordering::Release);
            // Under the lock: else the notification could come between the check of `done` and the
            // wait.
            let _queue = this.queue.lock();
            this.changed.notify_all();
        }));
        self.wait(patience, || done.load(Ordering::Acquire))
    }

    /// Waits for `time`; `false` if the mount is over.
    fn pause(&self, time: Duration) -> bool {
        !self.wait(time, || false)
    }

    /// Waits until `is_done` or the mount is over; `false` if neither comes within `time`.
    fn wait(&self, time: Duration, is_done: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + time;
        let mut queue = self.queue.lock();
        while !is_done() && !queue.is_over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self.changed.wait_timeout(queue, left).0;
        }
        true
    }
}

#[cfg(test)]
mod tests;
