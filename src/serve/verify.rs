//! Compares members with their checksums (`--verify`), and stops serving a member that differs.
//!
//! A small member is compared before its first byte is served. A large member is served at once,
//! and its comparison is finished in the background (`background`). A member that differs is
//! *condemned*: its reads and opens fail, and the listener drops its pages from the kernel's cache.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{Error, Failure, Reports, index::ArchiveIndex};
use crate::{archive::SourceFile, saved::StreamKey, sync::Mutex};

/// When the bytes of a member are compared with its CRC-32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Verify {
    /// Small members before their first byte is served. Larger members in the background, after
    /// their first read.
    #[default]
    Small,
    /// All members in the background, after their first read.
    Background,
    /// All members before their first byte is served, however long that takes.
    Always,
    /// No comparison is started. A member is still compared if its first pass reaches its end.
    Never,
}

/// The largest deflated member that is compared before its first byte is served, in bytes, decoded
/// and encoded. The decoder needs 28 ms for 16 MiB of noise, and 10 ms for sensor data.
pub(super) const SMALL_DEFLATED: u64 = 16 << 20;

/// The largest stored member that is compared before its first byte is served, in bytes. It is read
/// at the speed of its disk: 4 MiB at 150 MB/s take 28 ms.
const SMALL_STORED: u64 = 4 << 20;

/// A member of at most this many bytes, decoded and encoded, is compared by the thread that opens
/// it: another thread would take longer to wake.
pub(super) const AT_ONCE: u64 = 64 << 10;

/// A stored member of fewer bytes is compared again by the next mount. That takes less time than to
/// look up whether an earlier mount compared it.
pub(super) const LEAST_REMEMBERED: u64 = 1 << 20;

impl Verify {
    /// Whether a member is compared before its first byte is served.
    fn is_before_serving(self, is_stored: bool, size: u64, encoded_size: u64, cache: u64) -> bool {
        // Spans that are decoded for the comparison have to stay cached until they are read.
        let limit = if is_stored { SMALL_STORED } else { SMALL_DEFLATED.min(cache / 4) };
        match self {
            Self::Small => size.max(encoded_size) <= limit,
            Self::Always => true,
            Self::Background | Self::Never => false,
        }
    }
}

/// Called with each inode whose pages in the kernel's cache may be wrong, and with the damage if it
/// is to be logged.
type Listener = Box<dyn Fn(u64, Option<&Error>) + Send + Sync>;

/// The listener that is called when a member is condemned.
#[derive(Default)]
pub(super) struct Alarm(OnceLock<Listener>);

impl Alarm {
    /// Sets the listener. Further calls have no effect.
    pub(super) fn listen(&self, listener: Listener) {
        // Cannot fail: there is one mount, which sets its listener once.
        let _ = self.0.set(listener);
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alarm")
    }
}

/// The members of one archive that have been compared with their CRC-32 and are right. One bit for
/// each member.
#[derive(Debug)]
pub(super) struct Confirmed(Box<[AtomicU64]>);

impl Confirmed {
    pub(super) fn new(members: u32) -> Arc<Self> {
        Arc::new(Self((0..members.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()))
    }

    fn contains(&self, member: u32) -> bool {
        let word = self.0.get(member as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (member % 64) != 0)
    }

    fn set(&self, member: u32, is_right: bool) {
        let Some(word) = self.0.get(member as usize / 64) else { return };
        let bit = 1 << (member % 64);
        match is_right {
            true => word.fetch_or(bit, Ordering::Relaxed),
            false => word.fetch_and(!bit, Ordering::Relaxed),
        };
    }
}

/// The properties of a member that its verdict depends on.
#[derive(Debug)]
pub(super) struct Subject {
    pub source: Arc<SourceFile>,
    /// Number among the members of its archive.
    pub number: u32,
    /// Whether the member is stored, not compressed.
    pub is_stored: bool,
    /// Decoded size in bytes.
    pub size: u64,
    /// Encoded size in bytes.
    pub encoded_size: u64,
}

/// Whether the bytes of one member, as a whole, are right, wrong, or not compared yet.
pub(super) struct Verdict {
    subject: Subject,
    policy: Verify,
    before_serving: bool,
    /// Whether all bytes have been compared with the CRC-32 and are right.
    confirmed: AtomicBool,
    /// Why no byte of the member is served, if it is condemned.
    condemned: OnceLock<Error>,
    members: Arc<Confirmed>,
    /// Which failures of the members the log has.
    reports: Arc<Reports>,
    /// The saved indexes, which keep the confirmation of a stored member for the next mount.
    index: Option<(StreamKey, Arc<ArchiveIndex>)>,
    /// Inodes under which the member has been opened.
    inodes: Mutex<Vec<u64>>,
    alarm: Arc<Alarm>,
}

impl Verdict {
    /// A new verdict. The member starts as confirmed if it is empty, or recorded as right in
    /// `members` or `index`.
    pub(super) fn new(
        subject: Subject,
        policy: Verify,
        cache: u64,
        members: Arc<Confirmed>,
        reports: Arc<Reports>,
        index: Option<(StreamKey, Arc<ArchiveIndex>)>,
        alarm: Arc<Alarm>,
    ) -> Arc<Self> {
        let &Subject { number, is_stored, size, encoded_size, .. } = &subject;
        // The saved index of a deflated member, if there is one, has this information itself.
        let index = index.filter(|_| is_stored && size >= LEAST_REMEMBERED);
        let is_known = || index.as_ref().is_some_and(|(key, index)| index.is_verified(*key));
        let confirmed = size == 0 || members.contains(number) || is_known();
        Arc::new(Self {
            before_serving: policy.is_before_serving(is_stored, size, encoded_size, cache),
            subject,
            policy,
            confirmed: AtomicBool::new(confirmed),
            condemned: OnceLock::new(),
            members,
            reports,
            index,
            inodes: Mutex::default(),
            alarm,
        })
    }

    /// Number of the member in its archive.
    pub(super) fn number(&self) -> u32 {
        self.subject.number
    }

    /// Whether the bytes are to be compared with the CRC-32 at all, and have not been yet.
    pub(super) fn is_open(&self) -> bool {
        self.policy != Verify::Never && !self.is_settled()
    }

    /// Whether the member must be compared before its first byte is served, and has not been yet.
    pub(super) fn must_come_first(&self) -> bool {
        self.before_serving && !self.is_settled()
    }

    /// Condemns the member because its stream cannot be decoded to its end. The bytes before the
    /// fault may be wrong as well, and cannot be compared any more.
    pub(super) fn stops(&self, error: Error) {
        if self.policy != Verify::Never {
            self.condemn(error);
        }
    }

    /// Whether the member is confirmed or condemned.
    pub(super) fn is_settled(&self) -> bool {
        self.is_confirmed() || self.condemned.get().is_some()
    }

    /// Whether all bytes have been compared and are right.
    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Why the member is not served, if it is condemned.
    pub(super) fn error(&self) -> Option<&Error> {
        self.condemned.get()
    }

    /// Returns `result`, or the error of the member if it has been condemned.
    pub(super) fn judge<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        match self.condemned.get() {
            Some(error) => Err(error.clone()),
            None => result,
        }
    }

    /// Confirms the member: its bytes were compared and are right.
    pub(super) fn confirm(&self) {
        if self.condemned.get().is_none() && !self.confirmed.swap(true, Ordering::Relaxed) {
            self.members.set(self.subject.number, true);
            if let Some((key, index)) = &self.index {
                index.set_verified(*key);
            }
        }
    }

    /// Condemns the member: its bytes are wrong, or wrong bytes may have been served.
    pub(super) fn condemn(&self, error: Error) {
        // While the file is being overwritten, its bytes may look damaged. That is not damage.
        if self.subject.source.check().is_err() || self.condemned.set(error).is_err() {
            return;
        }
        // A wrong saved index may have confirmed the member before.
        self.members.set(self.subject.number, false);
        let inodes = self.inodes.lock().clone();
        let Some(listener) = self.alarm.0.get() else { return };
        for inode in inodes {
            let error = self
                .condemned
                .get()
                .filter(|error| self.failure("read", (*error).clone()).repeats.is_some());
            listener(inode, error);
        }
    }

    /// The failure of `operation` on the member with `error`, and how to log it.
    pub(super) fn failure(&self, operation: &'static str, error: Error) -> Failure {
        self.reports.failure(operation, self.subject.number, error)
    }

    /// Notes that the member is opened as `inode`. If the member is condemned later, the pages of
    /// that inode are dropped. Check after this call whether the member has been condemned already.
    pub(super) fn watch(&self, inode: u64) {
        let mut inodes = self.inodes.lock();
        if !inodes.contains(&inode) {
            inodes.push(inode);
        }
    }
}

#[cfg(test)]
mod tests;
