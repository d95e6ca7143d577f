//! The decoding of one span for all who wait for it.

use std::{fmt, io, ops::Range, sync::Arc};

use super::{Answers, Asker, Due, Shared, Stage, Table, Ticket};
use crate::{Error, ReadAt, Span, core::Core};

/// The right, and the duty, to decode one span for which callers wait.
///
/// If a work is dropped before the span is decoded, a thread that is blocked on the span in
/// [`span_at`](crate::DeflateReader::span_at) or [`read_at`](crate::DeflateReader::read_at) decodes
/// it. If there is no such thread, all callers that wait for the span get an error.
#[must_use = "others wait for it"]
pub struct Work<R: ReadAt> {
    shared: Arc<Shared<R>>,
    ticket: Ticket,
    /// The stage to which this work has brought its entry. `None` once the work is over.
    stage: Option<Stage>,
}

/// What follows from a work.
#[must_use = "others wait for it"]
#[derive(Debug)]
pub struct Outcome<R: ReadAt> {
    /// For those who have all their bytes now, or fail.
    pub answers: Answers,
    /// For those who miss more bytes. The first is the one that is best run next.
    pub next: Vec<Work<R>>,
    /// Decoded bytes by which this work has moved the frontier.
    pub advanced: u64,
}

/// What a thread has to decode.
enum Task<R: ReadAt> {
    /// The span at the frontier.
    Frontier,
    /// A span before the frontier, up to this decoded offset at least.
    Span(u64),
    /// Such a span, and a second one.
    Pair(u64, Work<R>, u64),
}

impl<R: ReadAt> Work<R> {
    pub(super) fn new(shared: &Arc<Shared<R>>, ticket: Ticket) -> Self {
        Self { shared: Arc::clone(shared), ticket, stage: Some(Stage::Queued) }
    }

    /// Whether this work decodes at the frontier and other threads could
    /// [`help`](crate::DeflateReader::help). Cheap.
    #[must_use]
    pub fn wants_help(&self) -> bool {
        let core = self.shared.core();
        core.spans() == self.ticket.number && core.speculation.wants_help()
    }

    /// Decodes the span. With `may_pair`, also decodes a second span that others wait for and no
    /// thread decodes, if both at once take less time than one after the other, as with noise
    /// (three fifths). Set `may_pair` if there is no thread for that other span.
    pub fn run(mut self, may_pair: bool) -> Outcome<R> {
        let shared = Arc::clone(&self.shared);
        let mut due = Due::new(&shared.core().memory);
        let Some((core, task)) = shared.begin(self.ticket, may_pair, &mut due) else {
            self.stage = None;
            return Outcome { answers: due.answers, next: due.works, advanced: 0 };
        };
        // From here on a panic of the source drops this work.
        self.stage = Some(Stage::Running);
        let (source, number) = (&shared.source, self.ticket.number);
        let one = |span| vec![(self.ticket, span)];
        let mut passed = 0..0;
        let spans = match task {
            Task::Frontier => {
                let span = core.advance(source);
                if let Ok(Some(span)) = &span {
                    passed = span.range();
                }
                one(span)
            }
            Task::Span(until) => one(core.span_to(source, number, until).map(Some)),
            Task::Pair(until, mut other, other_until) => match core
                .span_pair(source, [(number, until), (other.ticket.number, other_until)])
            {
                Some(pair) => {
                    let [first, second] = pair.map(|span| span.map(Some));
                    other.stage = None;
                    vec![(self.ticket, first), (other.ticket, second)]
                }
                // The window of one of them is missing.
                None => {
                    shared.table.lock().requeue(other.ticket);
                    other.stage = Some(Stage::Queued);
                    due.works.push(other);
                    one(core.span_to(source, number, until).map(Some))
                }
            },
        };
        let advanced = passed.end - passed.start;
        shared.complete(&core, spans, &passed, &mut due);
        self.stage = None;
        Outcome { answers: due.answers, next: due.works, advanced }
    }

    #[cfg(test)]
    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Gives up the work without running it: lets a thread that is blocked on the span run it, or
    /// drops it if no asker wants an answer. Otherwise returns the work: some asker is to be
    /// answered by a call.
    pub(super) fn hand_over(mut self) -> Option<Self> {
        let mut table = self.shared.table.lock();
        let askers = table.askers(self.ticket, Stage::Queued);
        let is_taken = askers.iter().any(|asker| asker.take_work(self.ticket));
        if !is_taken && askers.iter().any(Asker::has_call) {
            drop(table);
            return Some(self);
        }
        if !is_taken && !askers.is_empty() {
            drop(table.remove(self.ticket));
        }
        drop(table);
        self.stage = None;
        None
    }
}

impl<R: ReadAt> Drop for Work<R> {
    fn drop(&mut self) {
        let Some(stage) = self.stage else { return };
        // The work was never run, or the source panicked.
        let mut answers = Answers::new(&self.shared.core().memory);
        let mut table = self.shared.table.lock();
        let askers = table.askers(self.ticket, stage);
        if askers.iter().any(|asker| asker.take_work(self.ticket)) {
            table.requeue(self.ticket);
        } else if !askers.is_empty() {
            let error = Error::Source(Arc::new(io::Error::other("its decoder failed")));
            for asker in table.remove(self.ticket) {
                answers.push(asker.fail(error.clone()));
            }
        }
        drop(table);
        answers.send();
    }
}

impl<R: ReadAt> Shared<R> {
    /// Begins the work of `ticket`. `None` if there is nothing to decode for it any more.
    fn begin(
        self: &Arc<Self>,
        ticket: Ticket,
        may_pair: bool,
        due: &mut Due<R>,
    ) -> Option<(Arc<Core>, Task<R>)> {
        let mut table = self.table.lock();
        let core = self.core();
        // Since the askers were noted, the span may have been cached, or the frontier has moved.
        for asker in table.begin(ticket)? {
            self.place(&core, &mut table, asker, due);
        }
        if table.askers(ticket, Stage::Running).is_empty() {
            drop(table.remove(ticket));
            return None;
        }
        let task = if ticket.number >= core.spans() {
            Task::Frontier
        } else if may_pair
            && core.is_dense(ticket.number)
            && let Some(other) = table.begin_another(|other| {
                core.is_faster_as_pair([ticket.number, other])
                    && core.memory.peek(core.id, other).is_none()
            })
        {
            let (shared, stage) = (Arc::clone(self), Some(Stage::Running));
            let (until, other_until) = (table.until(ticket), table.until(other));
            Task::Pair(until, Work { shared, ticket: other, stage }, other_until)
        } else {
            Task::Span(table.until(ticket))
        };
        drop(table);
        Some((core, task))
    }

    /// Gives the spans that a thread has decoded with `core` to those who wait. `passed` are the
    /// decoded bytes by which that thread has moved the frontier.
    fn complete(
        self: &Arc<Self>,
        core: &Arc<Core>,
        spans: Vec<(Ticket, Result<Option<Span>, Error>)>,
        passed: &Range<u64>,
        due: &mut Due<R>,
    ) {
        let mut table = self.table.lock();
        if spans.iter().any(|(_, span)| matches!(span, Err(Error::StaleIndex))) {
            self.drop_index(core, &mut table, due);
        }
        let is_passed_over = !passed.is_empty() && !table.wants(passed);
        for (ticket, span) in spans {
            for asker in table.remove(ticket) {
                let start = asker.missing().start;
                match &span {
                    Ok(Some(span)) if span.bytes_from(start).is_some() => {
                        match asker.feed(span, &core.memory) {
                            Ok(answer) => due.answers.push(answer),
                            Err(more) => self.place(core, &mut table, more, due),
                        }
                    }
                    Ok(_) => self.place(core, &mut table, asker, due),
                    Err(error) => due.answers.push(asker.fail(error.clone())),
                }
            }
        }
        self.drop_speculative(&self.core(), &table);
        drop(table);
        if is_passed_over {
            // The pass only goes through this span. The next span is decoded into its buffer, which
            // is still in the caches of the processor.
            core.give_up(passed.clone());
        }
    }

    /// Replaces `stale`, whose saved index was wrong, by a core that begins at the start of the
    /// stream. All who wait begin again.
    fn drop_index(self: &Arc<Self>, stale: &Arc<Core>, table: &mut Table, due: &mut Due<R>) {
        let mut core = self.core.write();
        if !Arc::ptr_eq(&core, stale) {
            return;
        }
        *core = stale.anew();
        drop(core);
        stale.forget();
        let core = self.core();
        for asker in table.clear() {
            match asker.start_again() {
                Ok(asker) => self.place(&core, table, asker, due),
                Err(answer) => due.answers.push(answer),
            }
        }
    }
}

impl<R: ReadAt> fmt::Debug for Work<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Work({:?})", self.ticket)
    }
}
