//! Keeps the kernel's references to inodes.
//!
//! An inode lives while its lookup count is above zero; the root always. Numbers are never used
//! again, so a page cached under one can never be shown under another. While an inode lives, the
//! same key gives the same number.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

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
        Self(Mutex::new(Table { by_number, by_key: HashMap::new(), next: Ino::ROOT.0 + 1 }))
    }

    // No code that can panic runs under this lock; a poisoned one is still whole.
    fn table(&self) -> MutexGuard<'_, Table<K, N>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, ino: Ino) -> Option<Arc<N>> {
        Some(self.table().by_number.get(&ino)?.node.clone())
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

    /// The kernel drops `count` references.
    pub fn forget(&self, ino: Ino, count: u64) {
        let mut table = self.table();
        let Some(entry) = table.by_number.get_mut(&ino) else { return };
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
        (table.by_number.len(), table.by_number.values().map(|entry| entry.lookups).sum())
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
    fn the_root_is_never_forgotten() {
        let inodes = Inodes::<(), _>::new("root");
        inodes.forget(Ino::ROOT, 7);
        assert!(inodes.get(Ino::ROOT).is_some());
    }
}
