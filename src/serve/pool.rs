//! A bounded pool of threads with one queue.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use crate::sync::{Condvar, Mutex, MutexGuard};

type Task = Box<dyn FnOnce() + Send>;

/// Most threads of a pool. A pool grows while its threads are stuck in the source.
const MOST_THREADS: usize = 64;

/// How long dropping a pool waits for the next task to end. A task that is stuck in the source is
/// abandoned, and ends with the process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Threads that run tasks in the order in which these were queued. Dropping the pool runs the
/// queued tasks and waits for the threads.
pub(super) struct Pool {
    shared: Arc<Shared>,
    name: String,
    patience: Duration,
    /// The progress that [`Pool::relieve`] saw last.
    last: Mutex<Progress>,
}

/// The work that a pool has done so far. If it does not change, the threads are stuck.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Progress {
    done: u64,
    /// /proc/self/task/ID/schedstat of each thread. It does not change while the thread is stuck.
    used: Vec<String>,
}

/// Queues tasks in a pool. It does not keep the threads of the pool alive.
#[derive(Clone)]
pub(super) struct Spawner(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    /// Notified when a thread ends a task or exits, while the pool is being dropped.
    less: Condvar,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// Threads that wait for a task, or were woken for one of `tasks` and have not taken it yet.
    idle: usize,
    /// Threads that have not exited.
    threads: usize,
    /// The thread ids of the kernel. A thread adds its own when it starts.
    numbers: Vec<i32>,
    /// Tasks that have ended.
    done: u64,
    closed: bool,
}

impl Pool {
    /// Starts `threads` threads, or fewer if the system refuses more.
    ///
    /// # Errors
    /// When not even one thread can be started.
    pub(super) fn new(name: &str, threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            more: Condvar::new(),
            less: Condvar::new(),
        });
        let pool = Self { shared, name: name.into(), patience: PATIENCE, last: Mutex::default() };
        pool.start()?;
        for _ in 1..threads {
            if let Err(cause) = pool.start() {
                log::debug!("{name}: fewer than {threads} threads: {cause}");
                break;
            }
        }
        Ok(pool)
    }

    /// Another pool with the same threads. They end when either of the two pools is dropped.
    pub(super) fn alias(&self) -> Self {
        let (shared, name) = (self.shared.clone(), self.name.clone());
        Self { shared, name, patience: self.patience, last: Mutex::default() }
    }

    fn start(&self) -> io::Result<()> {
        let mut queue = self.shared.queue.lock();
        let shared = self.shared.clone();
        let name = format!("{}-{}", self.name, queue.threads);
        thread::Builder::new().name(name).spawn(move || shared.work())?;
        queue.threads += 1;
        Ok(())
    }

    /// Sets how long dropping the pool waits for the next task to end.
    pub(super) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(super) fn spawner(&self) -> Spawner {
        Spawner(self.shared.clone())
    }

    /// Starts another thread if tasks are waiting and, since the last call, no thread has finished
    /// a task or used processor time: all of them then wait for a source that hangs. While a
    /// decoder works, no thread is added: it would only take the decoder's core.
    pub(super) fn relieve(&self) {
        let queue = self.shared.queue.lock();
        let is_short = queue.tasks.len() > queue.idle && queue.threads < MOST_THREADS;
        let (done, numbers) = (queue.done, queue.numbers.clone());
        drop(queue);
        if !is_short {
            return;
        }
        let used = |number: &i32| {
            let path = format!("/proc/self/task/{number}/schedstat");
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let now = Progress { done, used: numbers.iter().map(used).collect() };
        let mut last = self.last.lock();
        if *last != now {
            *last = now;
        } else if let Err(cause) = self.start() {
            log::debug!("{}: no further thread: {cause}", self.name);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        self.shared.more.notify_all();
        // A task may have dropped the pool. The thread of that task exits by itself later.
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        let left = usize::from(queue.numbers.contains(&own));
        let mut before = (queue.threads, queue.done);
        while queue.threads > left {
            let timeout = self.shared.less.wait_for(&mut queue, self.patience);
            let now = (queue.threads, queue.done);
            if timeout.timed_out() && now == before {
                log::debug!("{}: {} threads do not end", self.name, now.0);
                return;
            }
            before = now;
        }
    }
}

impl Spawner {
    /// Whether a task waits for a thread.
    pub(super) fn has_work(&self) -> bool {
        !self.0.queue.lock().tasks.is_empty()
    }

    /// Whether a task waits for a thread, and all threads are busy.
    pub(super) fn is_short(&self) -> bool {
        self.short_of() > 0
    }

    /// How many of the waiting tasks have no idle thread to run them.
    pub(super) fn short_of(&self) -> usize {
        let queue = self.0.queue.lock();
        queue.tasks.len().saturating_sub(queue.idle)
    }

    /// Queues `task`. Once the pool has been dropped, drops `task` and does not run it.
    pub(super) fn spawn(&self, task: impl FnOnce() + Send + 'static) {
        let queue = self.0.queue.lock();
        self.push(queue, Box::new(task));
    }

    /// Queues `task` if there is an idle thread for it. Else drops it.
    pub(super) fn spawn_if_idle(&self, task: impl FnOnce() + Send + 'static) {
        let queue = self.0.queue.lock();
        if queue.idle > queue.tasks.len() {
            self.push(queue, Box::new(task));
        }
    }

    fn push(&self, mut queue: MutexGuard<'_, Queue>, task: Task) {
        if queue.closed {
            // The task is dropped after the lock is released: that may answer reads and close
            // files, which may queue other tasks.
            return drop(queue);
        }
        queue.tasks.push_back(task);
        drop(queue);
        self.0.more.notify_one();
    }
}

impl Shared {
    fn work(&self) {
        let number = rustix::thread::gettid().as_raw_nonzero().get();
        let mut queue = self.queue.lock();
        queue.numbers.push(number);
        loop {
            let task = loop {
                if let Some(task) = queue.tasks.pop_front() {
                    break task;
                }
                if queue.closed {
                    queue.threads -= 1;
                    self.less.notify_all();
                    return;
                }
                queue.idle += 1;
                self.more.wait(&mut queue);
                queue.idle -= 1;
            };
            drop(queue);
            // A panicking task drops its replies, which answers EIO. The panic hook has printed the
            // panic.
            let _ = catch_unwind(AssertUnwindSafe(task));
            queue = self.queue.lock();
            queue.done += 1;
            if queue.closed {
                self.less.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

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
        while pool.shared.queue.lock().idle == 0 {
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

    /// Queues a task that blocks until the sender is dropped, as a task does whose source hangs.
    fn stuck(pool: &Pool) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (began, has_begun) = mpsc::channel();
        pool.spawner().spawn(move || {
            began.send(()).unwrap();
            let _ = released.recv();
        });
        has_begun.recv().unwrap();
        release
    }

    #[test]
    fn a_pool_whose_threads_are_stuck_grows() {
        let pool = Pool::new("test", 1).unwrap();
        let _release = stuck(&pool);
        let (sender, receiver) = mpsc::channel();
        pool.spawner().spawn(move || sender.send(()).unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        while receiver.try_recv().is_err() {
            assert!(Instant::now() < deadline);
            pool.relieve();
            thread::yield_now();
        }
    }

    #[test]
    fn a_pool_grows_only_while_tasks_wait_and_to_a_bound() {
        let pool = Pool::new("test", 1).unwrap();
        let mut releases = vec![stuck(&pool)];
        (0..10).for_each(|_| pool.relieve());
        assert_eq!(pool.shared.queue.lock().threads, 1);
        for _ in 1..MOST_THREADS {
            let (release, released) = mpsc::channel::<()>();
            releases.push(release);
            pool.spawner().spawn(move || {
                let _ = released.recv();
            });
        }
        pool.spawner().spawn(|| ());
        let deadline = Instant::now() + Duration::from_secs(60);
        while pool.shared.queue.lock().threads < MOST_THREADS
            || pool.shared.queue.lock().tasks.len() > 1
        {
            assert!(Instant::now() < deadline);
            pool.relieve();
            thread::yield_now();
        }
        (0..10).for_each(|_| pool.relieve());
        assert_eq!(pool.shared.queue.lock().threads, MOST_THREADS);
        drop(releases);
    }

    #[test]
    fn a_pool_whose_thread_works_for_long_does_not_grow() {
        let pool = Pool::new("test", 1).unwrap();
        let (began, has_begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        pool.spawner().spawn(move || {
            began.send(()).unwrap();
            while released.try_recv() == Err(mpsc::TryRecvError::Empty) {
                std::hint::spin_loop();
            }
        });
        has_begun.recv().unwrap();
        pool.spawner().spawn(|| ());
        let number = pool.shared.queue.lock().numbers[0];
        let path = format!("/proc/self/task/{number}/schedstat");
        let used = || std::fs::read_to_string(&path).unwrap();
        for _ in 0..10 {
            pool.relieve();
            let before = used();
            let deadline = Instant::now() + Duration::from_secs(60);
            while used() == before {
                assert!(Instant::now() < deadline);
                thread::yield_now();
            }
        }
        assert_eq!(pool.shared.queue.lock().threads, 1);
        drop(release);
    }

    #[test]
    fn the_end_of_a_pool_does_not_wait_for_what_is_stuck() {
        let pool = Pool::new("test", 1).unwrap().with_patience(Duration::from_millis(20));
        let _release = stuck(&pool);
        drop(pool);
    }

    #[test]
    fn a_task_that_is_dropped_may_queue_another() {
        struct Again(Spawner, mpsc::Sender<()>);
        impl Drop for Again {
            fn drop(&mut self) {
                self.0.spawn(|| ());
                self.1.send(()).unwrap();
            }
        }
        let pool = Pool::new("test", 1).unwrap();
        let spawner = pool.spawner();
        drop(pool);
        let (sender, receiver) = mpsc::channel();
        // In a thread of its own, because it would wait for ever under the lock of the pool.
        thread::spawn(move || {
            let again = Again(spawner.clone(), sender);
            spawner.spawn(move || drop(again));
        });
        assert!(receiver.recv_timeout(Duration::from_secs(60)).is_ok());
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
