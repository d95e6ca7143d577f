//! The inodes of one generation of an archive: a block of consecutive numbers.
//!
//! A chunk of 64 inodes takes 9 bytes an inode if the kernel refers to any of them, else none. This
//! matters because one large archive may lie under many names. The node of an inode is built each
//! time it is needed.

/// Builds the node of the inode at a place of the block.
pub(super) type NodeOf<N> = Box<dyn Fn(u32) -> N + Send + Sync>;

/// How many inodes share one allocation.
const CHUNK: u32 = 64;

/// The inodes of a block. The place of an inode is its index in the block.
pub(super) struct Block<N> {
    len: u32,
    node_of: NodeOf<N>,
    /// Chunks with live inodes, in the order of their places. A vector, because most archives have
    /// one chunk, for which a map would take more memory. Inserting is cheap enough: while a
    /// million members are looked up in any order, each of the 15,000 chunks that are inserted
    /// moves at most half a MiB.
    chunks: Vec<Chunk>,
    /// How many threads are about to look up inodes in this block.
    pub users: usize,
}

struct Chunk {
    /// The place of the first inode, divided by `CHUNK`.
    number: u32,
    /// How many inodes have a lookup count above zero.
    live: u32,
    /// One bit for each inode: whether it was opened since the kernel refers to it.
    opened: u64,
    lookups: Box<[u64]>,
}

impl<N> Block<N> {
    pub(super) fn new(len: u32, node_of: NodeOf<N>) -> Self {
        Self { len, node_of, chunks: Vec::new(), users: 0 }
    }

    /// How many inode numbers the block has.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// The lookup count of the inode at `place` goes up by one.
    pub(super) fn look_up(&mut self, place: u32) {
        if place >= self.len {
            return;
        }
        let number = place / CHUNK;
        let at = match self.find(place) {
            Ok(at) => at,
            Err(at) => {
                if self.chunks.is_empty() {
                    self.chunks.reserve_exact(1);
                }
                self.chunks.insert(at, Chunk::new(number, CHUNK.min(self.len - number * CHUNK)));
                at
            }
        };
        let chunk = &mut self.chunks[at];
        let lookups = &mut chunk.lookups[(place % CHUNK) as usize];
        chunk.live += u32::from(*lookups == 0);
        *lookups += 1;
    }

    /// The index in `chunks` of the chunk of `place`; `Err` with the index to insert it at if there
    /// is none.
    fn find(&self, place: u32) -> Result<usize, usize> {
        self.chunks.binary_search_by_key(&(place / CHUNK), |chunk| chunk.number)
    }

    fn chunk(&mut self, place: u32) -> Option<&mut Chunk> {
        let at = self.find(place).ok()?;
        Some(&mut self.chunks[at])
    }

    /// The node of the inode at `place`, if the kernel refers to the inode.
    pub(super) fn get(&self, place: u32) -> Option<N> {
        let chunk = &self.chunks[self.find(place).ok()?];
        let lookups = chunk.lookups.get((place % CHUNK) as usize)?;
        (*lookups > 0).then(|| (self.node_of)(place))
    }

    /// The first place whose inode the kernel refers to.
    pub(super) fn first_live(&self) -> Option<u32> {
        let chunk = self.chunks.first()?;
        let place = chunk.lookups.iter().position(|lookups| *lookups > 0)?;
        Some(chunk.number * CHUNK + place as u32)
    }

    /// The node of the inode at `place`, whether or not the kernel refers to the inode.
    pub(super) fn node(&self, place: u32) -> N {
        (self.node_of)(place)
    }

    /// Notes that the inode at `place` is opened. Returns whether this is the first open since the
    /// kernel refers to the inode.
    pub(super) fn open(&mut self, place: u32) -> bool {
        let Some(chunk) = self.chunk(place) else { return false };
        let bit = 1 << (place % CHUNK);
        let is_first = chunk.opened & bit == 0;
        chunk.opened |= bit;
        is_first
    }

    /// Whether an [`open`](Self::open) of the inode at `place` would be the first.
    pub(super) fn was_never_opened(&mut self, place: u32) -> bool {
        self.chunk(place).is_some_and(|chunk| chunk.opened & (1 << (place % CHUNK)) == 0)
    }

    /// The kernel drops `count` references to the inode at `place`.
    pub(super) fn forget(&mut self, place: u32, count: u64) {
        let Ok(at) = self.find(place) else { return };
        let chunk = &mut self.chunks[at];
        let Some(lookups) = chunk.lookups.get_mut((place % CHUNK) as usize) else { return };
        if *lookups == 0 {
            return;
        }
        *lookups = lookups.saturating_sub(count);
        if *lookups == 0 {
            chunk.opened &= !(1 << (place % CHUNK));
            chunk.live -= 1;
            if chunk.live == 0 {
                self.chunks.remove(at);
                if self.chunks.len() < self.chunks.capacity() / 4 {
                    self.chunks.shrink_to_fit();
                }
            }
        }
    }

    /// Whether the kernel refers to none of the inodes, and no thread is about to look one up.
    pub(super) fn is_unused(&self) -> bool {
        self.chunks.is_empty() && self.users == 0
    }

    /// About how many bytes of memory the block takes, without those that `node_of` holds.
    pub(super) fn memory(&self) -> u64 {
        let chunks = size_of::<Chunk>() * self.chunks.capacity();
        let lookups = size_of::<u64>() * CHUNK.min(self.len) as usize * self.chunks.len();
        (size_of::<Self>() + chunks + lookups) as u64
    }

    /// The number of live inodes, and the sum of their lookup counts.
    #[cfg(test)]
    pub(super) fn count(&self) -> (usize, u64) {
        let live: u32 = self.chunks.iter().map(|chunk| chunk.live).sum();
        (live as usize, self.chunks.iter().flat_map(|chunk| &chunk.lookups).sum())
    }
}

impl Chunk {
    fn new(number: u32, len: u32) -> Self {
        Self { number, live: 0, opened: 0, lookups: vec![0; len as usize].into() }
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
        assert!(block.memory() < empty + 1000, "{}", block.memory());
    }

    #[test]
    fn an_inode_is_opened_first_once_until_it_is_forgotten() {
        let mut block = Block::new(100, Box::new(|place| place));
        assert!(!block.open(7), "nobody refers to it");
        block.look_up(7);
        block.look_up(8);
        assert_eq!([7, 99].map(|place| block.was_never_opened(place)), [true, false]);
        assert_eq!([7, 7, 8].map(|place| block.open(place)), [true, false, true]);
        assert!(!block.was_never_opened(7));
        block.forget(7, 1);
        block.look_up(7);
        assert_eq!([7, 8].map(|place| block.open(place)), [true, false]);
    }
}
