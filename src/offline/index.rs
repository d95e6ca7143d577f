//! Makes the indexes of members ahead of time: what a mount does when a member is read whole.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use super::{Archives, Found, Missing, Progress, members};
use crate::{
    archive::MemberId,
    saved::Indexes,
    serve::{self, Content, OpenContainer, Readiness, Server, Settings},
};

/// Something that cannot be indexed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no archive that can be read.
    Archive(Missing),
    /// A member of an archive: the path of the archive, that of the member in it, if the archive
    /// has many, and why.
    Member(PathBuf, Option<String>, String),
}

/// An archive whose members are being indexed.
struct Archive {
    path: PathBuf,
    is_directory: bool,
    open: Arc<OpenContainer>,
}

/// Saves what is not saved yet, such as that small members are right.
impl Drop for Archive {
    fn drop(&mut self) {
        self.open.save_indexes();
    }
}

/// From this encoded size on, in bytes, a member has an index of its own. It is saved at once.
const LARGE: u64 = 1 << 20;

/// How often the progress of a member is noted.
const STEP: Duration = Duration::from_millis(100);

/// Decodes all members of `archives` that `indexes` does not know yet, on all cores, compares them
/// with their CRC-32 and saves their indexes. Calls `tell` for each failure, in this thread.
/// Returns how many members were known already.
///
/// # Errors
/// When a thread cannot be started.
pub(crate) fn index(
    archives: Archives,
    indexes: Indexes,
    progress: &Progress,
    tell: impl FnMut(Failure),
) -> io::Result<u64> {
    let settings = Settings { indexes: Some(Arc::new(indexes)), ..Settings::default() };
    let server = Server::new(settings)?;
    let known = AtomicU64::new(0);
    let open = |found: Found| Archive {
        path: found.path,
        is_directory: found.format.is_directory(),
        open: OpenContainer::new(found.archive, &server),
    };
    let work = |archive: &Arc<Archive>, id| match pass(&archive.open, id, progress) {
        Ok(true) => {
            if archive.open.container().member(id).encoded_size >= LARGE {
                archive.open.save_indexes();
            }
            None
        }
        Ok(false) => {
            known.fetch_add(1, Ordering::Relaxed);
            None
        }
        Err(error) => {
            let path = || archive.open.container().path_of(id);
            let name = archive.is_directory.then(|| String::from_utf8_lossy(&path()).into_owned());
            Some(Failure::Member(archive.path.clone(), name, error.to_string()))
        }
    };
    members::for_each(archives, progress, open, work, Failure::Archive, tell);
    Ok(known.into_inner())
}

/// Decodes a member to its end. Returns whether there was anything to do.
fn pass(
    archive: &Arc<OpenContainer>,
    id: MemberId,
    progress: &Progress,
) -> Result<bool, serve::Error> {
    let content = archive.content(id)?;
    match content.readiness() {
        // What has to be decoded whole has no index.
        Readiness::Ready | Readiness::Slow(_) => return Ok(false),
        Readiness::Corrupt(_) | Readiness::Unverified { .. } | Readiness::Indexing { .. } => {}
    }
    match decode(&content, progress) {
        // A saved index was wrong, and has been dropped.
        Err(serve::Error::Refuted) => decode(&archive.content(id)?, progress)?,
        result => result?,
    }
    Ok(true)
}

fn decode(content: &Arc<Content>, progress: &Progress) -> Result<(), serve::Error> {
    let mut done = content.verified();
    let (reply, answer) = mpsc::channel();
    content.verify(Box::new(move |result| {
        // The receiver waits.
        _ = reply.send(result.map(drop));
    }));
    let mut note = || {
        let now = content.verified();
        progress.add_bytes(now.saturating_sub(std::mem::replace(&mut done, now)));
    };
    loop {
        let answered = answer.recv_timeout(STEP);
        note();
        match answered {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(serve::Error::from(io::Error::other("its decoder failed")));
            }
        }
    }
}
