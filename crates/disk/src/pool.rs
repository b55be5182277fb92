//! A few threads for calls that block.
//!
//! Jobs run in the order in which they were given, as far as threads are free. Dropping the pool forgets the jobs
//! that have not started (like a crash would) and waits for those that have.

use crate::wake::Wake;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

type Job<T> = Box<dyn FnOnce() -> T + Send>;

pub(crate) struct Pool<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    work: Condvar,
    wake: Arc<Wake>,
}

struct State<T> {
    jobs: VecDeque<Job<T>>,
    results: Vec<T>,
    closed: bool,
}

impl<T: Send + 'static> Pool<T> {
    pub(crate) fn new(name: &str, threads: u32, wake: Arc<Wake>) -> io::Result<Pool<T>> {
        let state = State { jobs: VecDeque::new(), results: Vec::new(), closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), wake });
        let mut pool = Pool { shared, threads: Vec::new() };
        for n in 0..threads {
            let shared = Arc::clone(&pool.shared);
            pool.threads.push(Builder::new().name(format!("{name}-{n}")).spawn(move || work(&shared))?);
        }
        Ok(pool)
    }

    /// Runs `job` on a thread; its result appears in [`Pool::results`].
    pub(crate) fn run(&self, job: impl FnOnce() -> T + Send + 'static) {
        self.shared.lock().jobs.push_back(Box::new(job));
        self.shared.work.notify_one();
    }

    /// Takes what has ended.
    pub(crate) fn results(&self) -> Vec<T> {
        std::mem::take(&mut self.shared.lock().results)
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing panics while it holds the lock, so the state is whole even if the mutex says otherwise.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work<T>(shared: &Shared<T>) {
    loop {
        let job = {
            let mut state = shared.lock();
            loop {
                if state.closed {
                    return;
                }
                if let Some(job) = state.jobs.pop_front() {
                    break job;
                }
                state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let result = job();
        shared.lock().results.push(result);
        shared.wake.signal();
    }
}

impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has told why; there is nothing to add while we go down.
            let _ = thread.join();
        }
    }
}
