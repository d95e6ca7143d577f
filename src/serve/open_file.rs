//! One open file of a member: its content, and the pattern of the reads of this handle.
//!
//! A read uses the decoded copy if there is one, else the content. The pattern of the reads decides
//! which spans are decoded before they are requested, and which spans are given up. Knows nothing
//! of inodes, except the number that it passes on for an alarm.

use std::{fs::File, ops::Range, sync::Arc};

use super::{
    Asker, Content, Failure, OpenContainer, content::Encoding, copy::CopyHandle, pattern::Pattern,
};
use crate::sync::Mutex;

/// An open file of a member.
pub(crate) struct OpenFile {
    content: Arc<Content>,
    /// Keeps the container, and so its generation of the archive file, open as long as this file.
    container: Arc<OpenContainer>,
    copy: CopyHandle,
    pattern: Mutex<Pattern>,
}

/// Drops speculatively decoded spans. From now on, the content may be dropped as well. (An open
/// file ends in more ways than by a close: it may never get a handle, or a task may use it longer
/// than its handle lives.)
impl Drop for OpenFile {
    fn drop(&mut self) {
        self.content.closed();
        self.container.rest(self.content.number());
    }
}

/// The file that the kernel may read itself (passthrough), in place of an open file.
#[derive(Debug)]
pub(crate) enum Backing {
    /// There is no such file, and there will be none.
    Never,
    /// There is no such file now. A later open of the same inode may find one.
    NotYet,
    /// A file with the same bytes as the open file.
    File(Arc<File>),
}

/// The result of opening a member.
pub(crate) enum MemberOpening {
    /// The open file, and the file that passthrough may read instead.
    Open(OpenFile, Backing),
    /// The content must be [verified](Content::verify) before the member can be opened.
    Unverified(Arc<Content>),
}

impl OpenFile {
    /// Opens `content`, a member of `container`, as `inode`.
    ///
    /// # Errors
    /// When the member is known to be damaged.
    pub(crate) fn open(
        content: Arc<Content>,
        container: Arc<OpenContainer>,
        inode: u64,
    ) -> Result<MemberOpening, Failure> {
        content.watch(inode);
        let copy = CopyHandle::default();
        let copied = content.open_copy(&copy);
        // A copy was compared with the CRC-32 when it was made.
        let must_be_verified = copied.is_none() && content.must_be_verified();
        if let Some(damage) = content.damage() {
            return Err(content.failure("open", damage));
        }
        if must_be_verified {
            return Ok(MemberOpening::Unverified(content));
        }
        let backing = match copied {
            Some(file) => Backing::File(file),
            None if content.may_be_copied() => Backing::NotYet,
            None => Backing::Never,
        };
        let file = Self { content, container, copy, pattern: Mutex::default() };
        Ok(MemberOpening::Open(file, backing))
    }

    /// The content, which all handles of the member share.
    pub(crate) fn content(&self) -> &Arc<Content> {
        &self.content
    }

    /// The address of the container. Two open files with the same address share one file
    /// descriptor.
    pub(crate) fn container_address(&self) -> usize {
        Arc::as_ptr(&self.container).addr()
    }

    /// Queues the decoding of `range`, as far as it lies within the member. No effect if the handle
    /// reads a copy, or if the member is not deflated.
    pub(super) fn read_ahead(&self, range: Range<u64>) {
        let range = range.start..range.end.min(self.content.size());
        if let (Encoding::Deflated(deflated), None) =
            (&self.content.bytes, self.content.copy(&self.copy))
            && !range.is_empty()
        {
            deflated.read_ahead(range);
        }
    }

    /// Calls `reply` with the bytes from `offset`: `size` of them, or fewer at the end of the
    /// member. `reply` is called before this returns if the bytes are available, else from another
    /// thread. `asker` is the thread that waits for the bytes.
    ///
    /// Starts the read-ahead of a sequential reader. Gives up spans that the kernel has already
    /// got: no byte is then kept twice, and their buffers are used again. (With fresh buffers, a
    /// pass over 256 MiB of labels ran at 1488 MB/s instead of 1656.)
    pub(crate) fn read(
        &self,
        asker: Asker,
        offset: u64,
        size: u32,
        reply: impl FnOnce(Result<&[u8], Failure>) + Send + 'static,
    ) {
        let content = self.content.clone();
        let reply = move |result: Result<&[u8], _>| {
            reply(result.map_err(|error| content.failure("read", error)));
        };
        let copy = self.content.copy(&self.copy);
        let (Encoding::Deflated(deflated), None) = (&self.content.bytes, copy) else {
            return self.content.read(copy, asker, offset, size, reply);
        };
        let prediction = self.pattern.lock().follow(offset, size.into(), self.content.read_ahead);
        if let Some(range) = prediction.passed {
            deflated.give_up(range);
        }
        if let Some(range) = prediction.read_ahead {
            self.read_ahead(range);
        }
        self.content.read(None, asker, offset, size, reply);
        // This comes last, so that its tasks come after the read itself in the queue of the pool.
        deflated.read_beside(prediction.strides);
    }
}

#[cfg(test)]
mod tests;
