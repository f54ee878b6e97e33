//! Threads that links run on.
//!
//! A line goes through five tasks, from the shim's socket to the server's pipe, each of which does next to nothing. Where tasks
//! wander between threads, what such a line costs is that threads wake each other: on one thread it is a fifth of that.

use std::{
    sync::mpsc::{Sender, channel},
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// Threads, at most: a link is busy with copying.
const MOST: usize = 4;

/// They end when this is dropped, and what still runs on them is dropped then: what the store does beside its answers to links,
/// too. So they go after the store.
#[must_use = "it is to be dropped when the store is closed"]
pub struct Threads {
    threads: Vec<Thread>,
    next: usize,
}

struct Thread {
    handle: Handle,
    /// Dropped: end.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Threads {
    /// As many as there are cores, within reason.
    pub(super) fn new() -> Self {
        let wanted = thread::available_parallelism().map_or(1, usize::from).min(MOST);
        Self { threads: (0..wanted).map_while(|_| Thread::start()).collect(), next: 0 }
    }

    /// Where the next link is to run: on each in turn; where none could be started, on the caller's.
    pub(super) fn next(&mut self) -> Handle {
        self.next = self.next.wrapping_add(1);
        let at = self.next.checked_rem(self.threads.len());
        let thread = at.and_then(|at| self.threads.get(at));
        thread.map_or_else(Handle::current, |thread| thread.handle.clone())
    }
}

impl Thread {
    fn start() -> Option<Self> {
        let (end, ended) = oneshot::channel::<()>();
        let (say, said): (Sender<Handle>, _) = channel();
        let run = move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return tracing::warn!(%error, "a thread for links has no runtime"),
            };
            if say.send(runtime.handle().clone()).is_ok() {
                // Nothing is ever sent.
                let _ = runtime.block_on(ended);
                // A name that is being looked up is not waited for.
                runtime.shutdown_background();
            }
        };
        let thread = thread::Builder::new().name("mcp-links".to_owned()).spawn(run);
        let thread =
            thread.inspect_err(|error| tracing::warn!(%error, "a thread for links could not be started")).ok()?;
        let handle = said.recv().ok()?;
        Some(Self { handle, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked is over, too.
            let _ = thread.join();
        }
    }
}
