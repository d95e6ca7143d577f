//! A bounded pool of threads with one queue.

use std::{
    collections::VecDeque,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

type Task = Box<dyn FnOnce() + Send>;

/// Threads that run tasks in the order they come. Dropping it finishes the queue and joins them.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// Puts tasks into a pool; does not keep its threads alive.
#[derive(Debug, Clone)]
pub struct Spawner(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// Threads that wait for a task, or have been woken for one of `tasks`.
    idle: usize,
    closed: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Pool {
    pub fn new(name: &str, threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), more: Condvar::new() });
        let threads = (0..threads)
            .map(|number| {
                let shared = shared.clone();
                thread::Builder::new().name(format!("{name}-{number}")).spawn(move || shared.work())
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { shared, threads })
    }

    pub fn spawner(&self) -> Spawner {
        Spawner(self.shared.clone())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            // The last owner may have been a task: its own thread ends by itself.
            if thread.thread().id() == thread::current().id() {
                continue;
            }
            // A worker catches the panics of its tasks, so it has none of its own to report.
            let _ = thread.join();
        }
    }
}

impl Spawner {
    /// Whether a task waits for a thread.
    pub fn has_work(&self) -> bool {
        !self.0.queue().tasks.is_empty()
    }

    /// Whether a task waits for a thread, and all have something else to do.
    pub fn is_short(&self) -> bool {
        self.short_of() > 0
    }

    /// How many threads more the tasks that wait would need.
    pub fn short_of(&self) -> usize {
        let queue = self.0.queue();
        queue.tasks.len().saturating_sub(queue.idle)
    }

    /// Queues `task`. After the pool is gone it is dropped unrun.
    pub fn spawn(&self, task: impl FnOnce() + Send + 'static) {
        let queue = self.0.queue();
        self.push(queue, Box::new(task));
    }

    /// Queues `task` if a thread is there for it that has nothing to do.
    pub fn spawn_if_idle(&self, task: impl FnOnce() + Send + 'static) {
        let queue = self.0.queue();
        if queue.idle > queue.tasks.len() {
            self.push(queue, Box::new(task));
        }
    }

    fn push(&self, mut queue: MutexGuard<'_, Queue>, task: Task) {
        if !queue.closed {
            queue.tasks.push_back(task);
            drop(queue);
            self.0.more.notify_one();
        }
    }
}

impl Shared {
    // A task never runs under this lock, so a poisoned one is still whole.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut queue = self.queue();
            let task = loop {
                if let Some(task) = queue.tasks.pop_front() {
                    break task;
                }
                if queue.closed {
                    return;
                }
                queue.idle += 1;
                queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            };
            drop(queue);
            // What a panicking task held is dropped: its replies then answer EIO. The panic itself
            // has been printed by the hook.
            let _ = catch_unwind(AssertUnwindSafe(task));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_pool_is_short_when_tasks_wait_that_no_thread_is_there_for() {
        let pool = Pool::new("test", 2).unwrap();
        let spawner = pool.spawner();
        let (began, has_begun) = mpsc::channel();
        let releases: Vec<_> = (0..3)
            .map(|_| {
                let (release, released) = mpsc::channel::<()>();
                let began = began.clone();
                spawner.spawn(move || {
                    began.send(()).unwrap();
                    released.recv().unwrap();
                });
                release
            })
            .collect();
        has_begun.recv().unwrap();
        has_begun.recv().unwrap();
        assert!(spawner.is_short());
        releases[0].send(()).unwrap();
        has_begun.recv().unwrap();
        assert!(!spawner.is_short());
        releases[1..].iter().for_each(|release| release.send(()).unwrap());
    }

    #[test]
    fn a_dropped_pool_has_run_all_its_tasks() {
        let pool = Pool::new("test", 3).unwrap();
        let (sender, receiver) = mpsc::channel();
        for number in 0..100 {
            let sender = sender.clone();
            pool.spawner().spawn(move || sender.send(number).unwrap());
        }
        drop((pool, sender));
        assert_eq!(receiver.iter().collect::<std::collections::BTreeSet<_>>().len(), 100);
    }

    #[test]
    fn only_a_thread_with_nothing_to_do_takes_what_is_for_an_idle_one() {
        let pool = Pool::new("test", 1).unwrap();
        let (sender, receiver) = mpsc::channel();
        let (started, has_started) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        pool.spawner().spawn(move || {
            started.send(()).unwrap();
            ended.recv().unwrap();
        });
        has_started.recv().unwrap();
        let refused = sender.clone();
        pool.spawner().spawn_if_idle(move || refused.send("while it is busy").unwrap());
        end.send(()).unwrap();
        while pool.shared.queue().idle == 0 {
            thread::yield_now();
        }
        pool.spawner().spawn_if_idle(move || sender.send("when it is idle").unwrap());
        drop(pool);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), ["when it is idle"]);
    }

    #[test]
    fn a_panicking_task_does_not_take_its_thread_with_it() {
        let pool = Pool::new("test", 1).unwrap();
        let (sender, receiver) = mpsc::channel();
        pool.spawner().spawn(|| panic!("of the test"));
        pool.spawner().spawn(move || sender.send(()).unwrap());
        assert!(receiver.recv_timeout(std::time::Duration::from_secs(60)).is_ok());
    }

    #[test]
    fn a_spawner_outlives_its_pool_and_drops_tasks() {
        let pool = Pool::new("test", 1).unwrap();
        let spawner = pool.spawner();
        drop(pool);
        let (sender, receiver) = mpsc::channel::<()>();
        spawner.spawn(move || drop(sender));
        assert!(receiver.recv().is_err());
    }
}
