//! The inodes of one generation of an archive: a block of consecutive numbers.
//!
//! Takes 9 bytes for each inode that the kernel refers to, and as much for each of its neighbours, and
//! nothing for the others: one large archive may lie under many names. What an inode stands for is
//! made each time somebody asks.

use std::{collections::BTreeMap, fmt};

/// Makes what the inode at a place stands for.
pub(super) type NodeOf<N> = Box<dyn Fn(u32) -> N + Send + Sync>;

/// Inodes whose memory comes and goes together.
const CHUNK: u32 = 64;

/// The inodes of a block, by their places in it.
pub(super) struct Block<N> {
    len: u32,
    node_of: NodeOf<N>,
    /// By their first places over `CHUNK`, those with inodes that live.
    chunks: BTreeMap<u32, Chunk>,
    /// Those who are about to look something up.
    pub users: usize,
}

struct Chunk {
    /// Inodes with a lookup count above zero.
    live: usize,
    /// A bit for each inode: whether it has been opened.
    opened: u64,
    lookups: Box<[u64]>,
}

impl<N> Block<N> {
    pub fn new(len: u32, node_of: NodeOf<N>) -> Self {
        Self { len, node_of, chunks: BTreeMap::new(), users: 0 }
    }

    /// How many numbers it has.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// The lookup count of the inode at `place` goes up by one.
    pub fn look_up(&mut self, place: u32) {
        if place >= self.len {
            return;
        }
        let start = place / CHUNK * CHUNK;
        let chunk = self.chunks.entry(place / CHUNK);
        let chunk = chunk.or_insert_with(|| Chunk::new(CHUNK.min(self.len - start)));
        let Some(lookups) = chunk.lookups.get_mut((place - start) as usize) else { return };
        chunk.live += usize::from(*lookups == 0);
        *lookups += 1;
    }

    /// What the inode at `place` stands for, if the kernel refers to it.
    pub fn get(&self, place: u32) -> Option<N> {
        let lookups = self.chunks.get(&(place / CHUNK))?.lookups.get((place % CHUNK) as usize)?;
        (*lookups > 0).then(|| (self.node_of)(place))
    }

    /// Notes that the inode at `place` is opened; whether it was not before, as far as is known.
    pub fn open(&mut self, place: u32) -> bool {
        let Some(chunk) = self.chunks.get_mut(&(place / CHUNK)) else { return false };
        let bit = 1 << (place % CHUNK);
        let is_first = chunk.opened & bit == 0;
        chunk.opened |= bit;
        is_first
    }

    /// The kernel drops `count` references.
    pub fn forget(&mut self, place: u32, count: u64) {
        let Some(chunk) = self.chunks.get_mut(&(place / CHUNK)) else { return };
        let Some(lookups) = chunk.lookups.get_mut((place % CHUNK) as usize) else { return };
        if *lookups == 0 {
            return;
        }
        *lookups = lookups.saturating_sub(count);
        if *lookups == 0 {
            chunk.opened &= !(1 << (place % CHUNK));
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

    /// Bytes it takes, about, without those of what `node_of` holds.
    pub fn memory(&self) -> u64 {
        // A BTreeMap's nodes are two thirds full where keys come in order or at random.
        let chunk = size_of::<(u32, Chunk)>() * 3 / 2 + size_of::<[u64; CHUNK as usize]>();
        (size_of::<Self>() + self.chunks.len() * chunk) as u64
    }

    /// How many inodes live, and the sum of their lookup counts.
    pub fn count(&self) -> (usize, u64) {
        let chunks = || self.chunks.values();
        (chunks().map(|chunk| chunk.live).sum(), chunks().flat_map(|chunk| &chunk.lookups).sum())
    }
}

impl Chunk {
    fn new(len: u32) -> Self {
        Self { live: 0, opened: 0, lookups: vec![0; len as usize].into() }
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
    fn only_chunks_with_inodes_that_live_take_memory() {
        let mut block = Block::new(u32::MAX, Box::new(|place| place));
        for place in [0, 63, 64, u32::MAX - 1] {
            block.look_up(place);
        }
        block.look_up(u32::MAX);
        assert_eq!((block.chunks.len(), block.count()), (3, (4, 4)));
        assert_eq!([0, 1, 64].map(|place| block.get(place)), [Some(0), None, Some(64)]);
        block.forget(1, 1);
        for place in [0, 63] {
            assert_eq!(block.count().0, 4 - place as usize / 63);
            block.forget(place, 1);
        }
        assert_eq!((block.chunks.len(), block.count()), (2, (2, 2)));
        block.forget(64, 5);
        block.forget(u32::MAX - 1, 1);
        assert!(block.is_unused());
    }

    #[test]
    fn two_and_a_half_million_members_that_live_take_less_than_40_mib() {
        let mut block = Block::new(2_500_000, Box::new(|place| place));
        let empty = block.memory();
        (0..2_500_000).for_each(|place| block.look_up(place));
        let full = block.memory();
        assert!((2_500_000 * 8..40 << 20).contains(&full), "{full}");
        (0..2_500_000).for_each(|place| block.forget(place, 1));
        assert_eq!(block.memory(), empty);
    }

    #[test]
    fn an_inode_is_opened_first_once_until_it_is_forgotten() {
        let mut block = Block::new(100, Box::new(|place| place));
        assert!(!block.open(7), "nobody refers to it");
        block.look_up(7);
        block.look_up(8);
        assert_eq!([7, 7, 8].map(|place| block.open(place)), [true, false, true]);
        block.forget(7, 1);
        block.look_up(7);
        assert_eq!([7, 8].map(|place| block.open(place)), [true, false]);
    }
}
