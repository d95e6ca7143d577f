//! Contents that nobody has open, so many that a program which opens a file three times to map it finds
//! what its first open found out.

use std::sync::Weak;

use lru::LruCache;

use super::OpenContainer;
use crate::{archive::MemberId, sync::Mutex};

/// How many are kept: each takes some 2 KiB. What is worth more than decoding it again (a saved index,
/// damage, a pass under way) stays with its archive in any case.
const MOST: usize = 4096;

/// The contents of all archives that were closed last.
#[derive(Debug)]
pub struct Resting(Mutex<LruCache<(usize, MemberId), Weak<OpenContainer>>>);

impl Default for Resting {
    fn default() -> Self {
        Self(Mutex::new(LruCache::unbounded()))
    }
}

impl Resting {
    /// The content of a member was closed; perhaps another one is dropped for it.
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
