//! Finishes begun passes over members that are to be compared with their CRC-32.
//!
//! A thread of its own asks for one span after another, in the pool that decodes for readers: a
//! thread of lower priority could be kept from its core while a reader waits for the span that it
//! has begun. It asks for little while anybody reads, and for next to nothing while tasks wait for threads.

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

/// While a read came so short a time ago, readers have the threads.
const QUIET: Duration = Duration::from_millis(200);

/// Between two spans while anybody reads. A span takes half a millisecond, so this is a hundredth of
/// a core.
const PAUSE: Duration = Duration::from_millis(50);

/// How often it lets others go first that wait for a thread.
const MOST_PAUSES: u32 = 20;

/// Decoded bytes a second while nobody reads: a sixth of what one core decodes of sensor data.
const RATE: u64 = 256 << 20;

/// So long a part may take before others have their turn: its source may hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// The passes that are to be finished.
pub struct Background {
    /// Decodes for readers.
    decode: Spawner,
    begin: Instant,
    /// When a read came last, in milliseconds since the begin.
    last_read: AtomicU64,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// A content that is closed takes its pass with it.
    contents: VecDeque<Weak<Content>>,
    over: bool,
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

    /// Takes note that somebody reads.
    pub fn note_read(&self) {
        self.last_read.store(self.begin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Finishes the pass over `content`.
    pub fn finish(&self, content: &Arc<Content>) {
        self.queue.lock().contents.push_back(Arc::downgrade(content));
        self.changed.notify_all();
    }

    /// The mount is over.
    pub fn end(&self) {
        self.queue.lock().over = true;
        self.changed.notify_all();
    }

    /// Finishes what comes, until the mount is over.
    pub fn run(self: &Arc<Self>) {
        while let Some(content) = self.next() {
            let before = content.verified();
            let was_answered = self.part(&content, PATIENCE);
            let bytes = content.verified().saturating_sub(before);
            // One that fails, or does not get on, is tried again when it is read again.
            let goes_on = !content.is_settled() && (bytes > 0 || !was_answered);
            if goes_on {
                self.queue.lock().contents.push_back(Arc::downgrade(&content));
            }
            drop(content);
            self.pause(Duration::from_secs_f64(bytes as f64 / RATE as f64));
        }
    }

    /// The next content; `None` when the mount is over. Waits while there is none, or no time.
    fn next(&self) -> Option<Arc<Content>> {
        loop {
            let mut queue = self.queue.lock();
            while queue.contents.is_empty() && !queue.over {
                queue = self.changed.wait(queue);
            }
            if queue.over {
                return None;
            }
            let content = queue.contents.pop_front().and_then(|content| content.upgrade());
            drop(queue);
            let Some(content) = content else { continue };
            if self.is_quiet() || self.pause(PAUSE) {
                // But not for ever: some machines are never idle.
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
            // Under the lock, or it could come between a look at `done` and the wait.
            let _queue = this.queue.lock();
            this.changed.notify_all();
        }));
        let deadline = Instant::now() + patience;
        let mut queue = self.queue.lock();
        while !done.load(Ordering::Acquire) && !queue.over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self.changed.wait_timeout(queue, left).0;
        }
        true
    }

    /// Waits; `false` if the mount is over.
    fn pause(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut queue = self.queue.lock();
        while !queue.over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            queue = self.changed.wait_timeout(queue, left).0;
        }
        false
    }
}

#[cfg(test)]
mod tests;
