//! The chain: settled chunks that follow each other without a gap, and jobs for the spans in them.
//!
//! A chunk joins the chain when the frontier comes to its start, or when the chunk is complete and
//! begins where the chain ends. So the chain grows as fast as chunks are decoded, however slow the
//! frontier is, and many threads find jobs. Only the last window of each chunk has to be computed
//! in sequence.

use std::{collections::VecDeque, sync::Arc};

use super::{
    jobs::{Claimed, Edge, Job},
    settled::{Boundary, Settled},
};
use crate::{Memory, index::Spacing, inflate::MAX_MATCH};

/// Determines which spans follow the span that the frontier is in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// The number of the frontier's span.
    pub(crate) number: usize,
    /// Where that span ends: at the first boundary of symbols at or after this decoded offset.
    pub(crate) end: u64,
    pub(crate) spacing: Spacing,
    /// The promised decoded length. Spans that can reach it are left to the frontier.
    pub(crate) promised: Option<u64>,
}

impl Plan {
    /// The decoded offset at which span `number` aims to end, if the span before it ends at the
    /// first boundary at or after `from`.
    fn end_after(&self, number: usize, from: u64) -> Option<u64> {
        // A span ends up to a match after the offset that it aims at. If it may end after the next
        // such offset, only the frontier can find out what the next span aims at.
        let to = self.spacing.end_after(number, from, MAX_MATCH as u64)?;
        let reach = to.saturating_add(MAX_MATCH as u64);
        self.promised.is_none_or(|len| reach < len).then_some(to)
    }
}

/// Settled chunks, and the jobs made from them.
#[derive(Default)]
pub(super) struct Chain {
    /// The last chunk, the chunks that future jobs may need, and the chunks before the end of the
    /// frontier's span.
    chunks: VecDeque<Arc<Settled>>,
    jobs: VecDeque<Arc<Job>>,
    planned: Option<Planned>,
}

struct Planned {
    plan: Plan,
    /// The last span that has a job, or the frontier's span if none has.
    number: usize,
    /// The end of that span.
    edge: Arc<Edge>,
}

impl Chain {
    /// The end of the chain.
    pub(super) fn end(&self) -> Option<Boundary> {
        self.chunks.back().map(|last| last.end())
    }

    /// The window at the end of the chain.
    pub(super) fn window(&self) -> Option<Vec<u8>> {
        self.chunks.back().map(|last| last.window_at(last.range().end))
    }

    /// Starts a new chain with a chunk that the frontier has reached. Returns the chunks of the old
    /// chain.
    pub(super) fn begin(&mut self, chunk: Arc<Settled>, plan: Plan) -> Vec<Arc<Settled>> {
        self.jobs.clear();
        let before = std::mem::take(&mut self.chunks).into();
        let edge = Edge::new(plan.end);
        self.planned = Some(Planned { plan, number: plan.number, edge });
        self.push(chunk);
        before
    }

    /// Adds a chunk that begins where the chain ends.
    pub(super) fn push(&mut self, chunk: Arc<Settled>) {
        self.chunks.push_back(chunk);
        self.plan();
    }

    /// Adds a job for each span that lies wholly in the chain.
    fn plan(&mut self) {
        let (Some(end), Some(planned)) = (self.end(), &mut self.planned) else { return };
        loop {
            let from = planned.edge.at();
            let Some(to) = planned.plan.end_after(planned.number + 1, from) else { break };
            if to > end.decoded {
                break;
            }
            planned.number += 1;
            let edge = Edge::new(to);
            let from = std::mem::replace(&mut planned.edge, Arc::clone(&edge));
            let chunks = self.chunks.iter();
            let needed = chunks.filter(|chunk| {
                let range = chunk.range();
                range.end >= from.at() && range.start < to
            });
            let chunks = needed.cloned().collect();
            self.jobs.push_back(Job::new(planned.number, from, edge, chunks));
        }
        // A planned job holds the chunks that it needs, so the chain need not hold them.
        let (first, next) = (planned.plan.end, planned.edge.at());
        let last = self.chunks.len() - 1;
        let mut number = 0;
        self.chunks.retain(|chunk| {
            let range = chunk.range();
            let is_last = number == last;
            number += 1;
            is_last || range.end >= next || range.start < first
        });
    }

    /// The chunk that holds decoded byte `at`, if the chain has it.
    pub(super) fn at(&self, at: u64) -> Option<Arc<Settled>> {
        self.chunks.iter().find(|chunk| chunk.range().contains(&at)).cloned()
    }

    pub(super) fn has_waiting(&self) -> bool {
        self.jobs.iter().any(|job| job.is_waiting())
    }

    /// Claims the first waiting job, if there is one and there is memory for its span.
    pub(super) fn claim(&self, memory: &Arc<Memory>) -> Option<Claimed> {
        self.jobs.iter().find(|job| job.is_waiting())?.claim(memory)
    }

    /// The job for span `number`, which ends at the first boundary at or after decoded offset
    /// `end`. Drops the jobs for earlier spans.
    pub(super) fn job(&mut self, number: usize, end: u64) -> Option<Arc<Job>> {
        while self.jobs.front().is_some_and(|job| job.number() < number) {
            self.jobs.pop_front();
        }
        self.jobs.front().filter(|job| job.is_for(number, end)).cloned()
    }

    /// Records that the frontier is at decoded offset `decoded`. Returns the chunks before it.
    pub(super) fn pass(&mut self, decoded: u64) -> Vec<Arc<Settled>> {
        while self.jobs.front().is_some_and(|job| job.is_before(decoded)) {
            self.jobs.pop_front();
        }
        let passed = self.chunks.iter().take_while(|chunk| chunk.range().end <= decoded).count();
        self.chunks.drain(..passed).collect()
    }
}
