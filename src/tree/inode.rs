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
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Numbers from `first` on.
    fn from<K>(first: u64) -> impl FnOnce(&K) -> Box<dyn Iterator<Item = Ino>> {
        move |_| Box::new((first..).map(Ino))
    }

    #[test]
    fn forget_of_the_last_lookup_frees_the_inode_and_the_same_thing_gets_its_number_again() {
        let inodes = Inodes::new("root");
        let (first, _) = inodes.look_up("key", from(7), || "node");
        assert_eq!(inodes.look_up("key", from(9), || unreachable!()).0, first);
        inodes.forget(first, 1);
        assert!(inodes.get(first).is_some());
        inodes.forget(first, 1);
        assert!(inodes.get(first).is_none());
        assert_eq!(inodes.look_up("key", from(7), || "node").0, Ino(7));
        assert_eq!(inodes.count(), (2, 1));
    }

    #[test]
    fn two_things_that_live_never_have_one_number() {
        let inodes = Inodes::new("root");
        assert_eq!(inodes.look_up("one", from(1), || "one").0, Ino(2), "the root has 1");
        assert_eq!(inodes.look_up("two", from(2), || "two").0, Ino(3));
        inodes.forget(Ino(2), 1);
        assert_eq!(inodes.look_up("two", from(2), || unreachable!()).0, Ino(3), "while it lives");
        assert_eq!(inodes.get(Ino(3)).as_deref(), Some(&"two"));
    }

    #[test]
    fn blocks_lie_beside_each_other() {
        let inodes = Inodes::new(0);
        let block = |key, first, len: u32| {
            let block = inodes.block(key, from(first), || (len, Box::new(|place| place)));
            let ino = block.look_up(0);
            (block, ino.0)
        };
        let (_one, first) = block("one", 100, 10);
        assert_eq!(first, 100);
        for (key, first, len, wanted) in [
            ("on it", 100, 10, 110),
            ("its last", 109, 1, 120),
            ("around it", 95, 30, 121),
            ("before it", 95, 5, 95),
            ("the number before that", 94, 1, 94),
            ("empty", 99, 0, 151),
        ] {
            let (block, found) = block(key, first, len);
            assert_eq!(found, wanted, "{key}");
            std::mem::forget(block);
        }
    }

    #[test]
    fn what_lies_in_a_block_has_numbers_in_a_row() {
        let inodes = Inodes::new("root".to_owned());
        let block =
            || inodes.block("key", from(5000), || (1000, Box::new(|place| place.to_string())));
        let (first, last) = (block().look_up(0), block().look_up(999));
        assert_eq!((first, last), (Ino(5000), Ino(5999)));
        assert_eq!(inodes.get(last).as_deref(), Some(&"999".to_owned()));
        assert_eq!(inodes.get(Ino(first.0 + 1)), None, "nobody has looked it up");
        assert_eq!(inodes.get(Ino(last.0 + 1)), None, "it is not in the block");
        assert_eq!(block().look_up(999), last);
        assert_eq!(inodes.count(), (3, 3));

        inodes.forget(last, 2);
        inodes.forget(Ino(last.0 - 1), 1);
        assert_eq!(inodes.get(last), None);
        inodes.forget(first, 1);
        assert_eq!(inodes.count(), (1, 0));
        let held = block();
        let again = held.look_up(0);
        inodes.forget(again, 1);
        assert_eq!(held.look_up(0), again, "in use, it stays without any inode");
        drop(held);
        assert_eq!(inodes.get(again).as_deref(), Some(&"0".to_owned()));
    }

    #[test]
    fn who_opens_an_inode_while_it_is_opened_for_the_first_time_waits() {
        let inodes = Inodes::new("root");
        let block = inodes.block("key", from(9), || (3, Box::new(|_| "node")));
        let ino = block.look_up(1);
        let (began, has_begun) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let (told, order) = mpsc::channel();
        let mut was_early = false;
        std::thread::scope(|scope| {
            let (inodes, told_first) = (&inodes, told.clone());
            scope.spawn(move || {
                inodes.at_first_open(ino, || {
                    began.send(()).unwrap();
                    ended.recv().unwrap();
                    told_first.send("first").unwrap();
                });
            });
            has_begun.recv().unwrap();
            let (comes, has_come) = mpsc::channel();
            scope.spawn(move || {
                comes.send(()).unwrap();
                inodes.at_first_open(ino, || unreachable!());
                told.send("second").unwrap();
            });
            has_come.recv().unwrap();
            // Gives the second thread time to send, if it wrongly does not wait.
            (0..1000).for_each(|_| std::thread::yield_now());
            was_early = order.try_recv().is_ok();
            // Another inode does not wait.
            let other = block.look_up(2);
            let mut was_done = false;
            inodes.at_first_open(other, || was_done = true);
            assert!(was_done);
            end.send(()).unwrap();
        });
        assert!(!was_early);
        assert_eq!(order.iter().collect::<Vec<_>>(), ["first", "second"]);
    }

    #[test]
    fn a_block_of_which_nothing_is_left_leaves_nothing() {
        let inodes = Inodes::new("root");
        let empty = inodes.memory();
        for key in 0..100 {
            let block = inodes.block(key, from(1000), || (10, Box::new(|_| "node")));
            assert_eq!(block.number(3), Ino(1003), "those before it are gone");
            if key % 2 == 0 {
                let ino = block.look_up(5);
                drop(block);
                inodes.forget(ino, 1);
            }
        }
        assert_eq!(inodes.memory(), empty);
    }

    #[test]
    fn memory_follows_what_lives() {
        let inodes = Inodes::new(0_u64);
        let empty = inodes.memory();
        let block = inodes.block(u64::MAX, from(1 << 40), || (640, Box::new(u64::from)));
        (0..640).for_each(|place| {
            block.look_up(place);
        });
        let with_block = inodes.memory();
        assert!((640 * 8..640 * 16).contains(&(with_block - empty)), "{with_block}");
        for key in 0..1000 {
            inodes.look_up(key, from(2), || 0);
        }
        let full = inodes.memory();
        assert!((1000 * 64..1000 * 512).contains(&(full - with_block)), "{full}");
        (2..1002).for_each(|ino| inodes.forget(Ino(ino), 1));
        assert!(inodes.memory() < full - 1000 * 64);
    }

    #[test]
    fn the_root_is_never_forgotten() {
        let inodes = Inodes::<(), _>::new("root");
        inodes.forget(Ino::ROOT, 7);
        assert!(inodes.get(Ino::ROOT).is_some());
    }
}
