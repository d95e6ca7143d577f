//! The table of those who wait for spans.
//!
//! Each span that somebody waits for has one entry, and each entry has one work: the right to
//! decode that span. The span at the frontier has the number of all spans before it, and its entry
//! also holds those who wait for bytes beyond it. A cached span needs no entry.
//!
//! This module knows no threads, decodes nothing, and calls nobody.

use std::{collections::HashMap, mem, ops::Range};

use super::asker::Asker;

/// Identifies one entry. A later entry for the same span has another id, so that a work that was
/// taken over cannot be mistaken for a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    /// The number of the span.
    pub(super) number: usize,
    id: u64,
}

/// Whether a thread decodes the span of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No thread does yet: the work waits for one.
    Queued,
    /// A thread decodes the span.
    Running,
}

struct Entry {
    id: u64,
    stage: Stage,
    askers: Vec<Asker>,
}

/// The table of one stream.
#[derive(Default)]
pub(super) struct Table {
    entries: HashMap<usize, Entry>,
    last_id: u64,
    /// Whether nobody has asked since [`DeflateReader::rest`](crate::DeflateReader::rest).
    pub(super) is_resting: bool,
}

impl Table {
    /// Notes that `asker` waits for span `number`. Returns a ticket if the entry is new: then the
    /// caller makes a work of it.
    #[must_use]
    pub(super) fn note(&mut self, number: usize, asker: Asker) -> Option<Ticket> {
        let last_id = &mut self.last_id;
        let mut new = None;
        let entry = self.entries.entry(number).or_insert_with(|| {
            *last_id += 1;
            new = Some(Ticket { number, id: *last_id });
            Entry { id: *last_id, stage: Stage::Queued, askers: Vec::new() }
        });
        entry.askers.push(asker);
        new
    }

    /// Whether span `number` has an entry.
    pub(super) fn has(&self, number: usize) -> bool {
        self.entries.contains_key(&number)
    }

    fn entry(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        self.entries.get_mut(&ticket.number).filter(|entry| entry.id == ticket.id)
    }

    /// Marks a queued entry as running and takes out its askers, which have to be noted again.
    /// `None` if another thread runs or has run the work of the entry.
    #[must_use]
    pub(super) fn begin(&mut self, ticket: Ticket) -> Option<Vec<Asker>> {
        let entry = self.entry(ticket).filter(|entry| entry.stage == Stage::Queued)?;
        entry.stage = Stage::Running;
        Some(mem::take(&mut entry.askers))
    }

    /// Marks a queued entry as running, if there is one whose number `is_wanted`. Its askers stay.
    #[must_use]
    pub(super) fn begin_another(&mut self, is_wanted: impl Fn(usize) -> bool) -> Option<Ticket> {
        let mut queued = self.entries.iter_mut().filter(|(_, entry)| entry.stage == Stage::Queued);
        let (&number, entry) = queued.find(|(number, _)| is_wanted(**number))?;
        entry.stage = Stage::Running;
        Some(Ticket { number, id: entry.id })
    }

    /// The decoded offset before which the askers of a running entry need the bytes of its span.
    pub(super) fn until(&mut self, ticket: Ticket) -> u64 {
        self.askers(ticket, Stage::Running).iter().map(Asker::until).max().unwrap_or(u64::MAX)
    }

    /// Marks a running entry as queued again.
    pub(super) fn requeue(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entry(ticket) {
            entry.stage = Stage::Queued;
        }
    }

    /// The askers of an entry. Empty if the entry has been removed, or is at another stage.
    pub(super) fn askers(&mut self, ticket: Ticket, stage: Stage) -> &[Asker] {
        let entry = self.entry(ticket).filter(|entry| entry.stage == stage);
        entry.map_or(&[], |entry| &entry.askers)
    }

    /// Removes an entry and returns its askers. Empty if the entry has been removed already.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Vec<Asker> {
        let is_there = self.entry(ticket).is_some();
        let entry = if is_there { self.entries.remove(&ticket.number) } else { None };
        entry.map_or_else(Vec::new, |entry| entry.askers)
    }

    /// Removes all entries and returns their askers.
    #[must_use]
    pub(super) fn clear(&mut self) -> Vec<Asker> {
        mem::take(&mut self.entries).into_values().flat_map(|entry| entry.askers).collect()
    }

    /// Whether an asker wants bytes of `range` to stay cached.
    pub(super) fn wants(&self, range: &Range<u64>) -> bool {
        let askers = self.entries.values().flat_map(|entry| &entry.askers);
        let mut missing = askers.filter(|asker| asker.keeps_spans()).map(Asker::missing);
        missing.any(|missing| missing.start < range.end && range.start < missing.end)
    }

    /// Number of askers of the entries that are running.
    #[cfg(test)]
    pub(super) fn running_askers(&self) -> usize {
        self.count(Stage::Running)
    }

    /// Number of askers of the entries that are queued.
    #[cfg(test)]
    pub(super) fn queued_askers(&self) -> usize {
        self.count(Stage::Queued)
    }

    #[cfg(test)]
    fn count(&self, stage: Stage) -> usize {
        let entries = self.entries.values().filter(|entry| entry.stage == stage);
        entries.map(|entry| entry.askers.len()).sum()
    }
}
