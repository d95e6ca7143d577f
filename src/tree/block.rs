//! The inodes of one generation of an archive: a block of consecutive numbers.
//!
//! Takes 24 bytes for each inode the kernel refers to, and as much for each of its neighbours. What
//! an inode stands for is made when somebody asks: most that are listed are never opened.

use std::{fmt, sync::Arc};

/// Makes what the inode at a place stands for; the second argument is what
/// [`look_up`](Block::look_up) was told.
pub(super) type NodeOf<N> = Box<dyn Fn(u32, bool) -> N + Send + Sync>;

/// Inodes whose memory comes and goes together.
const CHUNK: usize = 64;

/// The inodes of a block, by their places in it.
pub(super) struct Block<N> {
    len: u32,
    node_of: NodeOf<N>,
    chunks: Box<[Option<Chunk<N>>]>,
    /// Chunks that are there.
    live: usize,
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
        let chunks = (0..(len as usize).div_ceil(CHUNK)).map(|_| None).collect();
        Self { len, node_of, chunks, live: 0, users: 0 }
    }

    /// The lookup count of the inode at `place` goes up by one.
    pub fn look_up(&mut self, place: u32, npy: bool) {
        let start = place as usize / CHUNK * CHUNK;
        let Some(chunk) = self.chunks.get_mut(start / CHUNK) else { return };
        let chunk = chunk.get_or_insert_with(|| {
            self.live += 1;
            Chunk::new(CHUNK.min(self.len as usize - start))
        });
        let Some(inode) = chunk.inodes.get_mut(place as usize - start) else { return };
        chunk.live += usize::from(inode.lookups == 0);
        inode.lookups += 1;
        inode.npy = npy;
    }

    /// What the inode at `place` stands for, if the kernel refers to it.
    pub fn get(&mut self, place: u32) -> Option<Arc<N>> {
        let chunk = self.chunks.get_mut(place as usize / CHUNK)?.as_mut()?;
        let inode = chunk.inodes.get_mut(place as usize % CHUNK)?;
        if inode.lookups == 0 {
            return None;
        }
        let node = inode.node.get_or_insert_with(|| Arc::new((self.node_of)(place, inode.npy)));
        Some(node.clone())
    }

    /// The kernel drops `count` references.
    pub fn forget(&mut self, place: u32, count: u64) {
        let Some(kept) = self.chunks.get_mut(place as usize / CHUNK) else { return };
        let Some(chunk) = kept else { return };
        let Some(inode) = chunk.inodes.get_mut(place as usize % CHUNK) else { return };
        if inode.lookups == 0 {
            return;
        }
        inode.lookups = inode.lookups.saturating_sub(count);
        if inode.lookups == 0 {
            inode.node = None;
            chunk.live -= 1;
            if chunk.live == 0 {
                *kept = None;
                self.live -= 1;
            }
        }
    }

    /// Whether the kernel refers to none, and nobody is about to look one up.
    pub fn is_unused(&self) -> bool {
        self.live == 0 && self.users == 0
    }

    /// How many inodes live, and the sum of their lookup counts.
    pub fn count(&self) -> (usize, u64) {
        let chunks = || self.chunks.iter().flatten();
        let lookups = chunks().flat_map(|chunk| &chunk.inodes).map(|inode| inode.lookups).sum();
        (chunks().map(|chunk| chunk.live).sum(), lookups)
    }
}

impl<N> Chunk<N> {
    fn new(len: usize) -> Self {
        let inodes = (0..len).map(|_| Inode { lookups: 0, npy: false, node: None }).collect();
        Self { live: 0, inodes }
    }
}

impl<N> fmt::Debug for Block<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("len", &self.len).finish_non_exhaustive()
    }
}
