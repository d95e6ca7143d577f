//! A member of a method without seek points (bzip2, xz, zstd ...). It is decoded whole on first
//! use, into a file of `scratch` or into its decoded copy.
//!
//! Two threads decode all these members. The smallest member is the cheapest and goes first. At
//! most one of the two threads decodes a long member, so a small member never waits for gigabytes.
//! The decoder checks now and then whether a read still waits, and stops if none does.

use std::{
    fs::File,
    io::{self, Seek, Write},
    mem,
    ops::Range,
    os::unix::fs::FileExt,
    sync::Arc,
};

use super::{
    Asker, Error, Reply, Shared, content::read_file, copy::MemberCopy, pool::Spawner,
    scratch::ScratchId,
};
use crate::{
    archive::{self, Container, MAX_DICTIONARY, MemberId, Method},
    sync::Mutex,
};

/// A member of more decoded bytes is long. At 10 MB/s, the speed of bzip2, 64 MiB take 6 s.
const LONG: u64 = 64 << 20;

/// A member of more decoded bytes may need a large dictionary: a dictionary can be as large as the
/// decoded bytes.
const SMALL_DICTIONARY: u64 = 8 << 20;

/// Memory of a decoder besides its dictionary. Bytes. bzip2 takes 4 MiB, lzma up to 6.
const DECODER: u64 = 8 << 20;

/// The smallest member goes first at most this often in a row. Then the oldest goes first.
const CHEAP_ONES: u32 = 8;

/// Decoded bytes between two checks whether a read still waits.
const LOOK_EVERY: u64 = 4 << 20;

/// A member that is decoded whole.
pub(super) struct Whole {
    archive: Arc<Container>,
    member: MemberId,
    shared: Arc<Shared>,
    copy: Option<Arc<MemberCopy>>,
    id: ScratchId,
    state: Mutex<Progress>,
}

enum Progress {
    Untouched,
    /// A task decodes the member, or is queued for it. These reads wait.
    Decoding(Vec<WholeRead>),
    /// The member was decoded and is right. Holds the file of the copy. `None`: the bytes are in a
    /// file of `scratch`, which may have been closed since.
    Decoded(Option<Arc<File>>),
    Failed(Error),
}

/// A read that waits until the member is decoded.
struct WholeRead {
    range: Range<u64>,
    asker: Asker,
    reply: Reply,
}

/// The members that wait to be decoded.
#[derive(Default)]
pub(super) struct WholeQueue(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    /// The oldest member comes first.
    waiting: Vec<Arc<Whole>>,
    /// Number of long members that are being decoded: at most one.
    long: usize,
    /// Members in a row that were taken before the oldest one.
    passed: u32,
}

impl WholeQueue {
    fn put(self: &Arc<Self>, whole: Arc<Whole>, threads: &Spawner) {
        self.0.lock().waiting.push(whole);
        self.spawn(threads);
    }

    fn spawn(self: &Arc<Self>, threads: &Spawner) {
        let (this, again) = (self.clone(), threads.clone());
        threads.spawn(move || this.run_one(&again));
    }

    fn run_one(self: &Arc<Self>, threads: &Spawner) {
        let Some(whole) = self.0.lock().take() else { return };
        let _turn = whole.is_long().then(|| LongTurn { queue: self, threads });
        whole.decode();
    }
}

/// The turn of a long member. It also ends if the decoder panics: otherwise no other long member
/// would ever have a turn.
struct LongTurn<'a> {
    queue: &'a Arc<WholeQueue>,
    threads: &'a Spawner,
}

impl Drop for LongTurn<'_> {
    fn drop(&mut self) {
        let mut queue = self.queue.0.lock();
        queue.long -= 1;
        let is_left = !queue.waiting.is_empty();
        drop(queue);
        // A task that finds only long members leaves them in the queue during this turn.
        if is_left {
            self.queue.spawn(self.threads);
        }
    }
}

impl Queue {
    /// The next member to decode; `None` if all members have to wait for the end of a long one.
    fn take(&mut self) -> Option<Arc<Whole>> {
        let may = |whole: &Whole| self.long == 0 || !whole.is_long();
        let mut candidates =
            self.waiting.iter().enumerate().filter(|(_, whole)| may(whole)).peekable();
        let (oldest, _) = *candidates.peek()?;
        let (cheapest, _) = candidates.min_by_key(|(_, whole)| whole.size())?;
        let place = if self.passed >= CHEAP_ONES { oldest } else { cheapest };
        self.passed = if place == oldest { 0 } else { self.passed + 1 };
        let whole = self.waiting.remove(place);
        self.long += usize::from(whole.is_long());
        Some(whole)
    }
}

impl Whole {
    pub(super) fn new(
        archive: Arc<Container>,
        member: MemberId,
        shared: Arc<Shared>,
        copy: Option<Arc<MemberCopy>>,
    ) -> Arc<Self> {
        let id = shared.scratch.name();
        let state = Mutex::new(Progress::Untouched);
        Arc::new(Self { archive, member, shared, copy, id, state })
    }

    /// Size of the member in decoded bytes.
    fn size(&self) -> u64 {
        self.archive.member(self.member).size
    }

    /// Whether the member takes long to decode, or may need a dictionary of a hundred MiB.
    fn is_long(&self) -> bool {
        let member = self.archive.member(self.member);
        let has_dictionary = matches!(member.method, Method::Lzma | Method::Xz | Method::Zstd);
        self.size() > LONG || (has_dictionary && self.size() > SMALL_DICTIONARY)
    }

    /// The reason why the member cannot be decoded, if it is known.
    pub(super) fn failure(&self) -> Option<Error> {
        match &*self.state.lock() {
            Progress::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// The file with the decoded bytes, if it exists.
    pub(super) fn decoded(&self) -> Option<Arc<File>> {
        match &*self.state.lock() {
            Progress::Decoded(Some(file)) => Some(file.clone()),
            Progress::Decoded(None) => self.shared.scratch.get(self.id),
            _ => None,
        }
    }

    /// Calls `reply` with the bytes of `range` once the member is decoded.
    pub(super) fn read_later(self: &Arc<Self>, range: Range<u64>, asker: Asker, reply: Reply) {
        if let Some(file) = self.decoded() {
            return answer(&Ok(file), range, reply);
        }
        let mut state = self.state.lock();
        let waiter = WholeRead { range, asker, reply };
        match &mut *state {
            Progress::Decoding(waiting) => waiting.push(waiter),
            Progress::Failed(error) => {
                let error = error.clone();
                drop(state);
                (waiter.reply)(Err(error));
            }
            Progress::Untouched | Progress::Decoded(_) => {
                *state = Progress::Decoding(vec![waiter]);
                drop(state);
                self.shared.whole_queue.put(self.clone(), &self.shared.whole);
            }
        }
    }

    fn decode(self: &Arc<Self>) {
        // The guard fails the reads if the decoder panics.
        let guard = FailOnPanic(self);
        let result = self.decode_to_file();
        mem::forget(guard);
        self.finish(result);
    }

    /// Decodes the member. Returns the file, and whether this is the decoded copy.
    fn decode_to_file(&self) -> Result<(Arc<File>, bool), Error> {
        let copy = self.copy.as_ref();
        match copy.and_then(|copy| copy.make_whole(|file| self.decode_into(file))) {
            Some(file) => Ok((file?, true)),
            None => {
                let writing = self.shared.scratch.begin(self.size())?;
                self.decode_into(writing.file())?;
                Ok((writing.keep(self.id), false))
            }
        }
    }

    fn decode_into(&self, file: &File) -> Result<(), Error> {
        let mut dictionary = self.archive.dictionary(self.member)?;
        loop {
            // A dictionary never holds more than the decoded bytes.
            let memory = DECODER + u64::from(dictionary).min(self.size());
            let _reserved = self.shared.room.reserve(memory)?;
            match self.decode_with(dictionary, file) {
                // A later block of the stream needs a larger dictionary than the first block.
                // Decode again.
                Err(Error::Io(error))
                    if error.kind() == io::ErrorKind::OutOfMemory
                        && dictionary < MAX_DICTIONARY =>
                {
                    let mut file = file;
                    file.rewind()?;
                    dictionary = MAX_DICTIONARY;
                }
                result => return result,
            }
        }
    }

    fn decode_with(&self, dictionary: u32, file: &File) -> Result<(), Error> {
        let mut out =
            io::BufWriter::with_capacity(1 << 18, WantedFile { whole: self, file, left: 0 });
        self.archive.decode(self.member, dictionary, &mut out)?;
        Ok(out.flush()?)
    }

    /// Whether a read waits whose thread still runs.
    fn is_wanted(&self) -> bool {
        match &*self.state.lock() {
            Progress::Decoding(waiting) => waiting.iter().any(|waiter| waiter.asker.is_there()),
            _ => false,
        }
    }

    fn finish(&self, result: Result<(Arc<File>, bool), Error>) {
        let next = match &result {
            Ok((file, is_copy)) => Progress::Decoded(is_copy.then(|| file.clone())),
            Err(error @ (Error::Damaged(_) | Error::Overwritten)) => {
                Progress::Failed(error.clone())
            }
            // Other errors may pass, such as a full disk. So the next read tries again.
            Err(_) => Progress::Untouched,
        };
        let Progress::Decoding(waiting) = mem::replace(&mut *self.state.lock(), next) else {
            return;
        };
        let result = result.map(|(file, _)| file);
        for WholeRead { range, reply, .. } in waiting {
            answer(&result, range, reply);
        }
    }

    /// The first `len` bytes, or all if there are fewer. Does not decode the other bytes.
    pub(super) fn head(&self, len: u64) -> Result<Vec<u8>, Error> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        let mut head = vec![0; len as usize];
        if let Some(file) = self.decoded() {
            file.read_exact_at(&mut head, 0)?;
            return Ok(head);
        }
        // A slice takes no more bytes when it is full, and that error ends the decoder.
        let mut rest = &mut head[..];
        match self.archive.decode(self.member, MAX_DICTIONARY, &mut rest) {
            Err(error) if !rest.is_empty() => Err(error.into()),
            Ok(()) | Err(_) => Ok(head),
        }
    }
}

fn answer(file: &Result<Arc<File>, Error>, range: Range<u64>, reply: Reply) {
    match file {
        Ok(file) => read_file(file, &range, reply),
        Err(error) => reply(Err(error.clone())),
    }
}

/// Dropped if the decoder panics. The member then fails, and so do the reads that wait for it.
struct FailOnPanic<'a>(&'a Whole);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        self.0.finish(Err(archive::Error::Corrupt("its decoder failed".into()).into()));
    }
}

/// Writes to a file. The writes fail once no read waits for the member any more.
struct WantedFile<'a> {
    whole: &'a Whole,
    file: &'a File,
    /// Bytes until the next check.
    left: u64,
}

impl Write for WantedFile<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.left < buf.len() as u64 {
            if !self.whole.is_wanted() {
                // The error is not `Interrupted`, after which the caller would repeat the write.
                return Err(io::Error::other("nobody waits for it any more"));
            }
            self.left = LOOK_EVERY;
        }
        let written = self.file.write(buf)?;
        self.left = self.left.saturating_sub(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
