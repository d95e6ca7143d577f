//! The works of one member that wait for a thread, and the threads that wait for bytes of the
//! member.
//!
//! Each work has a task in the pool that decodes. A thread that waits for bytes may be a thread of
//! that pool as well, and then the work that it waits for may be queued after its own task. So such
//! a thread takes waiting works of its member from here and runs them. Does not run works itself.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak, mpsc::Sender},
};

use seekable_deflate::Work;

use super::Error;
use crate::{archive::SourceFile, sync::Mutex};

/// What a thread that waits for bytes receives.
pub(super) enum Event {
    /// The bytes.
    Answer(Result<Vec<u8>, Error>),
    /// Another work waits, and perhaps no other thread is free to run it.
    Work,
}

/// A work until a thread takes it. Its task owns it: if the pool drops the task, the work is
/// dropped as well, and its readers get an error.
pub(super) struct WaitingWork(Mutex<Option<Work<Arc<SourceFile>>>>);

impl WaitingWork {
    /// The work; `None` if a thread has taken it.
    pub(super) fn take(&self) -> Option<Work<Arc<SourceFile>>> {
        self.0.lock().take()
    }
}

/// The waiting works of one member, and the threads that wait for its bytes.
#[derive(Default)]
pub(super) struct WaitingWorks(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// The oldest work comes first.
    works: VecDeque<Weak<WaitingWork>>,
    /// Owned by the answers that the threads wait for.
    threads: Vec<Weak<Sender<Event>>>,
}

impl WaitingWorks {
    /// Adds a work, for the task that the caller queues.
    pub(super) fn add(&self, work: Work<Arc<SourceFile>>) -> Arc<WaitingWork> {
        let work = Arc::new(WaitingWork(Mutex::new(Some(work))));
        let mut waiting = self.0.lock();
        waiting.works.retain(|work| work.strong_count() > 0);
        waiting.works.push_back(Arc::downgrade(&work));
        let tell = |thread: &Weak<Sender<Event>>| {
            thread.upgrade().is_some_and(|thread| thread.send(Event::Work).is_ok())
        };
        waiting.threads.retain(tell);
        work
    }

    /// The work that has waited longest.
    pub(super) fn take(&self) -> Option<Work<Arc<SourceFile>>> {
        loop {
            let oldest = self.0.lock().works.pop_front()?;
            // Without the lock: if the pool drops the task at this moment, the work ends here.
            if let Some(work) = oldest.upgrade().and_then(|work| work.take()) {
                return Some(work);
            }
        }
    }

    /// Sends `thread` an event for each work that is added from now on.
    pub(super) fn tell(&self, thread: Weak<Sender<Event>>) {
        self.0.lock().threads.push(thread);
    }
}
