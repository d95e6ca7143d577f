//! Work on all cores.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// What `of` returns for each of the numbers below `count`, in order. Calls it from a thread on
/// each core if there are many numbers.
pub(super) fn map<T: Send>(count: usize, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
    /// So few are done before another thread has started.
    const FEW: usize = 64;
    if count <= FEW {
        return (0..count).map(of).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let taken = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < count);
        std::iter::from_fn(taken).map(|number| (number, of(number))).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores()).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it does not panic")).collect()
    });
    all.sort_unstable_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, result)| result).collect()
}

/// The number of cores that this process may use.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_in_the_order_of_the_numbers() {
        for count in [0, 1, 64, 65, 10_000] {
            let squares: Vec<_> = (0..count).map(|number| number * number).collect();
            assert_eq!(super::map(count, |number| number * number), squares);
        }
    }
}
