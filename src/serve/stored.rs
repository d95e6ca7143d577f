//! A stored member. Its bytes lie in the archive as they are.

use std::{mem, sync::Arc};

use seekable_deflate::ReadAt;

use super::{Error, Reply, pool::Spawner, verify::Verdict, with_buffer};
use crate::{
    archive::{self, SourceFile},
    sync::Mutex,
};

/// Bytes that one task reads and adds to the CRC-32. Between two tasks, other tasks may use the
/// thread and the disk.
const PIECE: u64 = 1 << 20;

/// A stored member: `size` bytes of the archive file from `start`.
pub(super) struct Stored {
    source: Arc<SourceFile>,
    /// Where the member's bytes start in the archive file.
    start: u64,
    /// Size of the member in bytes.
    size: u64,
    crc32: Option<u32>,
    verdict: Arc<Verdict>,
    /// The threads that run the pass.
    threads: Spawner,
    pass: Mutex<Pass>,
}

/// The progress of the pass that compares the member with its CRC-32.
#[derive(Default)]
struct Pass {
    /// Bytes that have been compared.
    at: u64,
    crc32: crc32fast::Hasher,
    /// The replies, each with the offset in the member that the pass must reach first. Bytes.
    waiting: Vec<(u64, Reply)>,
    is_running: bool,
}

impl Stored {
    pub(super) fn new(
        source: Arc<SourceFile>,
        start: u64,
        size: u64,
        crc32: Option<u32>,
        verdict: Arc<Verdict>,
        threads: Spawner,
    ) -> Arc<Self> {
        Arc::new(Self { source, start, size, crc32, verdict, threads, pass: Mutex::default() })
    }

    /// Fills `buf` with the member's bytes from `offset`.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        Ok(self.source.read_exact_at(buf, self.start + offset)?)
    }

    /// How many bytes have been compared.
    pub(super) fn passed(&self) -> u64 {
        self.pass.lock().at
    }

    /// Compares the member up to byte `target` at least, then calls `reply` with no bytes.
    pub(super) fn pass_to(self: &Arc<Self>, target: u64, reply: Reply) {
        let mut pass = self.pass.lock();
        pass.waiting.push((target.min(self.size), reply));
        if !mem::replace(&mut pass.is_running, true) {
            drop(pass);
            self.go_on();
        }
    }

    /// Compares the whole member in this thread, unless another thread runs the pass.
    pub(super) fn compare_at_once(self: &Arc<Self>) {
        let mut pass = self.pass.lock();
        if !mem::replace(&mut pass.is_running, true) {
            drop(pass);
            while !self.verdict.is_settled() && self.step().is_ok_and(|at| at < self.size) {}
            pass = self.pass.lock();
            // Another thread may have begun to wait meanwhile.
            pass.is_running = !pass.waiting.is_empty();
            if pass.is_running {
                drop(pass);
                self.go_on();
            }
        }
    }

    fn go_on(self: &Arc<Self>) {
        let this = self.clone();
        self.threads.spawn(move || this.run());
    }

    /// Processes one piece by `step`, and calls the replies that waited for that piece. Queues
    /// itself again if other replies still wait.
    fn run(self: &Arc<Self>) {
        let at = self.passed();
        let is_over = at >= self.size || self.verdict.is_settled();
        let result = if is_over { Ok(at) } else { self.step() };
        let mut pass = self.pass.lock();
        let is_done = |target: u64| is_over || result.as_ref().map_or(true, |at| target <= *at);
        let (done, waiting) =
            mem::take(&mut pass.waiting).into_iter().partition(|(target, _)| is_done(*target));
        pass.waiting = waiting;
        pass.is_running = !pass.waiting.is_empty();
        let goes_on = pass.is_running;
        drop(pass);
        if goes_on {
            self.go_on();
        }
        for (_, reply) in done {
            let result = result.as_ref().map(|_| &[][..]).map_err(Error::clone);
            reply(self.verdict.judge(result));
        }
    }

    /// Adds the next piece of the member to the running CRC-32, and compares that after the last
    /// piece. Returns the end of the piece, an offset in the member. Only the thread that runs the
    /// pass calls this.
    fn step(&self) -> Result<u64, Error> {
        let (at, mut crc32) = {
            let pass = self.pass.lock();
            (pass.at, pass.crc32.clone())
        };
        let len = PIECE.min(self.size - at) as usize;
        with_buffer(len, |piece| self.read(piece, at).map(|()| crc32.update(piece)))?;
        let end = at + len as u64;
        if end == self.size {
            let found = crc32.clone().finalize();
            match self.crc32 {
                Some(expected) if expected != found => {
                    self.verdict.condemn(archive::Error::Checksum { found, expected }.into());
                }
                _ => self.verdict.confirm(),
            }
        }
        let mut pass = self.pass.lock();
        (pass.at, pass.crc32) = (end, crc32);
        Ok(end)
    }
}

#[cfg(test)]
mod tests;
