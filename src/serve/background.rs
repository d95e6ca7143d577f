//! Finishes the passes that compare members with their CRC-32, once the members have been read.
//!
//! One thread requests one span after the other. The pool that serves readers decodes the spans: a
//! thread of lower priority could lose its core while a reader waits for the very span that it
//! decodes. The thread requests little while there are reads, and even less while tasks wait in the
//! pool.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Content, pool::Spawner};
use crate::sync::{Condvar, Mutex};

/// After a read, background work is slow for this time: the decoding threads are left to readers.
const QUIET: Duration = Duration::from_millis(200);

/// The pause between two spans while there are reads. A span takes half a millisecond, so the
/// passes use a hundredth of a core.
const PAUSE: Duration = Duration::from_millis(50);

/// Most pauses before the next span while tasks wait for a thread of the pool.
const MOST_PAUSES: u32 = 20;

/// Decoded bytes per second while there are no reads. One core decodes six times as much sensor
/// data.
const RATE: u64 = 256 << 20;

/// The longest wait for one part of a member. Then the next member has its turn: the source of this
/// one may hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// The members whose passes are to be finished, and the state of the thread that does this.
pub(super) struct Background {
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
    /// Weak, so that the pass over a content ends when its archive drops the content.
    contents: VecDeque<Weak<Content>>,
    is_over: bool,
}

impl Background {
    pub(super) fn new(decode: Spawner) -> Arc<Self> {
        Arc::new(Self {
            decode,
            begin: Instant::now(),
            last_read: AtomicU64::new(0),
            queue: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Notes that there is a read now, so that background work becomes slow.
    pub(super) fn note_read(&self) {
        self.last_read.store(self.begin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Queues `content`, to be decoded to its end in the background.
    pub(super) fn finish(&self, content: &Arc<Content>) {
        self.queue.lock().contents.push_back(Arc::downgrade(content));
        self.changed.notify_all();
    }

    /// Makes [`run`](Self::run) return, because the mount is over.
    pub(super) fn end(&self) {
        self.queue.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Finishes queued passes until the mount is over.
    pub(super) fn run(self: &Arc<Self>) {
        while let Some(content) = self.next() {
            let before = content.verified();
            let was_answered = self.part(&content, PATIENCE);
            let bytes = content.verified().saturating_sub(before);
            let has_failed = bytes == 0 && was_answered;
            match content.is_settled() {
                true => {}
                // The next read queues a failed pass again. Queued here, it could fail without end.
                false if has_failed => content.gave_up_verifying(),
                false => self.queue.lock().contents.push_back(Arc::downgrade(&content)),
            }
            drop(content);
            self.pause(Duration::from_secs_f64(bytes as f64 / RATE as f64));
        }
    }

    /// Waits until a [`Content`] is queued, and returns it to be compared with its CRC-32. Pauses
    /// before that after a recent read, and for a limited time while tasks wait for a thread of the
    /// pool. `None` once the mount is over.
    fn next(&self) -> Option<Arc<Content>> {
        loop {
            let mut queue = self.queue.lock();
            while queue.contents.is_empty() && !queue.is_over {
                self.changed.wait(&mut queue);
            }
            if queue.is_over {
                return None;
            }
            let content = queue.contents.pop_front().and_then(|content| content.upgrade());
            drop(queue);
            let Some(content) = content else { continue };
            if self.is_quiet() || self.pause(PAUSE) {
                // The number of pauses is limited, because some machines are never idle.
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
            // Take the lock: otherwise the notification could come between the check of `done` and
            // the wait.
            let _queue = this.queue.lock();
            this.changed.notify_all();
        }));
        self.wait(patience, || done.load(Ordering::Acquire))
    }

    /// Waits for `time`; `false` if the mount ends first.
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
            self.changed.wait_for(&mut queue, left);
        }
        true
    }
}

#[cfg(test)]
mod tests;
