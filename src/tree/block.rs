//! The inodes of one generation of an archive: a block of consecutive numbers.
//!
//! Takes 24 bytes for each inode the kernel refers to, and as much for each of its neighbours, and
//! nothing for the others: one large archive may lie under many names. What an inode stands for is
//! made when somebody asks: most that are listed are never opened.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// Makes what the inode at a place stands for; the second argument is what
/// [`look_up`](Block::look_up) was told.
pub(super) type NodeOf<N> = Box<dyn Fn(u32, bool) -> N + Send + Sync>;

/// Inodes whose memory comes and goes together.
const CHUNK: u32 = 64;

/// The inodes of a block, by their places in it.
pub(super) struct Block<N> {
    len: u32,
    node_of: NodeOf<N>,
    /// By their first places over `CHUNK`, those with inodes that live.
    chunks: BTreeMap<u32, Chunk<N>>,
    /// Those who are about to look something up.
    pub users: usize,
}

struct Chunk<N> {
    /// Inodes with a lookup count above zero.
    live: usize,
    inodes: Box<[Inode<N>]>,
}

struct Inode<N> {
    lookups: u64,
    /// Whether it has the name of a `.npy`.
    npy: bool,
    /// Once somebody has asked, and until it is forgotten.
    node: Option<Arc<N>>,
}

impl<N> Block<N> {
    pub fn new(len: u32, node_of: NodeOf<N>) -> Self {
        Self { len, node_of, chunks: BTreeMap::new(), users: 0 }
    }

    /// The lookup count of the inode at `place` goes up by one.
    pub fn look_up(&mut self, place: u32, npy: bool) {
        if place >= self.len {
            return;
        }
        let start = place / CHUNK * CHUNK;
        let chunk = self.chunks.entry(place / CHUNK);
        let chunk = chunk.or_insert_with(|| Chunk::new(CHUNK.min(self.len - start)));
        let Some(inode) = chunk.inodes.get_mut((place - start) as usize) else { return };
        chunk.live += usize::from(inode.lookups == 0);
        inode.lookups += 1;
        inode.npy = npy;
    }

    /// What the inode at `place` stands for, if the kernel refers to it.
    pub fn get(&mut self, place: u32) -> Option<Arc<N>> {
        let chunk = self.chunks.get_mut(&(place / CHUNK))?;
        let inode = chunk.inodes.get_mut((place % CHUNK) as usize)?;
        if inode.lookups == 0 {
            return None;
        }
        let node = inode.node.get_or_insert_with(|| Arc::new((self.node_of)(place, inode.npy)));
        Some(node.clone())
    }

    /// The kernel drops `count` references.
    pub fn forget(&mut self, place: u32, count: u64) {
        let Some(chunk) = self.chunks.get_mut(&(place / CHUNK)) else { return };
        let Some(inode) = chunk.inodes.get_mut((place % CHUNK) as usize) else { return };
        if inode.lookups == 0 {
            return;
        }
        inode.lookups = inode.lookups.saturating_sub(count);
        if inode.lookups == 0 {
            inode.node = None;
            chunk.live -= 1;
            if chunk.live == 0 {
                self.chunks.remove(&(place / CHUNK));
            }
        }
    }

    /// Whether the kernel refers to none, and nobody is about to look one up.
    pub fn is_unused(&self) -> bool {
        self.chunks.is_empty() && self.users == 0
    }

    /// How many inodes live, and the sum of their lookup counts.
    pub fn count(&self) -> (usize, u64) {
        let chunks = || self.chunks.values();
        let lookups = chunks().flat_map(|chunk| &chunk.inodes).map(|inode| inode.lookups).sum();
        (chunks().map(|chunk| chunk.live).sum(), lookups)
    }
}

impl<N> Chunk<N> {
    fn new(len: u32) -> Self {
        let inodes = (0..len).map(|_| Inode { lookups: 0, npy: false, node: None }).collect();
        Self { live: 0, inodes }
    }
}

impl<N> fmt::Debug for Block<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_memory_for_what_is_referred_to_and_not_for_its_length() {
        let mut block = Block::new(u32::MAX, Box::new(|place, npy| (place, npy)));
        let last = u32::MAX - 1;
        block.look_up(0, false);
        block.look_up(last, true);
        assert_eq!(block.get(last).as_deref(), Some(&(last, true)));
        assert_eq!((block.chunks.len(), block.count()), (2, (2, 2)));
        block.look_up(u32::MAX, false);
        assert_eq!(block.get(u32::MAX), None, "it is beyond the end");
        block.forget(u32::MAX, 1);
        block.forget(last, 1);
        block.forget(last, 1);
        assert_eq!((block.chunks.len(), block.count()), (1, (1, 1)));
        block.forget(0, 1);
        assert!(block.is_unused());
    }
}
