//! `Mutex`, `RwLock` and `Condvar` like those of std, but without poisoning: `lock` returns the
//! guard.
//!
//! std poisons a lock when a thread panics while it holds the lock, since the value may be half
//! changed. In this crate no value can be half changed: code that runs under a lock either cannot
//! panic, or panics only before or after changes that belong together. So a poisoned lock is taken
//! like any other. If a thread panics while others wait for its span, `reader` lets one of them
//! decode it, or answers them with an error. (The product uses `parking_lot`, which would be one
//! more dependency here.)

#[cfg(shuttle)]
use shuttle::sync;
#[cfg(not(shuttle))]
use std::sync;

pub(crate) use sync::{MutexGuard, mpsc};
use sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};

/// A `std::sync::Mutex` that ignores poisoning.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A `std::sync::RwLock` that ignores poisoning.
#[derive(Debug)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::RwLock::new(value))
    }

    /// Waits for the lock and shares it with other readers.
    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the lock and takes it alone.
    #[inline]
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A `std::sync::Condvar` that ignores poisoning.
#[derive(Debug)]
pub(crate) struct Condvar(sync::Condvar);

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(sync::Condvar::new())
    }

    /// Releases the lock of `guard`, waits to be notified, and takes the lock again.
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_under_a_lock_leaves_it_usable() {
        let mutex = Mutex::new(1);
        let panicked = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _guard = mutex.lock();
                panic!("under the lock");
            });
            thread.join().is_err()
        });
        assert!(panicked && *mutex.lock() == 1);
    }
}
