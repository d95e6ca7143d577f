//! A member that can only be decoded from its start, and is: once, into its decoded copy where there
//! is to be one, else into an unlinked file.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    mem,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Error, Reply, Shared, copy::MemberCopy};
use crate::archive::{Archive, MemberId};

/// A member of a method without seek points (bzip2, xz, zstd ...).
pub struct Whole {
    archive: Arc<Archive>,
    member: MemberId,
    shared: Shared,
    copy: Option<Arc<MemberCopy>>,
    state: Mutex<Progress>,
}

enum Progress {
    Untouched,
    /// A task is decoding; these wait.
    Decoding(Vec<(Range<u64>, Reply)>),
    Decoded(Arc<File>),
    Failed(Error),
}

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Whole").field("member", &self.member).finish()
    }
}

impl Whole {
    pub fn new(
        archive: Arc<Archive>,
        member: MemberId,
        shared: Shared,
        copy: Option<Arc<MemberCopy>>,
    ) -> Arc<Self> {
        Arc::new(Self { archive, member, shared, copy, state: Mutex::new(Progress::Untouched) })
    }

    // Nothing that can panic runs under this lock; a poisoned one is still whole.
    fn state(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The decoded file, if decoding is done.
    pub fn decoded(&self) -> Option<Result<Arc<File>, Error>> {
        match &*self.state() {
            Progress::Decoded(file) => Some(Ok(file.clone())),
            Progress::Failed(error) => Some(Err(error.clone())),
            _ => None,
        }
    }

    /// Gives `range` to `reply` once all is decoded.
    pub fn read_later(self: &Arc<Self>, range: Range<u64>, reply: Reply) {
        let mut state = self.state();
        match &mut *state {
            Progress::Decoding(waiting) => waiting.push((range, reply)),
            Progress::Untouched => {
                *state = Progress::Decoding(vec![(range, reply)]);
                let this = self.clone();
                self.shared.whole.spawn(move || this.decode());
            }
            Progress::Decoded(file) => {
                let file = file.clone();
                drop(state);
                answer(&Ok(file), range, reply);
            }
            Progress::Failed(error) => {
                let error = error.clone();
                drop(state);
                reply(Err(error));
            }
        }
    }

    fn decode(self: Arc<Self>) {
        // If decoding panics, the waiters are answered when the guard drops.
        let guard = Unwound(&self);
        let result = self.decode_to_file();
        mem::forget(guard);
        self.finish(result);
    }

    fn decode_to_file(&self) -> Result<Arc<File>, Error> {
        let copy = self.copy.as_ref();
        copy.and_then(|copy| copy.make_whole(|file| self.decode_into(file)))
            .unwrap_or_else(|| self.decode_to_temporary())
    }

    fn decode_into(&self, file: &File) -> Result<(), Error> {
        let mut out = io::BufWriter::with_capacity(1 << 18, file);
        self.archive.decode(self.member, &mut out)?;
        Ok(out.flush()?)
    }

    fn decode_to_temporary(&self) -> Result<Arc<File>, Error> {
        let room = rustix::fs::statvfs(&*self.shared.temporary).map_err(io::Error::from)?;
        if self.archive.member(self.member).size > room.f_bavail.saturating_mul(room.f_frsize) {
            let place = self.shared.temporary.display();
            let why = format!("no room in {place} to decode the member to");
            return Err(io::Error::new(io::ErrorKind::StorageFull, why).into());
        }
        let file = tempfile::tempfile_in(&*self.shared.temporary).map_err(|error| {
            let place = self.shared.temporary.display();
            io::Error::new(error.kind(), format!("no temporary file in {place}: {error}"))
        })?;
        self.decode_into(&file)?;
        Ok(Arc::new(file))
    }

    fn finish(&self, result: Result<Arc<File>, Error>) {
        let next = match &result {
            Ok(file) => Progress::Decoded(file.clone()),
            Err(error @ (Error::Damaged(_) | Error::Overwritten)) => {
                Progress::Failed(error.clone())
            }
            // A full disk may be emptied: the next read tries again.
            Err(_) => Progress::Untouched,
        };
        let Progress::Decoding(waiting) = mem::replace(&mut *self.state(), next) else { return };
        for (range, reply) in waiting {
            answer(&result, range, reply);
        }
    }

    /// The first `len` bytes, or all if there are fewer, without decoding the rest.
    pub fn head(&self, len: u64) -> Result<Vec<u8>, Error> {
        if let Some(file) = self.decoded() {
            let mut head = vec![0; len as usize];
            file?.read_exact_at(&mut head, 0)?;
            return Ok(head);
        }
        let mut head = Head { bytes: Vec::new(), limit: len as usize };
        match self.archive.decode(self.member, &mut head) {
            Err(error) if head.bytes.len() < head.limit => Err(error.into()),
            // Enough is enough: the sink itself ended the decoding.
            Ok(()) | Err(_) => Ok(head.bytes),
        }
    }
}

fn answer(file: &Result<Arc<File>, Error>, range: Range<u64>, reply: Reply) {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let result = file.as_ref().map_err(Error::clone).and_then(|file| {
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(&*bytes)
    });
    reply(result);
}

struct Unwound<'a>(&'a Whole);

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        self.0.finish(Err(Error::Damaged("its decoder failed".into())));
    }
}

/// Takes the first bytes, then refuses.
struct Head {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Head {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let take = buf.len().min(self.limit - self.bytes.len());
        self.bytes.extend_from_slice(&buf[..take]);
        if take == 0 && !buf.is_empty() { Err(io::Error::other("enough")) } else { Ok(take) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
