//! Contents that no handle has open. They are kept for a while, because a program that opens a file
//! three times to map it should find what its first open found out.

use std::sync::Weak;

use lru::LruCache;

use super::OpenContainer;
use crate::{archive::MemberId, sync::Mutex};

/// Most contents that are kept; each takes about 2 KiB. A content that would be costly to make again
/// (a saved index, known damage, a pass under way) stays with its archive in any case.
const MOST: usize = 4096;

/// The most recently closed contents of all archives.
#[derive(Debug)]
pub struct Resting(Mutex<LruCache<(usize, MemberId), Weak<OpenContainer>>>);

impl Default for Resting {
    fn default() -> Self {
        Self(Mutex::new(LruCache::unbounded()))
    }
}

impl Resting {
    /// Notes that the content of a member was closed. May drop the oldest.
    pub fn closed(&self, archive: &Weak<OpenContainer>, member: MemberId) {
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
