//! Keeps the contents of members for a while after their last handle was closed. A program that
//! maps a file opens it three times, and its later opens should find what the first open decoded.

use std::sync::Weak;

use lru::LruCache;

use super::OpenContainer;
use crate::{archive::MemberId, sync::Mutex};

/// Most contents that are kept. Each takes about 2 KiB. A content that is costly to build again
/// (large, decoded whole, damaged, or being compared) is kept by its archive in any case.
const MOST: usize = 4096;

/// The most recently closed members of all archives.
#[derive(Debug)]
pub(super) struct Resting(Mutex<LruCache<(usize, MemberId), Weak<OpenContainer>>>);

impl Default for Resting {
    fn default() -> Self {
        Self(Mutex::new(LruCache::unbounded()))
    }
}

impl Resting {
    /// Notes that a handle of a member was closed. May drop the content that was closed longest
    /// ago.
    pub(super) fn closed(&self, archive: &Weak<OpenContainer>, member: MemberId) {
        let mut resting = self.0.lock();
        resting.put((archive.as_ptr().addr(), member), archive.clone());
        let oldest = if resting.len() > MOST { resting.pop_lru() } else { None };
        drop(resting);
        if let Some(((_, member), archive)) = oldest
            && let Some(archive) = archive.upgrade()
        {
            archive.drop_content(member);
        }
    }

    #[cfg(test)]
    pub(super) fn has(&self, archive: &Weak<OpenContainer>, member: MemberId) -> bool {
        self.0.lock().contains(&(archive.as_ptr().addr(), member))
    }
}
