//! Keeps the kernel's references to inodes.
//!
//! An inode lives while its lookup count is above zero; the root always. A number is never given to
//! another thing, so a page cached under one can never be shown under another. While an inode
//! lives, the same key gives the same number.
//!
//! What lies in an archive has its numbers in one block, so that entering 10,000 members hashes no
//! 10,000 keys and allocates no 10,000 nodes.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::block::{Block, NodeOf};

/// An inode number of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the mount.
    pub const ROOT: Self = Self(1);
}

/// The inodes that the kernel refers to.
#[derive(Debug)]
pub(super) struct Inodes<K, N>(Mutex<Table<K, N>>);

#[derive(Debug)]
struct Table<K, N> {
    by_number: HashMap<Ino, Entry<K, N>>,
    by_key: HashMap<Arc<K>, Ino>,
    /// By their first numbers.
    blocks: BTreeMap<Ino, (Arc<K>, Block<N>)>,
    next: u64,
}

#[derive(Debug)]
struct Entry<K, N> {
    /// `None` for the root, which is never looked up.
    key: Option<Arc<K>>,
    node: Arc<N>,
    lookups: u64,
}

impl<K: Eq + Hash, N> Inodes<K, N> {
    pub fn new(root: N) -> Self {
        let entry = Entry { key: None, node: Arc::new(root), lookups: 0 };
        let by_number = HashMap::from([(Ino::ROOT, entry)]);
        Self(Mutex::new(Table {
            by_number,
            by_key: HashMap::new(),
            blocks: BTreeMap::new(),
            next: Ino::ROOT.0 + 1,
        }))
    }

    // No code that can panic runs under this lock; a poisoned one is still whole.
    fn table(&self) -> MutexGuard<'_, Table<K, N>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, ino: Ino) -> Option<Arc<N>> {
        let mut table = self.table();
        match table.by_number.get(&ino) {
            Some(entry) => Some(entry.node.clone()),
            None => {
                let (_, place, block) = table.block_of(ino)?;
                block.get(place)
            }
        }
    }

    /// The inode of `key`, made from `node` if there is none; its lookup count goes up by one. Call
    /// it before the reply is sent: the moment it is, another thread may be serving the FORGET.
    pub fn look_up(&self, key: K, node: impl FnOnce() -> N) -> (Ino, Arc<N>) {
        let mut table = self.table();
        let ino = match table.by_key.get(&key) {
            Some(ino) => *ino,
            None => {
                let ino = Ino(table.next);
                table.next += 1;
                let key = Arc::new(key);
                let entry = Entry { key: Some(key.clone()), node: Arc::new(node()), lookups: 0 };
                table.by_key.insert(key, ino);
                table.by_number.insert(ino, entry);
                ino
            }
        };
        let entry = table.by_number.get_mut(&ino).expect("by_key names inodes of by_number");
        entry.lookups += 1;
        (ino, entry.node.clone())
    }

    /// The block of `key`, which stays while the result is kept. `make` says how many numbers it
    /// has, and what each stands for, if there is none yet.
    pub fn block(&self, key: K, make: impl FnOnce() -> (u32, NodeOf<N>)) -> InBlock<'_, K, N> {
        let mut table = self.table();
        let first = match table.by_key.get(&key) {
            Some(first) => *first,
            None => {
                let first = Ino(table.next);
                let (len, node_of) = make();
                table.next += u64::from(len);
                let key = Arc::new(key);
                table.by_key.insert(key.clone(), first);
                table.blocks.insert(first, (key, Block::new(len, node_of)));
                first
            }
        };
        if let Some((_, block)) = table.blocks.get_mut(&first) {
            block.users += 1;
        }
        InBlock { inodes: self, first }
    }

    /// The kernel drops `count` references.
    pub fn forget(&self, ino: Ino, count: u64) {
        let mut table = self.table();
        let Some(entry) = table.by_number.get_mut(&ino) else {
            if let Some((first, place, block)) = table.block_of(ino) {
                block.forget(place, count);
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
        }
    }

    /// How many inodes live, and the sum of their lookup counts.
    pub fn count(&self) -> (usize, u64) {
        let table = self.table();
        let single = table.by_number.values().map(|entry| (1, entry.lookups));
        let in_blocks = table.blocks.values().map(|(_, block)| block.count());
        single.chain(in_blocks).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

impl<K: Eq + Hash, N> Table<K, N> {
    /// The block that `ino` may lie in, with its first number and the place in it.
    fn block_of(&mut self, ino: Ino) -> Option<(Ino, u32, &mut Block<N>)> {
        let (first, (_, block)) = self.blocks.range_mut(..=ino).next_back()?;
        Some((*first, u32::try_from(ino.0 - first.0).ok()?, block))
    }

    fn drop_unused(&mut self, first: Ino) {
        if self.blocks.get(&first).is_some_and(|(_, block)| block.is_unused())
            && let Some((key, _)) = self.blocks.remove(&first)
        {
            self.by_key.remove(&key);
        }
    }
}

/// A block in use.
#[derive(Debug)]
pub(super) struct InBlock<'a, K: Eq + Hash, N> {
    inodes: &'a Inodes<K, N>,
    first: Ino,
}

impl<K: Eq + Hash, N> InBlock<'_, K, N> {
    /// The inode at `place`, one of the block's; its lookup count goes up by one, as by
    /// [`Inodes::look_up`].
    pub fn look_up(&self, place: u32, npy: bool) -> Ino {
        if let Some((_, block)) = self.inodes.table().blocks.get_mut(&self.first) {
            block.look_up(place, npy);
        }
        Ino(self.first.0 + u64::from(place))
    }
}

impl<K: Eq + Hash, N> Drop for InBlock<'_, K, N> {
    fn drop(&mut self) {
        let mut table = self.inodes.table();
        if let Some((_, block)) = table.blocks.get_mut(&self.first) {
            block.users -= 1;
        }
        table.drop_unused(self.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forget_of_the_last_lookup_frees_the_inode_and_its_number_is_not_used_again() {
        let inodes = Inodes::new("root");
        let (first, _) = inodes.look_up("key", || "node");
        assert_eq!(inodes.look_up("key", || unreachable!()).0, first);
        inodes.forget(first, 1);
        assert!(inodes.get(first).is_some());
        inodes.forget(first, 1);
        assert!(inodes.get(first).is_none());
        let (second, _) = inodes.look_up("key", || "node");
        assert!(second > first);
        assert_eq!(inodes.count(), (2, 1));
    }

    #[test]
    fn what_lies_in_a_block_has_numbers_in_a_row_that_are_not_used_again() {
        let inodes = Inodes::new("root".to_owned());
        let block = || inodes.block("key", || (1000, Box::new(|place, _| place.to_string())));
        let (first, last) = (block().look_up(0, false), block().look_up(999, false));
        assert_ne!(
            inodes.get(first).as_deref(),
            None,
            "a block lives while one of its inodes does"
        );
        let (single, _) = inodes.look_up("other", || "single".to_owned());
        assert_eq!((last.0 - first.0, single.0 - last.0), (999, 1));
        assert_eq!(inodes.get(last).as_deref(), Some(&"999".to_owned()));
        assert_eq!(inodes.get(Ino(first.0 + 1)), None, "nobody has looked it up");
        assert_eq!(block().look_up(999, false), last);
        assert_eq!(inodes.count(), (4, 4));

        inodes.forget(last, 2);
        inodes.forget(Ino(last.0 - 1), 1);
        assert_eq!(inodes.get(last), None);
        inodes.forget(first, 1);
        assert_eq!(inodes.count(), (2, 1));
        let held = block();
        let again = held.look_up(0, false);
        assert!(again > single);
        inodes.forget(again, 1);
        assert_eq!(held.look_up(0, false), again, "in use, it stays without any inode");
        drop(held);
        assert_eq!(inodes.get(again).as_deref(), Some(&"0".to_owned()));
    }

    #[test]
    fn the_root_is_never_forgotten() {
        let inodes = Inodes::<(), _>::new("root");
        inodes.forget(Ino::ROOT, 7);
        assert!(inodes.get(Ino::ROOT).is_some());
    }
}
