//! Keeps the contents of members for a while after they were used last. A program that maps a file
//! opens it three times, and its later opens should find what the first open decoded.

use std::sync::Weak;

use lru::LruCache;

use super::OpenContainer;
use crate::{archive::MemberId, sync::Mutex};

/// Most contents that are kept. Each takes about 2 KiB. A content that is costly to build again
/// (large, decoded whole, damaged, or being compared) is kept by its archive in any case.
pub(super) const MOST: usize = 4096;

/// The members of all archives whose contents were built, or whose open files were closed, last.
#[derive(Debug)]
pub(super) struct Resting(Mutex<LruCache<(usize, MemberId), Weak<OpenContainer>>>);

impl Default for Resting {
    fn default() -> Self {
        Self(Mutex::new(LruCache::unbounded()))
    }
}

impl Resting {
    /// Notes that the content of a member was built, or that an open file of it was closed. May
    /// drop the content that was noted longest ago, unless an open file uses it: its close notes it
    /// again.
    pub(super) fn note(&self, archive: &Weak<OpenContainer>, member: MemberId) {
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
}
