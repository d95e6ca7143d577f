//! Keeps the kernel's references to inodes.
//!
//! An inode lives while its lookup count is above zero; the root always lives. Two live inodes
//! never have the same number, so a page cached for one is never shown for another. While an inode
//! lives, its key gives the same number. The module `number` makes sure that the key gives the same
//! number afterwards.
//!
//! The inodes of an archive have consecutive numbers, in one block. Looking up 10,000 members does
//! not hash 10,000 keys or allocate 10,000 nodes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use super::block::{Block, NodeOf};
use crate::sync::{Condvar, Mutex};

/// An inode number of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ino(pub u64);

impl Ino {
    /// The root of the mount.
    pub(crate) const ROOT: Self = Self(1);
}

/// About how many bytes all inodes of an archive share: the archive's `Version`, and the memory
/// that a `Weak` reference keeps after the archive was closed.
const VERSION: usize = 300;

/// About how many bytes a typical path takes, with the counts of its `Arc`, which the key of the map
/// and the node share.
const PATH: usize = 96;

/// The inodes that the kernel refers to.
pub(super) struct Inodes<K, N> {
    table: Mutex<Table<K, N>>,
    /// Notified when the first open of an inode ends.
    opened: Condvar,
}

struct Table<K, N> {
    by_number: HashMap<Ino, LiveInode<K, N>>,
    by_key: HashMap<Arc<K>, Ino>,
    /// The blocks, by their first inode numbers. No number of a block is in `by_number`.
    blocks: BTreeMap<Ino, (Arc<K>, Block<N>)>,
    /// The sum of [`Block::memory`] over all blocks.
    block_memory: u64,
    /// Inodes whose first open has begun and has not ended.
    opening: HashSet<Ino>,
}

#[derive(Debug)]
struct LiveInode<K, N> {
    /// `None` for the root, which is never looked up.
    key: Option<Arc<K>>,
    node: Arc<N>,
    lookups: u64,
}

impl<K: Eq + Hash, N> Inodes<K, N> {
    pub(super) fn new(root: N) -> Self {
        let entry = LiveInode { key: None, node: Arc::new(root), lookups: 0 };
        let table = Table {
            by_number: HashMap::from([(Ino::ROOT, entry)]),
            by_key: HashMap::new(),
            blocks: BTreeMap::new(),
            block_memory: 0,
            opening: HashSet::new(),
        };
        Self { table: Mutex::new(table), opened: Condvar::new() }
    }

    pub(super) fn get(&self, ino: Ino) -> Option<Arc<N>> {
        let mut table = self.table.lock();
        match table.by_number.get(&ino) {
            Some(entry) => Some(entry.node.clone()),
            None => {
                let (_, place, block) = table.block_of(ino)?;
                block.get(place).map(Arc::new)
            }
        }
    }

    /// The inode of `key`; its lookup count goes up by one. If there is none yet, it is made from
    /// `node` and gets the first free number of `numbers`. Call this before the reply is sent: as
    /// soon as the reply is sent, another thread may serve the FORGET.
    pub(super) fn look_up<I: Iterator<Item = Ino>>(
        &self,
        key: K,
        numbers: impl FnOnce(&K) -> I,
        node: impl FnOnce() -> N,
    ) -> (Ino, Arc<N>) {
        let mut table = self.table.lock();
        let ino = match table.by_key.get(&key) {
            Some(ino) => *ino,
            None => {
                let is_free = |ino: &Ino| !table.by_number.contains_key(ino);
                let ino = numbers(&key).find(is_free).expect("a sequence of numbers has no end");
                let key = Arc::new(key);
                let entry =
                    LiveInode { key: Some(key.clone()), node: Arc::new(node()), lookups: 0 };
                table.by_key.insert(key, ino);
                table.by_number.insert(ino, entry);
                ino
            }
        };
        let entry = table.by_number.get_mut(&ino).expect("by_key names inodes of by_number");
        entry.lookups += 1;
        (ino, entry.node.clone())
    }

    /// The block of `key`, which lives at least as long as the result. If there is none yet, `make`
    /// returns the length of the new block and the function that builds its nodes. The block starts
    /// at the first of `numbers` that has enough free numbers from there on.
    pub(super) fn block<I: Iterator<Item = Ino>>(
        &self,
        key: K,
        numbers: impl FnOnce(&K) -> I,
        make: impl FnOnce() -> (u32, NodeOf<N>),
    ) -> InBlock<'_, K, N> {
        let mut table = self.table.lock();
        let first = match table.by_key.get(&key) {
            Some(first) => *first,
            None => {
                let (len, node_of) = make();
                let is_free = |first: &Ino| table.has_room(*first, len);
                let first = numbers(&key).find(is_free).expect("a sequence of numbers has no end");
                let key = Arc::new(key);
                table.by_key.insert(key.clone(), first);
                let block = Block::new(len, node_of);
                table.block_memory += block.memory();
                table.blocks.insert(first, (key, block));
                first
            }
        };
        if let Some((_, block)) = table.blocks.get_mut(&first) {
            block.users += 1;
        }
        InBlock { inodes: self, first }
    }

    /// Whether `ino` is an inode of a block for which
    /// [`at_first_open`](Self::at_first_open) would call its `work`.
    pub(super) fn was_never_opened(&self, ino: Ino) -> bool {
        let mut table = self.table.lock();
        table.block_of(ino).is_some_and(|(_, place, block)| block.was_never_opened(place))
    }

    /// Calls `work` if `ino`, an inode of a block, is opened for the first time. Other threads that
    /// open the same inode meanwhile wait until `work` has returned.
    pub(super) fn at_first_open(&self, ino: Ino, work: impl FnOnce()) {
        let mut table = self.table.lock();
        while table.opening.contains(&ino) {
            self.opened.wait(&mut table);
        }
        let is_first = table.block_of(ino).is_some_and(|(_, place, block)| block.open(place));
        if !is_first {
            return;
        }
        table.opening.insert(ino);
        drop(table);
        let _opening = Opening { inodes: self, ino };
        work();
    }

    /// The kernel drops `count` references to `ino`.
    pub(super) fn forget(&self, ino: Ino, count: u64) {
        let mut table = self.table.lock();
        let Some(entry) = table.by_number.get_mut(&ino) else {
            if let Some((first, place, _)) = table.block_of(ino) {
                table.change(first, |block| block.forget(place, count));
                table.drop_unused(first);
            }
            return;
        };
        entry.lookups = entry.lookups.saturating_sub(count);
        if entry.lookups == 0 && ino != Ino::ROOT {
            let key = table.by_number.remove(&ino).and_then(|entry| entry.key);
            if let Some(key) = key {
                table.by_key.remove(&key);
            }
            table.shrink();
        }
    }

    /// The number of blocks and of inodes outside blocks, without the root.
    pub(super) fn things(&self) -> usize {
        self.table.lock().by_key.len()
    }

    /// The inode number of `key`, or the first number of its block, if the kernel refers to it.
    pub(super) fn number_of(&self, key: &K) -> Option<Ino> {
        self.table.lock().by_key.get(key).copied()
    }

    /// The node of an inode number, even if the kernel does not refer to that inode but to others
    /// of its block.
    pub(super) fn known(&self, ino: Ino) -> Option<Arc<N>> {
        self.get(ino).or_else(|| {
            let mut table = self.table.lock();
            let (_, place, block) = table.block_of(ino)?;
            Some(Arc::new(block.node(place)))
        })
    }

    /// The nodes of the inodes whose number `is_meant` accepts. A block is accepted by its first
    /// number alone, and gives two nodes: of the first inode to which the kernel refers, and of the
    /// last inode of the block.
    pub(super) fn some(&self, is_meant: impl Fn(Ino) -> bool) -> Vec<Arc<N>> {
        let table = self.table.lock();
        let single = table.by_number.iter().filter(|(ino, _)| is_meant(**ino));
        let single = single.map(|(_, entry)| entry.node.clone());
        let blocks = table.blocks.iter().filter(|(first, _)| is_meant(**first));
        let ends = blocks.flat_map(|(_, (_, block))| {
            let first = block.first_live();
            let last = block.len().checked_sub(1).filter(|last| Some(*last) != first);
            [first, last].into_iter().flatten().filter_map(|place| block.get(place).map(Arc::new))
        });
        single.chain(ends).collect()
    }

    /// About how many bytes of memory are in use.
    pub(super) fn memory(&self) -> u64 {
        let table = self.table.lock();
        // Counts the capacity, because the maps keep the memory of removed entries.
        let single = size_of::<(Ino, LiveInode<K, N>)>() + size_of::<(Arc<K>, Ino)>();
        let things = size_of::<K>() + size_of::<N>() + PATH;
        let capacity = table.by_number.capacity().max(table.by_key.capacity());
        let keys = table.by_key.len();
        let versions = table.blocks.len() * VERSION;
        (capacity * single + keys * things + versions) as u64 + table.block_memory
    }

    /// How many inodes live, and the sum of their lookup counts.
    #[cfg(test)]
    pub(super) fn count(&self) -> (usize, u64) {
        let table = self.table.lock();
        let memory: u64 = table.blocks.values().map(|(_, block)| block.memory()).sum();
        assert_eq!(memory, table.block_memory);
        let single = table.by_number.values().map(|entry| (1, entry.lookups));
        let in_blocks = table.blocks.values().map(|(_, block)| block.count());
        single.chain(in_blocks).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

/// The first open of an inode. Threads that wait for that open continue when this value is dropped.
struct Opening<'a, K: Eq + Hash, N> {
    inodes: &'a Inodes<K, N>,
    ino: Ino,
}

impl<K: Eq + Hash, N> Drop for Opening<'_, K, N> {
    fn drop(&mut self) {
        self.inodes.table.lock().opening.remove(&self.ino);
        self.inodes.opened.notify_all();
    }
}

impl<K: Eq + Hash, N> Table<K, N> {
    /// The block that contains `ino`, with the first number of the block and the place of `ino` in
    /// it.
    fn block_of(&mut self, ino: Ino) -> Option<(Ino, u32, &mut Block<N>)> {
        let (first, (_, block)) = self.blocks.range_mut(..=ino).next_back()?;
        let place = u32::try_from(ino.0 - first.0).ok().filter(|place| *place < block.len())?;
        Some((*first, place, block))
    }

    /// Whether the `len` numbers from `first` on overlap no existing block.
    fn has_room(&self, first: Ino, len: u32) -> bool {
        let end = Ino(first.0.saturating_add(len.max(1).into()));
        let before = self.blocks.range(..end).next_back();
        before.is_none_or(|(before, (_, block))| {
            before.0.saturating_add(block.len().max(1).into()) <= first.0
        })
    }

    /// Calls `change` with the block whose first number is `first`.
    fn change(&mut self, first: Ino, change: impl FnOnce(&mut Block<N>)) {
        if let Some((_, block)) = self.blocks.get_mut(&first) {
            self.block_memory -= block.memory();
            change(block);
            self.block_memory += block.memory();
        }
    }

    fn drop_unused(&mut self, first: Ino) {
        if self.blocks.get(&first).is_some_and(|(_, block)| block.is_unused())
            && let Some((key, block)) = self.blocks.remove(&first)
        {
            self.block_memory -= block.memory();
            self.by_key.remove(&key);
            self.shrink();
        }
    }

    /// Frees memory of maps that are less than a quarter full.
    fn shrink(&mut self) {
        if self.by_number.len() < self.by_number.capacity() / 4 {
            self.by_number.shrink_to(self.by_number.len() * 2);
        }
        if self.by_key.len() < self.by_key.capacity() / 4 {
            self.by_key.shrink_to(self.by_key.len() * 2);
        }
    }
}

/// Keeps a block alive while a thread looks up inodes in it.
pub(super) struct InBlock<'a, K: Eq + Hash, N> {
    inodes: &'a Inodes<K, N>,
    first: Ino,
}

impl<K: Eq + Hash, N> InBlock<'_, K, N> {
    /// The inode at `place` in the block; its lookup count goes up by one, as with
    /// [`Inodes::look_up`].
    pub(super) fn look_up(&self, place: u32) -> Ino {
        self.inodes.table.lock().change(self.first, |block| block.look_up(place));
        self.number(place)
    }

    /// The inode number of `place`, whether or not the inode was looked up.
    pub(super) fn number(&self, place: u32) -> Ino {
        Ino(self.first.0 + u64::from(place))
    }
}

impl<K: Eq + Hash, N> Drop for InBlock<'_, K, N> {
    fn drop(&mut self) {
        let mut table = self.inodes.table.lock();
        if let Some((_, block)) = table.blocks.get_mut(&self.first) {
            block.users -= 1;
        }
        table.drop_unused(self.first);
    }
}

#[cfg(test)]
mod tests;
