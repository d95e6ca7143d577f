//! Threads that wait for a span. Elsewhere in this crate, a thread waits for another only to get a
//! span that a helper already makes (`speculation::jobs`).

use std::sync::Arc;

use super::{
    Shared, Work,
    asker::{Asker, Event},
};
use crate::{Error, ReadAt, Span, core::Place, sync::mpsc};

/// The events of a blocked thread. When they are dropped, works among them that the thread has not
/// taken go to others. There are such works only if the thread panicked.
struct Events<'a, R: ReadAt> {
    shared: &'a Arc<Shared<R>>,
    receiver: Option<mpsc::Receiver<Event>>,
}

impl<R: ReadAt> Events<'_, R> {
    /// The next event. `None` if there is none yet, unless `wait` is set.
    fn next(&self, wait: bool) -> Option<Event> {
        let receiver = self.receiver.as_ref()?;
        // An asker is not dropped before it is answered.
        if wait { Some(receiver.recv().expect("the answer")) } else { receiver.try_recv().ok() }
    }
}

impl<R: ReadAt> Drop for Events<'_, R> {
    fn drop(&mut self) {
        let Some(receiver) = self.receiver.take() else { return };
        let left: Vec<_> = receiver.try_iter().collect();
        // Without a receiver, dropped works go to other threads.
        drop(receiver);
        for event in left {
            if let Event::Work(ticket) = event {
                drop(Work::new(self.shared, ticket));
            }
        }
    }
}

impl<R: ReadAt> Shared<R> {
    /// The span of decoded byte `offset`. Also decodes the next span if bytes up to `end` are in it
    /// and both spans together are decoded faster than one after the other.
    pub(super) fn wait_for_span(
        self: &Arc<Self>,
        offset: u64,
        end: u64,
    ) -> Result<Option<Span>, Error> {
        if let Some(span) = self.core().cached_span_at(offset) {
            return Ok(Some(span));
        }
        let (sender, events) = mpsc::channel();
        let events = Events { shared: self, receiver: Some(events) };
        let mut works = self.note_blocked(offset, end, sender);
        let answer = loop {
            match events.next(works.is_empty()) {
                Some(Event::Answer(answer)) => break answer,
                Some(Event::Work(ticket)) => works.push(Work::new(self, ticket)),
                None => {
                    let outcome = works.remove(0).run(true);
                    outcome.answers.send();
                    works.splice(0..0, outcome.next);
                }
            }
        };
        self.leave(works);
        answer
    }

    fn note_blocked(
        self: &Arc<Self>,
        offset: u64,
        end: u64,
        blocked: mpsc::Sender<Event>,
    ) -> Vec<Work<R>> {
        let mut works = self.note(Asker::for_span(offset, blocked));
        let core = self.core();
        if let Ok(Place::Span(number, range)) = core.place(offset)
            && range.end < end
            && core.is_faster_as_pair([number, number + 1])
        {
            works.extend(self.note(Asker::for_nothing(range.end..range.end + 1)));
        }
        works
    }

    /// Ends the works of a thread that has its answer: each goes to another thread that is blocked
    /// on its span. Without one, this thread runs the work if a callback waits for it, since it
    /// knows of no other thread that could.
    fn leave(self: &Arc<Self>, mut works: Vec<Work<R>>) {
        while let Some(work) = works.pop() {
            if let Some(work) = work.hand_over() {
                let outcome = work.run(true);
                outcome.answers.send();
                works.extend(outcome.next);
            }
        }
    }
}
