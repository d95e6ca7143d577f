//! Locks without poisoning.
//!
//! std poisons a lock when a thread panics while it holds the lock, since the value may be half
//! changed. In this crate no value can be half changed: code that runs under a lock either cannot
//! panic, or panics only before or after changes that belong together. So after a panic a lock is
//! taken like any other. The panic itself ends one request (EIO) or one task, not the mount.

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
